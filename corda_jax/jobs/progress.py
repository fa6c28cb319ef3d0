"""The live line of a training run, and the averages behind its curves."""

import sys
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from corda_jax.console import progress_bar


class Progress:
  """Counts steps on the console and averages their metrics between reports.

  Metrics stay on the device until a report, and the newest step's until the one after, so that
  reading them does not make the device wait for the host.

  Args:
    first: steps made before.
    total: steps of the whole run.
    images_per_step: for the rate.
    shown: (words, metric, format) of what the line shows.
  """

  def __init__(
    self,
    first: int,
    total: int,
    images_per_step: int,
    *,
    shown: Sequence[tuple[str, str, str]] = (("loss", "total", ".3f"),),
  ):
    """Starts the line."""
    self._shown = shown
    others = jax.process_index() > 0  # of several processes one shows the line
    self._bar = progress_bar(total=total, initial=first, desc="train", unit="step", disable=others)
    self._images_per_step = images_per_step
    # Metrics of steps that were not reported yet, and whether the clock saw them made.
    self._pending: list[tuple[Mapping[str, jax.Array], bool]] = []
    self._since: float | None = None  # when the clock started; None while it stands

  def update(self, metrics: Mapping[str, jax.Array]) -> None:
    """Takes in the metrics of one step."""
    self._pending.append((metrics, self._since is not None))
    if self._since is None:
      # The first step compiles, or follows an evaluation: neither belongs in the rate.
      jax.block_until_ready(metrics)
      self._since = time.monotonic()
      self._bar.unpause()  # nor in the bar's rate and its time left
    self._bar.update()

  def report(self) -> dict[str, float]:
    """Means of the metrics since the last report, shown on the line; with "images_per_second"."""
    newest = self._pending[-1:]
    reported = self._pending[:-1] or newest
    self._pending = newest if len(self._pending) > 1 else []
    read = jax.device_get([metrics for metrics, _ in reported])  # waits for these steps
    means = {name: float(np.mean([metrics[name] for metrics in read])) for name in read[0]}
    if steps := sum(seen for _, seen in reported):
      now = time.monotonic()
      means["images_per_second"] = self._images_per_step * steps / (now - self._since)
      self._since = now
    self._bar.set_postfix_str(_summary(means, self._shown), refresh=sys.stderr.isatty())
    return means

  def message(self, text: str) -> None:
    """Prints a line above the live one and stops the clock: something else took time."""
    self._bar.write(text)
    self._since = None
    self._pending = [(metrics, False) for metrics, _ in self._pending]

  def close(self) -> None:
    """Ends the line."""
    self._bar.close()


def _summary(means: Mapping[str, float], shown: Sequence[tuple[str, str, str]]) -> str:
  parts = [f"{words} {means[name]:{form}}" for words, name, form in shown if name in means]
  if "images_per_second" in means:
    parts.append(f"{means['images_per_second']:.0f} images/s")
  return ", ".join(parts)
