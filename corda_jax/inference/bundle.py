"""Inference bundles: a trained network as StableHLO that needs only JAX and NumPy to run.

`--mode=export` writes a bundle (export.py); this module reads it. Reading runs no code of the
bundle except the arithmetic of its program: arrays are read without pickle, and a program with
external calls is refused. The example in a bundle is ordinary code: for an untrusted bundle, use
the example of a bundle of your own.
"""

import dataclasses
import functools
import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from corda_jax.errors import UserError, first_line

FORMAT = 1
INFORMATION, CHECKSUMS = "bundle.json", "checksums.json"
PROGRAM, VARIABLES, CHECKPOINT, EXAMPLE = (
  "model.stablehlo",
  "variables.npz",
  "orbax",
  "example.py",
)

# Custom calls in exported programs: a check of input sizes, which calls nothing.
_ALLOWED_CALLS = {"shape_assertion"}
_CALL = re.compile(r"custom_call\s*@([\w.$-]+|\"[^\"]*\")|call_target_name\s*=\s*\"([^\"]*)\"")


@dataclasses.dataclass(frozen=True)
class Bundle:
  """A network read from a bundle, with its metadata.

  Attributes:
    information: contents of `bundle.json`: "classes" (names, colours, label ids of Cityscapes),
      "step", "network", "smallest_size", "trained_height" and so on.
    variables: parameters and batch statistics by name.
    program: exported program of the network.
  """

  information: Mapping[str, Any]
  variables: Mapping[str, np.ndarray]
  program: jax_export.Exported

  @functools.cached_property
  def _call(self) -> Callable[[np.ndarray], dict[str, jax.Array]]:
    """The compiled program; it compiles once per image size, and the variables are moved once."""
    return functools.partial(jax.jit(self.program.call), jax.device_put(dict(self.variables)))

  def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
    """Predicts images.

    Args:
      images: uint8 RGB [B, H, W, 3]; each side has `smallest_size` pixels or more. The network was
        trained on images of `trained_height` rows. If the bundle has a `size`, (rows, columns), the
        images have exactly that.

    Returns:
      "label" uint8 [B, H, W], training ids; "logits" float32 [B, h, w, C] at the network's output
      stride, unless it works in windows; float32 [B, H, W] "inverse_depth" of networks with depth
      heads, or of the depth that is their input, and with depth heads "difficulty".

    Raises:
      ValueError: the images have another type or shape, or another size than is expected.
    """
    images, smallest = np.asarray(images), self.information["smallest_size"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
      raise ValueError(f"got images {images.dtype} {images.shape}, expected uint8 [B, H, W, 3]")
    size = self.information.get("size")
    if size is not None and images.shape[1:3] != tuple(size):
      raise ValueError(
        f"got images {images.shape}, expected {size[1]}x{size[0]} pixels: resize them"
      )
    if not len(images) or min(images.shape[1:3]) < smallest:
      raise ValueError(f"got images {images.shape}, expected {smallest} pixels a side or more")
    return jax.device_get(self._call(images))


def read_bundle(folder: Path) -> Bundle:
  """Reads a bundle and checks that it is intact.

  Args:
    folder: folder that `--mode=export` wrote.

  Raises:
    UserError: it is not a bundle, a file is changed or missing, or its program has external calls.
  """
  folder = Path(folder)
  try:
    checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    information = json.loads((folder / INFORMATION).read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(
      f"{folder} is no bundle ({error}): name a folder that --mode=export wrote"
    ) from error
  if not isinstance(checksums, dict) or not isinstance(information, dict):
    raise UserError(f"{folder} is no bundle: name a folder that --mode=export wrote")
  if information.get("format") != FORMAT:
    raise UserError(
      f"{folder} has format {information.get('format')!r}, expected {FORMAT}: read it with the "
      "version of corda_jax that wrote it"
    )
  if (damage := _damage(folder, checksums)) is not None:
    raise UserError(f"the bundle {folder} is damaged: {damage}; export it again or copy it again")
  if (lacking := _lacking(information)) is not None:
    raise UserError(f"the bundle {folder} is damaged: {INFORMATION} {lacking}")
  program = _read_program(folder / PROGRAM)
  try:
    (arguments, _) = jax.tree_util.tree_unflatten(program.in_tree, program.in_avals)
    expected = {name: (x.shape, x.dtype) for name, x in arguments[0].items()}
  except (AttributeError, IndexError, TypeError, ValueError) as error:
    raise UserError(f"{folder / PROGRAM} is refused: it is not a program of a bundle") from error
  return Bundle(information, _read_variables(folder / VARIABLES, expected), program)


def _lacking(information: Mapping[str, Any]) -> str | None:
  """Describes what `bundle.json` lacks; None if it is complete."""
  for name in ("smallest_size", "trained_height"):
    value = information.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      return f"has {value!r} as {name}, expected a whole number of pixels"
  size = information.get("size")
  whole = isinstance(size, list) and [type(n) for n in size] == [int, int]
  if size is not None and not whole:
    return f"has {size!r} as size, expected rows and columns"
  classes = information.get("classes")
  if not isinstance(classes, dict) or not isinstance(classes.get("names"), list):
    return "has no list of classes"
  return None


def _damage(folder: Path, checksums: Mapping[str, Any]) -> str | None:
  """Describes the damage to the files; None if they are intact."""
  found = checksums_of(folder)
  for name in (INFORMATION, PROGRAM, VARIABLES):
    if name not in checksums:
      return f"{CHECKSUMS} lacks {name}"
  for name, expected in sorted(checksums.items()):
    if name not in found:
      return f"{name} is missing"
    if found[name] != expected:
      return f"{name} is changed"
  return None


def checksums_of(folder: Path) -> dict[str, str]:
  """SHA-256 of all files of a bundle except the checksums, by relative path; skips links."""
  found = {}
  for path in sorted(folder.rglob("*")):
    name = path.relative_to(folder).as_posix()
    if path.is_file() and not path.is_symlink() and name != CHECKSUMS:
      with open(path, "rb") as file:
        found[name] = hashlib.file_digest(file, "sha256").hexdigest()
  return found


def _read_variables(path: Path, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Reads the arrays if their names, shapes and types are those that the program needs."""
  try:
    with zipfile.ZipFile(path) as archive:
      found = {name.removesuffix(".npy"): _shape(archive, name) for name in archive.namelist()}
    if found != expected:  # before reading: they may have any size
      name = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))[0]
      raise UserError(
        f"{path} does not fit {PROGRAM}: the arrays differ, for example {name} is "
        f"{found.get(name, 'missing')}, expected {expected.get(name, 'none')}"
      )
    with np.load(path, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except UserError:
    raise
  except Exception as error:  # any error of NumPy about a damaged archive or one of objects
    reason = first_line(error)
    raise UserError(f"{path} cannot be read ({reason})") from error


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
  """Shape and type of an array, from its header."""
  with archive.open(name) as file:
    version = np.lib.format.read_magic(file)
    read = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, _, dtype = read[version](file)
  return shape, dtype


def _read_program(path: Path) -> jax_export.Exported:
  try:
    program = jax_export.deserialize(bytearray(path.read_bytes()))
    text = program.mlir_module()
  except Exception as error:  # its readers raise any error
    reason = first_line(error)
    raise UserError(
      f"{path} cannot be read by JAX {jax.__version__} ({reason}): docs/exporting.md says which "
      "versions read it"
    ) from error
  called = {(a or b).strip('"') for a, b in _CALL.findall(text)}
  if foreign := sorted(called - _ALLOWED_CALLS):
    raise UserError(f"{path} is refused: its program makes the external call {foreign[0]!r}")
  return program
