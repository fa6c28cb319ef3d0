"""Restores the state of an earlier run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corda_jax.errors import UserError
from corda_jax.retries import Retries
from corda_jax.training.checkpoint import Checkpoints, best_checkpoint
from corda_jax.training.run_files import whole_checkpoints


def restore_state(task: Any, workdir: Path) -> Any:
  """The state of the checkpoint that `evaluation.checkpoint` names, if it is undamaged.

  If the latest checkpoint is damaged, the one before it is used and a message is printed.

  Args:
    task: task of the run; its configuration names the checkpoint.
    workdir: folder of the run; nothing in it is changed.

  Raises:
    UserError: there is no such checkpoint, it is damaged, or it does not fit the network.
  """
  which = task.config.evaluation.checkpoint
  with undamaged_checkpoint(workdir, which, task.config.faults) as (checkpoints, step):
    return checkpoints.restore(step, task.state_shapes)


@contextlib.contextmanager
def undamaged_checkpoint(
  workdir: Path, which: str, faults: Any
) -> Iterator[tuple[Checkpoints, int]]:
  """Opens the checkpoints of the run in `workdir`, and yields the step of an undamaged one, too.

  Args:
    workdir: folder of the run; nothing in it is changed.
    which: "latest" or "best". If the latest checkpoint is damaged, the one before it is used and a
      message is printed.
    faults: the `Faults` of the configuration: how often reading is retried, and after how many
      seconds.

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
        raise UserError(f"{damaged}, and no checkpoint precedes it: restore it from a copy")
      step = earlier.pop()
      print(f"{damaged[0].upper()}{damaged[1:]}: using the checkpoint of step {step}.")
    yield checkpoints, step
  finally:
    checkpoints.close()


def find_checkpoint(workdir: Path, which: str) -> int:
  """Step of the "latest" or the "best" checkpoint of the run in `workdir`; changes nothing.

  Raises:
    UserError: there is no such checkpoint.
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
