"""Do malformed files and settings end in one clear line, or read right; never in anything else?

    python -m benchmarks.fuzz --inputs 10000

Each target reads inputs that are made from good ones: bits turned, parts cut out, doubled, moved
and exchanged, numbers made huge, structures nested deeply. It does so in a process of its own, so
that a crash or a hang is seen, too. An input may be read: then what comes must be what the good one
holds or what the input says, or, where nothing tells that (the format has no checksums, or they
were made to match), of the promised kind. Or it is told: one line, of the kind of error that the
program shows its user. All else is counted as "wrong value", "other error", "crash" or "hang", and
the input's number is printed: with the seed it is made again.
"""

import argparse
import collections
import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz_outcomes import KIND, RIGHT, TOLD, WRONG, Target, outcome_of
from benchmarks.fuzz_targets import TARGETS
from benchmarks.options import run_command
from corda_jax.errors import UserError

GOOD = (RIGHT, KIND, TOLD)
_BAD = (WRONG, "other error", "crash", "hang")
_SECONDS = 20.0  # after which an input hangs
_SECONDS_TO_START = 120.0


def main(arguments: list[str] | None = None) -> None:
  """Prints a table; fails where anything is bad."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--inputs", type=int, default=10_000, help="of each target")
  parser.add_argument("--targets", nargs="*", default=list(TARGETS), choices=list(TARGETS))
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args(arguments)
  print("| reads | inputs | " + " | ".join((*GOOD, *_BAD)) + " | s |", flush=True)
  print("|---" * (3 + len((*GOOD, *_BAD))) + "|", flush=True)
  bad = []
  for name in options.targets:
    since = time.monotonic()
    outcomes = fuzz(TARGETS[name], options.inputs, options.seed)
    counts = collections.Counter(outcome for outcome, _ in outcomes)
    cells = " | ".join(f"{counts[outcome]:,}" for outcome in (*GOOD, *_BAD))
    seconds = time.monotonic() - since
    print(f"| {name} | {len(outcomes):,} | {cells} | {seconds:.0f} |", flush=True)
    bad += [
      f"{name} {number}: {outcome}: {told}"
      for number, (outcome, told) in enumerate(outcomes)
      if outcome not in GOOD
    ]
  if bad:
    raise UserError("\n  ".join([f"{len(bad)} inputs, of seed {options.seed}:", *bad[:20]]))


def fuzz(
  target: Callable[[Path], Target], inputs: int, seed: int, *, seconds: float = _SECONDS
) -> list[tuple[str, str]]:
  """Outcome of each input, and what was told.

  Args:
    target: (a folder for its files) → what reads.
    inputs: how many.
    seed: of all of them.
    seconds: after which an input hangs.
  """
  outcomes: list[tuple[str, str]] = []
  while len(outcomes) < inputs:
    with _worker(target, seed, len(outcomes), inputs) as (process, pipe):
      if not pipe.poll(_SECONDS_TO_START) or pipe.recv() != "ready":
        raise UserError(f"{target.__name__} cannot be started")
      while len(outcomes) < inputs:
        if not pipe.poll(seconds):
          outcomes.append(("hang", f"no answer within {seconds:g} s"))
          break
        try:
          outcomes.append(pipe.recv())
        except EOFError:
          process.join()
          outcomes.append(("crash", f"the process ended with {process.exitcode}"))
          break
  return outcomes


@contextlib.contextmanager
def _worker(target, seed, first, inputs):
  context = multiprocessing.get_context("spawn")
  ours, theirs = context.Pipe(duplex=False)
  process = context.Process(target=_work, args=(target, seed, first, inputs, theirs), daemon=True)
  process.start()
  theirs.close()
  try:
    yield process, ours
  finally:
    process.kill()
    process.join()


def _work(make, seed, first, inputs, pipe):
  with tempfile.TemporaryDirectory() as folder:
    try:
      target = make(Path(folder))
    except Exception as error:
      pipe.send(repr(error))
      raise
    pipe.send("ready")
    for number in range(first, inputs):
      pipe.send(outcome_of(target, seed, number))


if __name__ == "__main__":
  run_command(main)
