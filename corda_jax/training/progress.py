"""The progress line of a training run, and the averages for its curves."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from corda_jax.console import progress_bar

_SKIPPED = "skipped"  # metric that is 1 if the step was not applied


class _Pending(NamedTuple):
  """A step whose metrics are still on the device."""

  step: int
  metrics: Mapping[str, jax.Array]
  waited: float | None  # seconds spent waiting for its batch; None: not timed


class Progress:
  """Counts steps on the console and averages their metrics between reports.

  Metrics stay on the device until a report.

  Args:
    first: number of steps made before.
    total: number of steps of the whole run.
    images_per_step: images of a step, for the rate.
    shown: (label, metric, format) of each value on the line.
    on_read: called with each step and its metrics as numbers, in order, as they are read.
  """

  def __init__(
    self,
    first: int,
    total: int,
    images_per_step: int,
    *,
    shown: Sequence[tuple[str, str, str]] = (("loss", "total", ".3f"),),
    on_read: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
  ):
    """Shows the line."""
    self._shown, self._on_read = shown, on_read
    others = jax.process_index() > 0  # only process 0 shows the line
    self._bar = progress_bar(total=total, initial=first, desc="train", unit="step", disable=others)
    self._images_per_step = images_per_step
    self._pending: list[_Pending] = []
    self._since: float | None = None  # start of the timing; None while stopped

  def update(self, step: int, metrics: Mapping[str, jax.Array], *, waited: float = 0.0) -> None:
    """Records the metrics of a step, and the seconds that the host waited for its batch."""
    self._pending.append(_Pending(step, metrics, None if self._since is None else waited))
    if self._since is None:
      # The first step compiles, or follows an evaluation: neither belongs in the rate.
      jax.block_until_ready(metrics)
      self._since = time.monotonic()
      self._bar.unpause()  # nor in the rate of the bar and its remaining time
    self._bar.update()

  def report(self, until: int) -> dict[str, float]:
    """Averages the metrics since the last report, up to the step `until`, and shows them.

    Call it when a later step is running, so that reading does not make the device wait.

    Returns:
      Means over the applied steps (NaN if there are none); "skipped", the number of other steps;
      and, if any step was timed, "images_per_second" and "data_wait", the mean seconds per step
      that the host waited for its batch. Empty if no step is due.
    """
    due = [pending for pending in self._pending if pending.step <= until]
    self._pending = self._pending[len(due) :]
    if not due:
      return {}
    read = jax.device_get([pending.metrics for pending in due])  # waits for these steps
    values = [{name: float(value) for name, value in metrics.items()} for metrics in read]
    for pending, metrics in zip(due, values, strict=True):
      self._on_read(pending.step, metrics)
    applied = [metrics for metrics in values if not metrics.get(_SKIPPED)]
    means = {
      name: float(np.mean([metrics[name] for metrics in applied])) if applied else float("nan")
      for name in values[0]
    }
    means[_SKIPPED] = float(len(values) - len(applied))
    waits = [pending.waited for pending in due if pending.waited is not None]
    if waits:
      now = time.monotonic()
      means["images_per_second"] = self._images_per_step * len(waits) / (now - self._since)
      means["data_wait"] = sum(waits) / len(waits)
      self._since = now
    self._bar.set_postfix_str(_summary(means, self._shown), refresh=sys.stderr.isatty())
    return means

  def message(self, text: str) -> None:
    """Prints a line above the progress line."""
    self._bar.write(text)

  def stop_clock(self) -> None:
    """Stops timing until the next step, for work that is not training."""
    self._since = None
    self._pending = [pending._replace(waited=None) for pending in self._pending]

  def close(self) -> None:
    """Ends the line."""
    self._bar.close()


def _summary(means: Mapping[str, float], shown: Sequence[tuple[str, str, str]]) -> str:
  parts = [f"{words} {means[name]:{form}}" for words, name, form in shown if name in means]
  if "images_per_second" in means:
    parts.append(f"{means['images_per_second']:.0f} images/s")
  if means[_SKIPPED]:
    parts.append(f"{means[_SKIPPED]:.0f} steps skipped")
  return ", ".join(parts)
