"""Reads the state of a run that was trained before."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corda_jax.errors import UserError
from corda_jax.retries import Retries
from corda_jax.training.checkpoint import Checkpoints, best_checkpoint
from corda_jax.training.run_files import whole_checkpoints


def restore_state(task: Any, workdir: Path) -> Any:
  """The state of the checkpoint that `evaluation.checkpoint` names, if it is as it was written.

  In place of a damaged one that is the latest, the one before it is taken, and that is reported.

  Args:
    task: of the run.
    workdir: folder of the run; nothing in it is changed.

  Raises:
    UserError: there is no such checkpoint, it is damaged, or it is of another network.
  """
  which = task.config.evaluation.checkpoint
  with undamaged_checkpoint(workdir, which, task.config.faults) as (checkpoints, step):
    return checkpoints.restore(step, task.state_shapes())


@contextlib.contextmanager
def undamaged_checkpoint(
  workdir: Path, which: str, faults: Any
) -> Iterator[tuple[Checkpoints, int]]:
  """The checkpoints of the run in `workdir` to read from, and the step of one that is whole.

  Args:
    workdir: folder of the run; nothing in it is changed.
    which: "latest" or "best"; in place of a damaged latest one the one before it is taken, and that
      is reported.
    faults: how often and after how many seconds reading is tried again.

  Raises:
    UserError: there is no such checkpoint, or it is damaged.
  """
  step = find_checkpoint(workdir, which)
  checkpoints = Checkpoints(
    workdir, read_only=True, retries=Retries(faults.retries, faults.retry_seconds)
  )
  try:
    earlier = [each for each in whole_checkpoints(workdir) if each < step]
    while damage := checkpoints.damage(step):
      damaged = f"the {which} checkpoint of {workdir}, of step {step}, is damaged ({damage})"
      if which != "latest":
        raise UserError(f"{damaged}: restore it from a copy, or set evaluation.checkpoint='latest'")
      if not earlier:
        raise UserError(f"{damaged}, and there is none before it: restore it from a copy")
      step = earlier.pop()
      print(f"{damaged[0].upper()}{damaged[1:]}: that of step {step} is taken.")
    yield checkpoints, step
  finally:
    checkpoints.close()


def find_checkpoint(workdir: Path, which: str) -> int:
  """Step of the "latest" or the "best" checkpoint of the run in `workdir`; changes nothing.

  Raises:
    UserError: there is none.
  """
  steps = whole_checkpoints(workdir)
  if not steps:
    raise UserError(f"no checkpoints in {workdir}: train there first, or name another --workdir")
  if which == "latest":
    return steps[-1]
  best = best_checkpoint(workdir)
  if best is None:
    raise UserError(f"no {which} checkpoint in {workdir}: train there first")
  return best
