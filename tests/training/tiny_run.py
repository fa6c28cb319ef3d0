"""A training run of seconds in a process of its own, which tests kill.

    python -m tests.training.tiny_run WORKDIR [NAME=VALUE …]

Like main.py it ends with 143 after SIGTERM, prints one line of an error, and goes on where it was.
"""

import os
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
import jax

from corda_jax.errors import EXIT_CODE, Preempted, UserError
from corda_jax.training.processes import join_processes
from corda_jax.training.run_files import check_config, record_config
from corda_jax.training.sharding import make_mesh
from corda_jax.training.train_loop import train
from tests import runs, tiny
from tests.stub_network import stub_task

TEXTS = ("faults.failed_save",)


def main() -> None:
  workdir, *settings = sys.argv[1:]
  options = dict(setting.split("=") for setting in settings)
  seconds = float(options.pop("seconds_a_step", 0))
  stopped_in_evaluation = bool(options.pop("stopped_in_evaluation", ""))
  if os.environ.get("JAX_COORDINATOR_ADDRESS"):
    join_processes()
  config = tiny.get_config(
    **{name: value if name in TEXTS else int(value) for name, value in options.items()}
  )
  task = stub_task(config, mesh=make_mesh())
  share = config.data.batch_size // jax.process_count()

  def batches(start):
    rows = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    for step, batch in enumerate(tiny.train_batches(start), start):
      time.sleep(seconds)
      names = [f"{step}_{row}" for row in range(config.data.batch_size)]
      batch |= {f"{domain}_name": names for domain in ("source", "target")}
      yield {name: values[rows] for name, values in batch.items()}

  def evaluation_batches():
    if stopped_in_evaluation:
      os.kill(os.getpid(), signal.SIGTERM)
    for batch in tiny.evaluation_batches():
      time.sleep(seconds)
      part = len(batch["valid"]) // jax.process_count()
      rows = slice(jax.process_index() * part, (jax.process_index() + 1) * part)
      yield {name: values[rows] for name, values in batch.items()}

  Path(workdir).mkdir(exist_ok=True)
  check_config(workdir, config.to_dict())
  record_config(workdir, config.to_dict())
  feed = runs.Feed(tiny, trained=batches, evaluated=evaluation_batches)
  train(task, Path(workdir), feed, runs.Curves())


if __name__ == "__main__":
  try:
    main()
  except Preempted as stop:
    print(stop)
    sys.exit(EXIT_CODE)
  except UserError as error:
    sys.exit(f"error: {error}")
