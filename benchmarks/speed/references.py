"""Times references of `benchmarks.speed.step` alone, where two programs do not fit one device.

python -m benchmarks.speed.references "released=python benchmarks/reference/released_step.py …" …
"""

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.options import run_command
from benchmarks.speed.runners import Reference, time_in_turn
from corda_jax.errors import UserError


def main(arguments: list[str] | None = None) -> None:
  """Times one after the other, and prints a line of each."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("references", nargs="+", metavar="NAME=COMMAND")
  parser.add_argument("--rounds", type=int, default=5, help="timings")
  parser.add_argument("--steps", type=int, default=2, help="of a timing")
  parser.add_argument("--json", type=Path, default=None, help="file for all numbers")
  options = parser.parse_args(arguments)
  references = [Reference.parts_of_option(text) for text in options.references]
  seconds: dict[str, list[float]] = {}
  failed: dict[str, str] = {}
  for name, command in references:
    try:
      with Reference(name, command) as reference:
        taken, stopped = time_in_turn([reference], rounds=options.rounds, steps=options.steps)
    except UserError as error:
      taken, stopped = {}, {name: str(error)}
    seconds |= taken
    failed |= stopped
    for each in taken.values():
      milliseconds = [1e3 * value for value in each]
      print(f"{name}: {statistics.median(milliseconds):.1f} ms ({min(milliseconds):.1f})")
    if options.json:
      options.json.write_text(json.dumps({"seconds": seconds, "failed": failed}, indent=1))
  if failed:
    raise UserError("; ".join(f"{name}: {why}" for name, why in failed.items()))


if __name__ == "__main__":
  run_command(main)
