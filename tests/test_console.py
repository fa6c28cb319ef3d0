"""Progress on the console."""

import io
import sys

import pytest

from corda_jax.console import progress_bar


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
    lines = stream.getvalue().count("frames:") - 1  # and one before the first
  assert lines == pytest.approx(wanted, abs=1)
