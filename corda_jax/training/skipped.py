"""Reports steps skipped for a non-finite loss or gradient, and stops a diverged run."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from corda_jax.errors import UserError
from corda_jax.training.run_files import write_json


def report_path(workdir: Path) -> Path:
  """The file that describes a diverged run: one per process, since each reads other frames."""
  index = jax.process_index()
  return Path(workdir) / (f"diverged_{index}.json" if index else "diverged.json")


def remove_report(workdir: Path) -> None:
  """Deletes reports of divergence that a later run in the same folder has passed."""
  for path in Path(workdir).glob("diverged*.json"):
    path.unlink(missing_ok=True)


class SkippedSteps:
  """Reports steps that were not applied, and stops the run after too many of them in a row.

  Args:
    workdir: folder of the run, for the report.
    most: number of skipped steps in a row after which the run stops; 0: never.
    frames_of: step → names of the frames in its batch on this process, by domain.
    checkpoints: waits for pending writes and returns the steps of the complete checkpoints.
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
    """Starts with no skipped steps."""
    self._workdir, self._most = Path(workdir), most
    self._frames_of, self._checkpoints, self._say = frames_of, checkpoints, say
    self._row: list[dict[str, Any]] = []

  def read(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records the metrics of a step. Call it for all steps, in order.

    Raises:
      UserError: too many steps in a row were skipped.
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
    # The update before the first of these steps may have ruined the weights without any non-finite
    # number. An older checkpoint is good: the step after it was finite.
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
      before = f"the checkpoint of step {good} is good, since the step after it was finite"
    raise UserError(
      f"training diverged: {len(self._row)} steps in a row, {first}..{last}, were not applied "
      f"({values}); {before}; see {path}. Inspect these frames, lower the learning rate or raise "
      "the precision, and start in another --workdir, from scratch or from that checkpoint "
      "(docs/running.md, Faults); faults.skipped_steps is the number at which a run stops"
    )
