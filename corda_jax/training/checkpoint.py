"""Checkpoints: the newest and the best by score, written atomically in the background."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from corda_jax.errors import UserError

# What a resumed run may change: fields that touch no number of its training.
_FREE_FIELDS = (
  "initial_",  # weights: read once, before the first step; elsewhere the file has another path
  "log_every",
  "evaluate_every",
  "checkpoint_every",
  "keep_best",
  "evaluation.",
  "label_depth.",
  "compute.one_student_pass",
  "compute.rematerialize",
  "compute.shard_state",
  "data.classes.colors",
  "data.records_dir",
  "data.source.root",
  "data.target.root",
  "data.source.depth_root",
  "data.target.depth_root",
  "data.prepare_processes",
  "data.reader_threads",
  "data.evaluation_batch_size",
)

# Fields that came later: a run without them was made with these values.
_ADDED_FIELDS = {
  "compute.matmul_precision": "default",
  "model.batch_norm_group": 0,
}


class Checkpoints:
  """The checkpoints of one run, in `workdir/checkpoints`.

  Args:
    workdir: folder of the run.
    keep_best: how many checkpoints are kept for their score, beside the newest.
  """

  def __init__(self, workdir: Path, *, keep_best: int = 1):
    """Opens the folder, creating it if needed."""
    # `best_fn` with `max_to_keep` would delete the newest step; policies say what stays.
    policies = [LatestN(1)]
    if keep_best:
      policies.append(
        BestN(
          get_metric_fn=lambda metrics: metrics["score"],
          n=keep_best,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._manager = ocp.CheckpointManager(
      (Path(workdir) / "checkpoints").absolute(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy(policies),
        best_fn=lambda metrics: metrics["score"],
        cleanup_tmp_directories=True,  # what a killed run left half-written
      ),
    )

  def save(self, step: int, state: Any, *, score: float | None) -> None:
    """Starts writing `state`; a checkpoint appears under its name when it is whole.

    Args:
      step: its number.
      state: any pytree of arrays.
      score: larger is better; None where the state was not evaluated. One that is not finite counts
        as none: sorted, NaN would be the best.
    """
    metrics = None if score is None or not math.isfinite(score) else {"score": score}
    with self._told(), _no_warnings() if metrics is None else contextlib.nullcontext():
      self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

  def latest_step(self) -> int | None:
    """Step of the newest whole checkpoint, or None."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Step of the whole checkpoint with the best score, or None."""
    return self._manager.best_step()

  def restore(self, step: int, like: Any) -> Any:
    """Reads the checkpoint of `step`.

    Args:
      step: of `latest_step` or `best_step`.
      like: a pytree of arrays or ShapeDtypeStructs with shardings, of the wanted structure.

    Raises:
      UserError: the checkpoint is damaged, or holds other arrays than `like`.
    """
    with self._damage_told(step):
      return self._manager.restore(step, args=ocp.args.StandardRestore(like))

  def restore_arrays(self, step: int) -> dict[str, Any]:
    """Whatever the checkpoint of `step` holds, as nested dictionaries of NumPy arrays.

    Raises:
      UserError: the checkpoint is damaged.
    """
    with self._damage_told(step), _no_warnings(), ocp.PyTreeCheckpointer() as reader:
      folder = self._manager.directory / str(step) / "default"
      tree = reader.metadata(folder).item_metadata.tree
      kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
      return reader.restore(folder, restore_args=kinds)

  @contextlib.contextmanager
  def _damage_told(self, step: int) -> Iterator[None]:
    """Turns what the library raises at a damaged checkpoint into one line."""
    try:
      yield
    except (ValueError, KeyError, OSError) as error:
      folder = self._manager.directory / str(step)
      raise UserError(
        f"the checkpoint {folder} is damaged or of another network ({_first_line(error)}): delete "
        "that folder to use the one before, or give the configuration that wrote it"
      ) from error

  def close(self) -> None:
    """Waits for writes under way.

    Raises:
      UserError: a checkpoint could not be written.
    """
    with self._told():
      self._manager.wait_until_finished()
      self._manager.close()

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    """Turns what a full or lost disk makes the library raise into one line."""
    try:
      yield
    except (OSError, ValueError, RuntimeError) as error:
      raise UserError(
        f"a checkpoint in {self._manager.directory} cannot be written ({_first_line(error)}): make "
        "room or mend the disk; the same command goes on from the newest whole one"
      ) from error


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
  """Orbax warns of every checkpoint without a score, and of more that is meant here."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


def _first_line(error: Exception) -> str:
  return next(iter(str(error).strip().splitlines()), type(error).__name__)


def has_checkpoints(workdir: Path) -> bool:
  """Whether the run in `workdir` has a whole checkpoint; creates nothing."""
  folder = Path(workdir) / "checkpoints"
  return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def check_config(
  workdir: Path, config: Mapping[str, Any], *, parts: Sequence[str] | None = None
) -> None:
  """Compares a configuration with that of the run in `workdir`, if there is a checkpoint of one.

  Args:
    workdir: folder of the run.
    config: the whole configuration.
    parts: what the names of fields that matter begin with, such as "model."; None: all fields that
      touch the numbers of training.

  Raises:
    UserError: they differ; names the fields.
  """
  path = Path(workdir) / "config.json"
  if not (path.exists() and has_checkpoints(workdir)):
    return  # nothing was made with the other configuration
  old, new = (_flatten(tree) for tree in (json.loads(path.read_text()), _as_json(config)))
  old = {name: value for name, value in _ADDED_FIELDS.items() if name in new} | old
  differing = [
    f"{name} ({old.get(name)} → {new.get(name)})"
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name)
    and not name.startswith(_FREE_FIELDS)
    and (parts is None or name.startswith(tuple(parts)))
  ]
  if differing:
    raise UserError(
      f"{workdir} holds a run with another configuration: {', '.join(differing)}; restore these "
      "values or choose another --workdir"
    )


def record_config(workdir: Path, config: Mapping[str, Any]) -> None:
  """Writes `workdir/config.json`, whole or not at all."""
  if jax.process_index() == 0:
    write_json(Path(workdir) / "config.json", config)


def read_config(workdir: Path) -> dict[str, Any]:
  """The configuration of the run in `workdir`, as `record_config` wrote it; tuples are lists.

  Raises:
    UserError: there is none, or it is damaged.
  """
  path = Path(workdir) / "config.json"
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read ({error}): name the folder of a run") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
  """Writes `value` to `path` whole or not at all; numbers that are not finite as null."""
  partial = path.with_name(path.name + ".partial")
  partial.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")
  partial.replace(path)


def _finite(value: Any) -> Any:
  """The same with None in place of NaN and infinities, which JSON does not know."""
  if isinstance(value, Mapping):
    return {name: _finite(each) for name, each in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(each) for each in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
  """The configuration as a JSON file gives it back: tuples are lists."""
  return json.loads(json.dumps(config))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat
