"""Kills a run at random moments, restarts it each time, and compares its results.

    python -m benchmarks.kills --folder /tmp/kills --kills 20 -- \\
      python -m corda_jax.main --config=configs/demo.py --config.num_steps=60 --workdir={}

{} stands for the folder of a run. The first run is never killed. The second gets SIGKILL, every
other time while a checkpoint is being written, and is restarted; if it finishes before that many
kills, it starts again from scratch. Every array of every kept checkpoint, the history except times,
the results and the pictures must be identical to the last bit.
"""

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.history import read_history

_TIMES = ("images_per_second", "data_wait")  # suffixes of curves that differ between any two runs


def main(arguments: list[str] | None = None) -> int:
  """Prints a summary; returns the number of differences."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--folder", type=Path, required=True, help="where the two runs go; new")
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
  parser.add_argument("command", nargs="+", help="after --")
  options = parser.parse_args(arguments)
  options.folder.mkdir(parents=True)
  # Folders of the same name, which the titles of pictures show.
  whole, killed = options.folder / "whole" / "run", options.folder / "killed" / "run"
  for folder in (whole, killed):
    folder.parent.mkdir()
  since = time.monotonic()
  if _start(options.command, whole).wait():
    sys.exit(f"error: the command fails without kills, too: see {whole}.log")
  seconds = time.monotonic() - since
  moments = random.Random(options.seed)
  kills, saving, runs, differing = 0, 0, 0, []
  while kills < options.kills or not runs:
    ended = False
    while not ended:
      process = _start(options.command, killed)
      how = kills < options.kills and kill(
        process, killed, moments, longest=seconds, in_save=kills % 2 == 1
      )
      if how:
        saving += how == "saving"
        kills += 1
      elif process.wait():
        sys.exit(f"error: after {kills} kills the command fails: see {killed}.log")
      else:
        ended = True
    runs += 1
    differing += [f"run {runs}: {name}" for name in differences(whole, killed)]
    if kills < options.kills:
      shutil.rmtree(killed)
  print(f"{kills} kills in {runs} runs, {saving} of them while a checkpoint was being written")
  print(f"{len(contents(whole))} things compared, {len(differing)} differ", *differing, sep="\n  ")
  return len(differing)


def _start(command: list[str], workdir: Path) -> subprocess.Popen:
  log = open(workdir.with_suffix(".log"), "a")  # noqa: SIM115 (the process keeps it open)
  command = [part.replace("{}", str(workdir)) for part in command]
  return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def kill(
  process: subprocess.Popen,
  workdir: Path,
  moments: random.Random,
  *,
  longest: float,
  in_save: bool,
) -> str:
  """Sends SIGKILL at a random moment.

  Args:
    process: process of the run.
    workdir: folder of the run.
    moments: generator of the moments.
    longest: seconds after which it is killed at the latest.
    in_save: whether to kill it as soon as a checkpoint is being written, and only then.

  Returns:
    "saving" where it was writing a checkpoint, "" where it had ended by itself, else "working".
  """
  since = time.time()
  until = since + moments.uniform(0, longest)
  within = moments.uniform(0, 0.02)  # seconds into the writing

  def being_written():
    # Leftovers of an earlier kill are found, too, until the run removes them.
    paths = (workdir / "checkpoints").glob("*tmp*")
    with contextlib.suppress(FileNotFoundError):
      return any(path.stat().st_ctime > since for path in paths)
    return False

  while process.poll() is None and (in_save or time.time() < until):
    if in_save and being_written():
      time.sleep(within)
      break
    time.sleep(0.001)
  if process.poll() is not None:
    return ""
  saving = being_written()
  process.send_signal(signal.SIGKILL)
  process.wait()
  return "saving" if saving else "working"


def contents(workdir: Path) -> dict[str, object]:
  """What a run left, by name: digests of arrays and pictures, results, and lines of the history."""
  found: dict[str, object] = {"history": _without_times(read_history(workdir))}
  checkpoints = Checkpoints(workdir, read_only=True)
  for folder in (workdir / "checkpoints").iterdir():
    if folder.name.isdigit():
      for name, array in _leaves(checkpoints.restore_arrays(int(folder.name))):
        found[f"{folder.name}/{name}"] = (array.shape, hashlib.sha256(array.tobytes()).hexdigest())
  checkpoints.close()
  found["results.json"] = json.loads((workdir / "results.json").read_text())
  for path in sorted(workdir.rglob("*.png")):
    found[path.relative_to(workdir).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
  return found


def differences(one: Path, other: Path) -> list[str]:
  """Names of the contents that differ between two runs."""
  first, second = contents(one), contents(other)
  return sorted(k for k in first.keys() | second if first.get(k) != second.get(k))


def _without_times(history):
  for entry in history:
    for name in list(entry["curves"]):
      if name.endswith(_TIMES):
        del entry["curves"][name]
  return history


def _leaves(tree, prefix=""):
  if isinstance(tree, list | tuple):
    tree = dict(enumerate(tree))
  if isinstance(tree, dict):
    for name, value in tree.items():
      yield from _leaves(value, f"{prefix}{name}/")
  elif tree is not None:
    array = np.asarray(tree)
    assert array.dtype != object, f"{prefix} holds {type(tree)}"  # whose bytes are addresses
    yield prefix[:-1], array


if __name__ == "__main__":
  sys.exit(main())
