"""Steps that were not applied because a loss or a gradient was not finite: reported, and ended."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from corda_jax.errors import UserError
from corda_jax.training.run_files import write_json


def report_path(workdir: Path) -> Path:
  """The file that describes a run that diverged: one a process, since each read other frames."""
  index = jax.process_index()
  return Path(workdir) / (f"diverged_{index}.json" if index else "diverged.json")


def remove_report(workdir: Path) -> None:
  """Forgets an end that a later run, in the same folder, has gone past."""
  for path in Path(workdir).glob("diverged*.json"):
    path.unlink(missing_ok=True)


class SkippedSteps:
  """Reports steps that were not applied, and stops a run that makes too many of them in a row.

  Args:
    workdir: folder of the run, for the report.
    most: steps in a row after which the run stops; 0: it never does.
    frames_of: step → names of the frames of its batch, by domain, of this process.
    checkpoints: → steps of the whole checkpoints, once none is being written.
    say: prints a line.
  """

  def __init__(
    self,
    workdir: Path,
    most: int,
    *,
    frames_of: Callable[[int], Mapping[str, list[str]]],
    checkpoints: Callable[[], Sequence[int]],
    say: Callable[[str], None],
  ):
    """Starts with none."""
    self._workdir, self._most = Path(workdir), most
    self._frames_of, self._checkpoints, self._say = frames_of, checkpoints, say
    self._row: list[dict[str, Any]] = []

  def read(self, step: int, metrics: Mapping[str, float]) -> None:
    """Takes in the metrics of a step; all steps, in order.

    Raises:
      UserError: this is one skipped step too many.
    """
    if not metrics.get("skipped"):
      self._row.clear()
      return
    diverged = {name: str(x) for name, x in metrics.items() if not math.isfinite(x)}
    frames = {domain: list(names) for domain, names in self._frames_of(step).items()}
    self._row.append({"step": step, "not_finite": diverged, "frames": frames})
    values = ", ".join(f"{name} is {value}" for name, value in diverged.items())
    batch = "; ".join(f"{domain}: {', '.join(names)}" for domain, names in frames.items())
    self._say(f"step {step} was not applied: {values} (frames of {batch})")
    if self._most and len(self._row) >= self._most:
      self._stop(values)

  def _stop(self, values: str) -> None:
    first, last = self._row[0]["step"], self._row[-1]["step"]
    # The update before the first of these steps may have ruined the weights without a number that
    # is not finite. With those of a checkpoint that is older, the step after it was.
    good = max((step for step in self._checkpoints() if step < first - 1), default=None)
    path = report_path(self._workdir)
    report = {
      "process": jax.process_index(),
      "last_good_checkpoint": good,
      "steps": self._row,
    }
    write_json(path, report)
    before = "no checkpoint is known to be good"
    if good is not None:
      before = f"its checkpoint of step {good} is good, for the step after it was finite"
    raise UserError(
      f"training diverged: {len(self._row)} steps in a row, {first}..{last}, were not applied "
      f"({values}); {before}; see {path}. Inspect these frames, lower the learning rate or raise "
      "the precision, and start in another --workdir, from scratch or from that checkpoint "
      "(docs/running.md, Faults); faults.skipped_steps says how many are tolerated"
    )
