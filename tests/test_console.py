"""Progress on the console, and consoles that fail."""

import io
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.adaptation.scores import format_scores, scores
from corda_jax.console import progress_bar, tolerate_failing_streams
from corda_jax.training.progress import Progress


@pytest.mark.parametrize(("terminal", "expected"), [(True, 100), (False, 2)])
def test_files_get_few_lines(monkeypatch, terminal, expected):
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
  assert lines == pytest.approx(expected, abs=1)


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


FAILING = """
import contextlib, os, sys
from absl import logging
from corda_jax.console import progress_bar, tolerate_failing_streams
tolerate_failing_streams()
with open(sys.argv[1], "w") as file:
  with contextlib.suppress(OSError):
    os.write(1, b"what a library prints")
  for _ in progress_bar(iterable=range(3)):
    print("\\u2588 an overview " * 2_000, flush=True)
    logging.warning("a warning")
  file.write("all of it")
print("not flushed")
"""


@pytest.mark.parametrize("harm", ["a full disk", "closed", "no reader", "another encoding"])
def test_a_program_outlives_its_console(tmp_path, harm):
  redirect = {
    "a full disk": "> /dev/full 2> /dev/full",
    "closed": ">&- 2>&-",
    "no reader": f"2> {tmp_path}/log | true",
    "another encoding": f"> {tmp_path}/out 2>&1",
  }[harm]
  command = f'set -o pipefail; "{sys.executable}" -c "$PROGRAM" {tmp_path}/file {redirect}'
  env = {**os.environ, "PROGRAM": FAILING, "PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": ""}
  assert subprocess.run(["bash", "-c", command], env=env, check=False).returncode == 0
  assert (tmp_path / "file").read_text() == "all of it"
  if harm == "another encoding":
    assert "? an overview" in (tmp_path / "out").read_text()


def test_a_stream_that_the_program_closed_is_no_error(monkeypatch):
  for name in ("stdout", "stderr"):
    monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO()))
  tolerate_failing_streams()
  for stream in (sys.stdout, sys.stderr):
    stream.close()
    print("into nothing", file=stream, flush=True)


def test_bars_in_characters_that_the_console_has(monkeypatch):
  result = scores(np.eye(19, dtype=int), "all")
  for encoding, block in (("latin-1", "#"), ("utf-8", "█")):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert f"100.0  {block * 25}" in format_scores(result)
