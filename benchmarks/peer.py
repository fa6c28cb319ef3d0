"""Times a peer of `benchmarks.step` by itself, where two programs are too large for one device.

python -m benchmarks.peer "released=python benchmarks/released_step.py …"
"""

import argparse
import statistics

from benchmarks.options import run_command
from benchmarks.runners import Peer, time_in_turn
from corda_jax.errors import UserError


def main(arguments: list[str] | None = None) -> None:
  """Times and prints a line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("peer", metavar="NAME=COMMAND")
  parser.add_argument("--rounds", type=int, default=5, help="timings")
  parser.add_argument("--steps", type=int, default=2, help="of a timing")
  options = parser.parse_args(arguments)
  name, command = Peer.parts_of_option(options.peer)
  with Peer(name, command) as peer:
    seconds, failed = time_in_turn([peer], rounds=options.rounds, steps=options.steps)
  if failed:
    raise UserError(f"{name}: {failed[name]}")
  milliseconds = [1e3 * each for each in seconds[name]]
  print(f"{name}: {statistics.median(milliseconds):.1f} ms ({min(milliseconds):.1f})")


if __name__ == "__main__":
  run_command(main)
