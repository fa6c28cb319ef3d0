"""The command: reads a configuration and runs one job.

    python -m corda_jax.main --config=configs/demo.py --workdir=runs/demo

Flags are parsed before JAX is imported. The configuration, the folder of the run and the files that
the configuration names are checked before TensorFlow is imported, which only jobs that read data
need.
"""

import contextlib
import logging as python_logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from corda_jax import command_line
from corda_jax.command_line import Command
from corda_jax.console import tolerate_failing_streams
from corda_jax.errors import EXIT_CODE, Preempted, UserError, first_line, shown
from corda_jax.locks import only_writer

STOPPED = 130  # exit code after Ctrl-C, by the shells' convention

# What a job writes in the folder of a run, locked for one writer at a time. Other jobs lock their
# own output.
_WRITES = {"train": "run", "export": "bundle", "export_torch": "corda.pth"}

_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)  # as XLA says it


def run(config: Any, workdir: Path, mode: str) -> None:
  """Checks the configuration and the files that it names, and runs the job `mode` in `workdir`.

  Raises:
    UserError: the configuration, the data or the folder cannot be used.
  """
  from corda_jax import checks, jobs

  task = jobs.make_task(config, workdir, mode)
  if mode == "report":
    jobs.report(task, workdir)
    return
  jobs.import_first(task, workdir, mode)
  checks.check_job(task, workdir, mode)
  with _only_writer(workdir, mode):
    if mode in jobs.WITHOUT_DATA:
      jobs.WITHOUT_DATA[mode](task, workdir)
      return
    from data_pipelines.feed import Feed  # isort: skip (it makes TensorFlow quiet)
    from clu import metric_writers, periodic_actions

    feed = Feed(task.config, task.domains, *jobs.share())
    if mode == "train":
      writer = metric_writers.create_default_writer
      jobs.train(task, workdir, feed, writer, profiler=periodic_actions.Profile)
    else:
      jobs.WITH_DATA[mode](task, workdir, feed)


def _only_writer(workdir: Path, mode: str) -> contextlib.AbstractContextManager[None]:
  """Locks what the job writes against other writers; only process 0 holds the lock."""
  import jax

  if mode not in _WRITES or jax.process_index() > 0:
    return contextlib.nullcontext()
  lock = workdir / f".{_WRITES[mode]}.lock"
  return only_writer(lock, otherwise="choose another --workdir")


def parse(arguments: list[str], values: flags.FlagValues = flags.FLAGS) -> Command:
  """Parses a command line that starts with the name of the program.

  Raises:
    UserError: an unknown flag or field, a value of the wrong type, and so on.
  """
  return command_line.read_command(values, command_line.parse_flags(arguments, values))


def main(command: Command) -> None:
  """Runs a command; a user error prints one line and exits with 1.

  After SIGTERM a training saves its state and exits with 143; Ctrl-C exits any job with 130.
  """
  try:
    if command.multihost:
      from corda_jax.training.processes import join_processes

      if join_processes() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the first process prints for all)
    run(command.config, command.workdir, command.mode)
  except (UserError, OSError) as error:  # OSError: a full disk, a folder that cannot be read
    sys.exit(f"error: {shown(error)}")
  except (MemoryError, RuntimeError) as error:
    if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
      raise
    reason = first_line(error)
    sys.exit(
      f"error: not enough memory ({reason}): lower data.batch_size, the crop or "
      "data.evaluation_batch_size, or set compute.rematerialize=True; for --mode=prepare, lower "
      "data.prepare_processes; for --mode=predict, prediction.batch_size or the tiles; for "
      "Depth Anything, label_depth.batch_size or label_depth.input_size "
      "(docs/scaling.md)"
    )
  except KeyboardInterrupt:
    print("\nStopped. Run the same command to resume from the newest checkpoint.", file=sys.stderr)
    sys.exit(STOPPED)
  except Preempted as stop:
    print(f"\n{stop}, which is saved. Run the same command to resume from it.", file=sys.stderr)
    sys.exit(EXIT_CODE)


def _parse_or_exit(arguments: list[str]) -> Command:
  try:
    return parse(arguments)
  except UserError as error:
    sys.exit(f"error: {shown(error)}")


if __name__ == "__main__":
  tolerate_failing_streams()
  command_line.define_flags(flags.FLAGS)
  flags.adopt_module_key_flags(command_line)  # listed by --help
  logging.set_verbosity(logging.WARNING)
  # After a failed checkpoint, Orbax leaves tasks whose errors are already reported.
  python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
  app.run(main, flags_parser=_parse_or_exit)
