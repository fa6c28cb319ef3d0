"""Progress on the console."""

import io
import sys

import jax.numpy as jnp
import pytest

from corda_jax.console import progress_bar
from corda_jax.jobs.progress import Progress


@pytest.mark.parametrize(("terminal", "wanted"), [(True, 100), (False, 2)])
def test_files_get_few_lines(monkeypatch, terminal, wanted):
  """A hundred updates in as many seconds are shown each, or in a file each half minute."""
  now = [1000.0]
  monkeypatch.setattr("tqdm.std.time", lambda: now[0])
  stream = io.StringIO()
  stream.isatty = lambda: terminal
  monkeypatch.setattr(sys, "stderr", stream)
  with progress_bar(total=100, desc="frames") as bar:
    for _ in range(100):
      now[0] += 1
      bar.update()
    assert bar.maxinterval >= bar.mininterval  # else a thread of tqdm's writes more often
    lines = stream.getvalue().count("frames:") - 1  # and one before the first
  assert lines == pytest.approx(wanted, abs=1)


def test_reports_of_a_run_add_no_lines_to_files(monkeypatch):
  stream = io.StringIO()
  monkeypatch.setattr(sys, "stderr", stream)
  progress = Progress(0, 10, images_per_step=2)
  for step in range(1, 9):
    progress.update(step, {"total": jnp.float32(step)})
    progress.report(step)
  assert stream.getvalue().count("/10 ") == 1
  progress.close()
  assert "8/10" in stream.getvalue()
