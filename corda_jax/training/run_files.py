"""Files of a run other than its checkpoints: configuration, code version, results."""

import importlib.metadata
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from corda_jax.atomic_io import atomic_write, check_links
from corda_jax.configuration import flatten, free_fields
from corda_jax.errors import UserError
from corda_jax.training.settings import Running

_PACKAGES = ("corda_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def has_checkpoints(workdir: Path) -> bool:
  """Whether the run in `workdir` has a complete checkpoint; creates nothing."""
  return bool(whole_checkpoints(workdir))


def whole_checkpoints(workdir: Path) -> list[int]:
  """Steps of the complete checkpoints of the run in `workdir`, ascending; creates nothing.

  Raises:
    UserError: their folder is a link whose target does not exist.
  """
  folder = Path(workdir) / "checkpoints"
  check_links(folder)
  names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def check_writable(workdir: Path) -> None:
  """Creates the folder of a run if needed; raises UserError if it is not writable."""
  if ":/" in os.fspath(workdir):  # Path shortens "gs://…" to one slash
    raise UserError(
      f"--workdir={workdir} is not a local folder, and checkpoints are written to a mounted disk: "
      "mount the bucket (gcsfuse, s3fs) and name that folder"
    )
  for folder in ("checkpoints", "pictures", "tensorboard"):
    check_links(Path(workdir) / folder)
  try:
    Path(workdir).mkdir(parents=True, exist_ok=True)
    # A unique name: several processes check at once, and in containers all have process id 1.
    tempfile.TemporaryFile(dir=workdir).close()
  except OSError as error:
    raise UserError(
      f"--workdir={workdir} cannot be written ({error.strerror}): name a writable folder"
    ) from error


def check_config(
  workdir: Path, config: Mapping[str, Any], *, parts: Sequence[str] | None = None
) -> None:
  """Compares a configuration with that of the run in `workdir`, if it has a checkpoint.

  Args:
    workdir: folder of the run.
    config: the whole configuration.
    parts: prefixes of the fields to compare, such as "model."; None: all fields. Fields that are
      `free` are never compared.

  Raises:
    UserError: they differ, and the message names the fields; or there are checkpoints but no
      configuration.
  """
  if has_checkpoints(workdir):  # without one, nothing depends on the old configuration
    matter = tuple(parts) if parts is not None else ("",)
    _check_same(workdir, config, "a run with", matter)


def check_results(workdir: Path, config: Mapping[str, Any]) -> None:
  """Compares a configuration with that of the results in `workdir`, with or without checkpoints.

  Args:
    workdir: folder of a finished run.
    config: the whole configuration.

  Raises:
    UserError: fields differ that affect training or evaluation; the message names them.
  """
  _check_same(workdir, config, "results of", ("",), also=("evaluation.", "initial_weights"))


def _check_same(
  workdir: Path,
  config: Mapping[str, Any],
  what: str,
  parts: tuple[str, ...],
  *,
  also: tuple[str, ...] = (),
) -> None:
  """Raises UserError if fields differ that are in `parts` and not free, or free and in `also`."""
  old, new = (flatten(tree) for tree in (read_config(workdir), _as_json(config)))
  free = tuple(free_fields(config, Running))

  def matters(name):
    is_free = any(name == each or name.startswith(each + ".") for each in free)
    return name.startswith(also) if is_free and also else not is_free and name.startswith(parts)

  differing = [
    f"{name} ({old.get(name)} → {new.get(name)})"
    for name in sorted(old.keys() | new.keys())
    if matters(name) and old.get(name) != new.get(name)
  ]
  if differing:
    raise UserError(
      f"{workdir} holds {what} another configuration: {', '.join(differing)}; restore these values "
      "or choose another --workdir"
    )


def record_config(workdir: Path, config: Mapping[str, Any]) -> None:
  """Writes `workdir/config.json` atomically, and adds the code version to `workdir/code.json`.

  The latter has one entry for each version of the code that trained the run: versions of packages,
  the commit (in a checkout), and the step from which that version was used.
  """
  if jax.process_index() > 0:
    return
  write_json(Path(workdir) / "config.json", config)
  path = Path(workdir) / "code.json"
  try:
    codes = [entry for entry in json.loads(path.read_text())["code"] if isinstance(entry, dict)]
  except (OSError, ValueError, KeyError, TypeError):
    codes = []
  code = code_version()
  if not codes or {**codes[-1], "from_step": None} != {**code, "from_step": None}:
    step = max(whole_checkpoints(workdir), default=0)
    write_json(path, {"code": [*codes, code | {"from_step": step}]})


def code_version() -> dict[str, Any]:
  """Versions of this package and of those that its numbers depend on, and its commit or None."""
  return {name: _version(name) for name in _PACKAGES} | {"commit": _commit()}


def _version(package: str) -> str | None:
  """Version of an installed package, or None."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _commit() -> str | None:
  """Commit of this checkout, with "-dirty" if tracked files are modified."""
  folder = Path(__file__).resolve().parents[2]
  if not (folder / ".git").exists():
    return None
  command = ["git", "-C", os.fspath(folder), "describe", "--always", "--dirty", "--abbrev=40"]
  try:
    found = subprocess.run(
      [*command, "--exclude=*"], capture_output=True, text=True, timeout=30, check=True
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return found.stdout.strip()


def read_config(workdir: Path) -> dict[str, Any]:
  """Configuration of the run in `workdir`, as `record_config` wrote it, with lists for tuples.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = Path(workdir) / "config.json"
  try:
    config = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(
      f"{path} cannot be read ({reason}): name the folder of a run, or restore the file from a copy"
    ) from error
  if not isinstance(config, dict):
    raise UserError(f"{path} is no configuration, expected a JSON object: restore it from a copy")
  return config


def read_json(path: Path) -> dict[str, Any] | None:
  """The object in a JSON file; None if the file is missing or holds no object."""
  try:
    value = json.loads(Path(path).read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError):
    return None
  return value if isinstance(value, dict) else None


def read_json_lines(path: Path) -> list[dict[str, Any]]:
  """The objects of a JSON-lines file; truncated or invalid lines are skipped."""
  try:
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
  except (FileNotFoundError, NotADirectoryError):
    return []
  found = []
  for line in lines:
    try:
      value = json.loads(line)
    except (ValueError, RecursionError):
      continue
    if isinstance(value, dict):
      found.append(value)
  return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
  """Writes `value` to `path` atomically; non-finite numbers become null."""
  write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
  """Writes `text` to `path` atomically."""
  with atomic_write(path) as partial, open(partial, "w", encoding="utf-8") as file:
    file.write(text)


def finite(value: Any) -> Any:
  """`value` with None in place of NaN and infinities, which JSON lacks."""
  if isinstance(value, Mapping):
    return {name: finite(each) for name, each in value.items()}
  if isinstance(value, list | tuple):
    return [finite(each) for each in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
  """The configuration as it is read back from JSON, with lists for tuples."""
  config = config.to_dict() if hasattr(config, "to_dict") else config
  return json.loads(json.dumps(config))
