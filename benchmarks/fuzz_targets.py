"""What `benchmarks.fuzz` feeds malformed inputs to, and what it holds the answers against."""

import ast
import hashlib
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import config_flags

from benchmarks.fuzz_files import Cameras, DepthPngs, Images, StateDicts
from benchmarks.fuzz_outcomes import KIND, RIGHT, WRONG, Input, Target
from benchmarks.mutations import mutate_bytes, mutate_text
from corda_jax.configuration import flatten
from corda_jax.errors import UserError
from corda_jax.inference import bundle
from corda_jax.jobs.validate import validate
from corda_jax.main_flags import parse_flags


class Overrides:
  """--config.FIELD=VALUE on the command line, and the checks of a configuration."""

  errors = (UserError,)

  def __init__(self, folder: Path):
    """Reads the demo's fields."""
    self._folder = folder
    self._fields = flatten(_parsed([]).to_dict())

  def make(self, random: random.Random) -> Input:
    """One to three overrides, some of fields that there are not."""
    arguments = []
    for _ in range(random.randint(1, 3)):
      field = random.choice(sorted(self._fields))
      if random.random() < 0.15:
        field = mutate_text(field, random)
      value = mutate_text(random.choice(self._values(field)), random)
      if random.random() < 0.05:
        value = f"__import__('pathlib').Path({str(self._folder / 'run')!r}).touch()"
      arguments.append(f"--config.{field}={value}")
    return Input(arguments, False)

  def _values(self, field: str) -> list[str]:
    values = [str(self._fields.get(field, "1")), "1", "-1", "0.5", "1e400", "nan", "True", "None"]
    return [*values, "", "()", "(1.0,)", "(1, (2, 3))", "{}", "road", "7" * 400, "(" * 3_000]

  def read(self, value: list[str]) -> Any:
    """As main reads them, up to where data would be provided."""
    config = _parsed(value)
    validate(config)
    return config

  def judge(self, found: Any, made: Input) -> str:
    """Every field as its last override says, or as it was, of the type that it had."""
    if (self._folder / "run").exists():  # something was
      return WRONG
    given: dict[str, list[str]] = {}
    for argument in made.value:
      name, text = argument.removeprefix("--config.").split("=", 1)
      given.setdefault(name, []).append(text)
    changed = flatten(found.to_dict())
    right = changed.keys() == self._fields.keys() and all(
      _same_type(changed[name], before)
      and (
        _means(given[name], changed[name])
        if name in given
        else changed[name] == before or any(each.startswith(f"{name}[") for each in given)
      )
      for name, before in self._fields.items()
    )
    return RIGHT if right else WRONG


class Bundles:
  """Bundles of --mode=export: their list of checksums matches, as a stranger's would."""

  errors = (UserError,)

  def __init__(self, folder: Path):
    """Exports a small function as a bundle."""
    import jax
    from jax import export

    self._folder = folder / "bundle"
    self._folder.mkdir()
    shape = export.symbolic_shape("b, h, w, 3")
    exported = export.export(jax.jit(lambda v, x: {"label": x[..., 0] + v["bias"]}))(
      {"bias": jax.ShapeDtypeStruct((1,), np.uint8)}, jax.ShapeDtypeStruct(shape, np.uint8)
    )
    written = io.BytesIO()
    np.savez(written, bias=np.ones(1, np.uint8))
    told = {"format": bundle.FORMAT, "smallest_size": 1, "trained_height": 1}
    told["classes"] = {"names": ["road"]}
    self._good = {
      bundle.PROGRAM: bytes(exported.serialize()),
      bundle.VARIABLES: written.getvalue(),
      bundle.INFORMATION: json.dumps(told).encode(),
    }

  def make(self, random: random.Random) -> Input:
    """One of the files changed."""
    # The program's own reader is a part of JAX, and ends the process at some bytes: see
    # docs/exporting.md. So it is changed only where the checksums tell.
    name = random.choice((bundle.VARIABLES, bundle.INFORMATION, bundle.CHECKSUMS, bundle.PROGRAM))
    files = dict(self._good)
    sums = {each: _sha256(contents) for each, contents in files.items()}
    if name in files:
      files[name] = mutate_bytes(files[name], random)
      told = name != bundle.PROGRAM and random.random() < 0.7
      sums[name] = _sha256(files[name]) if told else sums[name]
    files[bundle.CHECKSUMS] = json.dumps(sums).encode()
    if name == bundle.CHECKSUMS:
      files[name] = mutate_bytes(files[name], random)
    return Input(files, name != bundle.VARIABLES)

  def read(self, value: Mapping[str, bytes]) -> Any:
    """As a user reads one."""
    for name, contents in value.items():
      (self._folder / name).write_bytes(contents)
    return bundle.read_bundle(self._folder)

  def judge(self, found: bundle.Bundle, made: Input) -> str:
    """A variable of the promised type, and, where no checksum was mended, the good one."""
    bias = found.variables["bias"]
    side = found.information["smallest_size"]  # which is told, not proved
    if side <= 64:
      label = found.predict(np.zeros((1, side, side, 3), np.uint8))["label"]
      if label.shape != (1, side, side) or (label != bias).any():
        return WRONG
    if bias.dtype != np.uint8 or bias.shape != (1,):
      return WRONG
    if bias[0] != 1:
      return WRONG if made.same else KIND
    return RIGHT


TARGETS: dict[str, Callable[[Path], Target]] = {
  "state dicts": StateDicts,
  "depth PNGs": DepthPngs,
  "camera JSON": Cameras,
  "images to predict": Images,
  "config overrides": Overrides,
  "bundles": Bundles,
}


def _parsed(arguments: list[str]) -> Any:
  values, line = flags.FlagValues(), ["main", "--config=configs/demo.py", *arguments]
  holder = config_flags.DEFINE_config_file(
    "config", None, "Configuration file.", flag_values=values, lock_config=True, sys_argv=line
  )
  positional = parse_flags(line, values)
  if len(positional) > 1:
    raise UserError(f"unknown argument {positional[1]!r}: flags begin with --")
  return holder.value


def _same_type(value: Any, before: Any) -> bool:
  if isinstance(before, tuple | list):
    return isinstance(value, tuple | list)
  if isinstance(before, float):
    return isinstance(value, float | int) and not isinstance(value, bool)
  return type(value) is type(before)


def _means(texts: Sequence[str], value: Any) -> bool:
  """Whether a value of the configuration is what its texts on the command line say, the last."""
  if isinstance(value, tuple | list):  # which take in all of them
    return list(value) == [each for text in texts for each in _items(text)]
  text = texts[-1]
  if isinstance(value, str):
    return value == text
  if isinstance(value, bool):
    return text.lower() in (("true", "t", "1") if value else ("false", "f", "0"))
  if isinstance(value, int):
    return value == int(text, 0 if text.strip().lower().startswith(("0x", "0o")) else 10)
  return value == float(text)


def _items(text: str) -> list[Any]:
  """What a tuple is made of by a text: the items of a literal, or the literal or text itself."""
  try:
    literal = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    literal = text
  return list(literal) if isinstance(literal, tuple | list | dict | set) else [literal]


def _sha256(contents: bytes) -> str:
  return hashlib.sha256(contents).hexdigest()
