"""What the first process does before the others, as a program: for tests with several processes.

python -m tests.training.turns FOLDER [--fail]: writes the time at which each process was at work;
with --fail process 0 fails.
"""

import sys
import time
from pathlib import Path

import jax

from corda_jax.errors import UserError
from corda_jax.training.processes import first_process_first, join_processes, wait_for_all


def main() -> None:
  """Runs two turns, of which the first process takes the longest in one and the last in one."""
  folder, fail = Path(sys.argv[1]), "--fail" in sys.argv
  join_processes()
  for slow in (0, 1):
    with first_process_first("work"):
      begun = time.time()
      if jax.process_index() == slow:
        time.sleep(1)
      if fail:
        raise UserError("it cannot be done")
      (folder / f"{slow}_{jax.process_index()}").write_text(f"{begun} {time.time()}")
    (folder / f"{slow}_{jax.process_index()}_after").write_text(f"{time.time()}")
  wait_for_all("end")


if __name__ == "__main__":
  try:
    main()
  except UserError as error:
    sys.exit(f"error: {error}")
