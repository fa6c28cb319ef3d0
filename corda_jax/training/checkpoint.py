"""Checkpoints: the newest and the best by target mIoU, written atomically in the background."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from corda_jax.errors import UserError

# Parts of a configuration that a run may change when it is resumed: they touch no number of it.
_FREE_FIELDS = frozenset(
  {"log_every", "evaluate_every", "checkpoint_every", "keep_best", "evaluation", "data"}
)


class Checkpoints:
  """The checkpoints of one run, in `workdir/checkpoints`.

  Args:
    workdir: folder of the run.
    keep_best: how many checkpoints are kept for their mIoU, beside the newest.
  """

  def __init__(self, workdir: Path, *, keep_best: int = 1):
    """Opens the folder, creating it if needed."""
    # `best_fn` with `max_to_keep` would delete the newest step; policies say what stays.
    policies = [LatestN(1)]
    if keep_best:
      policies.append(
        BestN(
          get_metric_fn=lambda metrics: metrics["miou"],
          n=keep_best,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._manager = ocp.CheckpointManager(
      (Path(workdir) / "checkpoints").absolute(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy(policies),
        best_fn=lambda metrics: metrics["miou"],
        cleanup_tmp_directories=True,  # what a killed run left half-written
      ),
    )

  def save(self, step: int, state: Any, *, miou: float | None) -> None:
    """Starts writing `state`; a checkpoint appears under its name when it is whole."""
    metrics = None if miou is None else {"miou": miou}
    self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

  def latest_step(self) -> int | None:
    """Step of the newest whole checkpoint, or None."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Step of the whole checkpoint with the best mIoU, or None."""
    return self._manager.best_step()

  def restore(self, step: int, like: Any) -> Any:
    """Reads the checkpoint of `step`.

    Args:
      step: of `latest_step` or `best_step`.
      like: a pytree of arrays or ShapeDtypeStructs with shardings, of the wanted structure.

    Raises:
      UserError: the checkpoint holds other arrays than `like`.
    """
    try:
      return self._manager.restore(step, args=ocp.args.StandardRestore(like))
    except (ValueError, KeyError) as error:
      first = str(error).strip().splitlines()[0]
      raise UserError(
        f"checkpoint {step} in {self._manager.directory} does not fit this configuration: {first}; "
        "use the configuration that wrote it or another --workdir"
      ) from error

  def close(self) -> None:
    """Waits for writes under way."""
    self._manager.wait_until_finished()
    self._manager.close()


def record_config(workdir: Path, config: Mapping[str, Any]) -> None:
  """Writes `workdir/config.json`, or checks the one that is there.

  Raises:
    UserError: the run in `workdir` was started with another configuration; names the fields.
  """
  path = Path(workdir) / "config.json"
  new = _flatten(json.loads(json.dumps(config)))
  if path.exists():
    old = _flatten(json.loads(path.read_text()))
    differing = sorted(
      name
      for name in old.keys() | new.keys()
      if name.split(".")[0] not in _FREE_FIELDS and old.get(name) != new.get(name)
    )
    if differing:
      changes = ", ".join(f"{n} ({old.get(n)} → {new.get(n)})" for n in differing)
      raise UserError(
        f"{workdir} holds a run with another configuration: {changes}; "
        "restore these values or choose another --workdir"
      )
  if jax.process_index() == 0:
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    partial.replace(path)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat
