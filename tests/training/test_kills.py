"""Runs in processes of their own that are killed, asked to stop, and starved of disk."""

import functools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest

from benchmarks import kills
from corda_jax.errors import EXIT_CODE
from corda_jax.training.history import read_history

RUN = [sys.executable, "-m", "tests.training.tiny_run"]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    # Of its own: a process that is killed may leave half an entry, which warns ever after.
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
    patch.setenv("JAX_NUM_CPU_DEVICES", "1")
    yield


@pytest.fixture(scope="module")
def whole(compiled_once, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole") / "run"
  subprocess.run([*RUN, workdir, "num_steps=8"], check=True)
  return workdir


def start(workdir, *settings, **options):
  return subprocess.Popen(
    [*RUN, workdir, *settings],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    **options,
  )


def wait_for(process, path):
  while not path.exists():
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.005)


def wait_for_text(path, text):
  until = time.monotonic() + 60
  while text not in path.read_text():
    assert time.monotonic() < until
    time.sleep(0.005)


@pytest.mark.parametrize("number", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_run_ends_the_same(tmp_path, capsys, number):
  command = [
    "--folder",
    str(tmp_path / "runs"),
    "--kills",
    str(number),
    "--",
    *RUN,
    "{}",
    "num_steps=8",
    "draw_every=4",
  ]
  assert kills.main(command) == 0
  output = capsys.readouterr().out
  assert re.search(rf"\b{number} kills\b", output)
  assert re.search(r"\b0 differ\b", output)
  assert not re.search(r"\b0 of them\b", output)


def test_what_differs_is_found(whole, tmp_path):
  subprocess.run([*RUN, tmp_path / "run", "num_steps=8", "seed=1"], check=True)
  found = kills.differences(whole, tmp_path / "run")
  assert "history" in found
  assert any(name.startswith("8/params/") for name in found)


@pytest.mark.parametrize("during", ["training", "evaluation"])
def test_a_run_that_is_asked_to_stop_saves_and_ends_with_its_code(whole, tmp_path, during):
  workdir = tmp_path / "run"
  if during == "training":
    # Tests may themselves run under nohup, by which a run would stay.
    hears = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    process = start(workdir, "num_steps=8", "seconds_a_step=0.3", preexec_fn=hears)
    wait_for(process, workdir / "checkpoints" / "2")
    # The evaluation of step 2 has ended: the next step is one that is not saved anyway.
    wait_for_text(workdir / "history.jsonl", '"score"')
    process.send_signal(signal.SIGHUP)  # the terminal has closed
  else:  # a SIGTERM in the first one, after two steps
    process = start(workdir, "num_steps=8", "stopped_in_evaluation=1")
  output = process.communicate(timeout=60)[0]
  assert process.returncode == EXIT_CODE == 143, output
  steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
  assert re.search(rf"{'SIGHUP' if during == 'training' else 'SIGTERM'}.*\b{max(steps)}\b", output)
  assert max(steps) == 2 if during == "evaluation" else 2 < max(steps) < 8
  output = subprocess.run(
    [*RUN, workdir, "num_steps=8"], check=True, capture_output=True, text=True
  )
  assert re.search(rf"checkpoint.*\b{max(steps)}\b", output.stdout)
  differing = kills.differences(whole, workdir)
  # The curves have one point more, where it was stopped.
  assert [name for name in differing if name != "history"] == []


def free_port():
  with socket.socket() as found:
    found.bind(("localhost", 0))
    return found.getsockname()[1]


def start_two(workdir, *settings):
  shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2"}
  return [
    start(workdir, *settings, env={**os.environ, **shared, "JAX_PROCESS_ID": str(index)})
    for index in range(2)
  ]


def test_two_processes_stop_at_the_same_step_and_go_on(whole, tmp_path):
  workdir = tmp_path / "run"
  processes = start_two(workdir, "num_steps=8", "seconds_a_step=0.3")
  wait_for(processes[0], workdir / "checkpoints" / "2")
  processes[1].send_signal(signal.SIGTERM)  # one alone is asked; the other hears of it
  output = [process.communicate(timeout=120)[0] for process in processes]
  assert [process.returncode for process in processes] == [EXIT_CODE] * 2, output
  step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
  assert step < 8
  for each in output:
    assert re.search(rf"SIGTERM.*\b{step}\b", each)
  # As a kill between the last file and its seal leaves it: the first process reads it by itself.
  (workdir / "checkpoints" / str(step) / "checksums.json").unlink()
  processes = start_two(workdir, "num_steps=8")
  output = [process.communicate(timeout=120)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], output
  assert re.search(rf"checkpoint.*\b{step}\b", output[0])
  results = [json.loads((each / "results.json").read_text()) for each in (whole, workdir)]
  assert results[0]["miou"] == pytest.approx(results[1]["miou"], abs=1e-3)


@pytest.mark.parametrize("then", ["stop", "continue"])
def test_a_full_disk_is_tried_again_and_reported(tmp_path, then):
  """A limit on the size of files stands in for it: the writer gets an error from the system."""
  workdir = tmp_path / "run"
  wide = "model.encoder.width=128"  # checkpoints that reach the limit, beside files that do not
  settings = ("num_steps=12", f"faults.failed_save={then}", wide)
  tries = ("faults.retries=1", "faults.retry_seconds=0")
  command = (
    f"ulimit -f 50; trap '' XFSZ; exec {shlex.join([*RUN, str(workdir), *settings, *tries])}"
  )
  process = subprocess.Popen(
    ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )
  output = process.communicate(timeout=120)[0]
  assert process.returncode == 1, output
  assert re.search(r"step \d+: .*checkpoint.*\b\d+\b.*File too large", output)
  assert re.search(r"\b0 seconds", output)
  last = max(entry["step"] for entry in read_history(workdir))
  if then == "stop":  # not at the end of the run, where the last one always stops it
    assert last < 6
  else:
    assert last == 12
  # Not at the start of a line: threads of the library write their tracebacks to the same pipe.
  assert re.search(r"error: the checkpoint of step \d+ in .* cannot be written", output)
  # Nor what would fill the disk more, but for what a thread wrote on after the last was reported.
  assert len(list((workdir / "checkpoints").iterdir())) <= 1
  output = subprocess.run([*RUN, workdir, *settings], check=True, capture_output=True, text=True)
  assert json.loads((workdir / "results.json").read_text())["step"] == 12
