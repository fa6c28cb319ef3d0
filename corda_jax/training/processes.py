"""Coordinates several processes, on one host or many, that train together."""

import contextlib
import itertools
import os
from collections.abc import Iterator

import jax

from corda_jax.errors import UserError

_ADDRESS, _COUNT, _INDEX = (
  "JAX_COORDINATOR_ADDRESS",
  "JAX_NUM_PROCESSES",
  "JAX_PROCESS_ID",
)
_ASK_AGAIN = 10_000  # milliseconds between polls of a waiting process
_meetings = itertools.count()  # all processes reach the same ones in the same order


def join_processes() -> int:
  """Joins this process to the others of a run. Call it before any device is used.

  JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID identify
  the others and this process. If none is set, the scheduler is asked: Slurm, a TPU pod or Open MPI.

  Returns:
    Index of this process, from 0.

  Raises:
    UserError: only some of the variables are set, one is not a number, or none is set and there is
      no scheduler.
  """
  given = {name: os.environ[name] for name in (_ADDRESS, _COUNT, _INDEX) if os.environ.get(name)}
  arguments = {}
  if given:
    if missing := [name for name in (_ADDRESS, _COUNT, _INDEX) if name not in given]:
      raise UserError(
        f"--multihost found {', '.join(given)} in the environment but not {', '.join(missing)}: "
        "set all three, or none if Slurm, a TPU pod or Open MPI starts the processes"
      )
    if wrong := [name for name in (_COUNT, _INDEX) if not given[name].isdecimal()]:
      raise UserError(f"{wrong[0]} is {given[wrong[0]]!r}, expected a whole number")
    arguments = {
      "coordinator_address": given[_ADDRESS],
      "num_processes": int(given[_COUNT]),
      "process_id": int(given[_INDEX]),
    }
  try:
    jax.distributed.initialize(**arguments)
  except (ValueError, RuntimeError) as error:
    raise UserError(
      f"--multihost cannot join other processes: {error} Set {_ADDRESS}, {_COUNT} and {_INDEX}, "
      "or start the program with Slurm, on a TPU pod or with Open MPI; for one process, omit "
      "--multihost"
    ) from error
  return jax.process_index()


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
  """Runs the body on process 0 first, then on the others.

  For work that leaves files: the others find them done or, on a disk of their own, do the work too.
  It may take hours: they wait on the coordinator, since collectives between devices time out.

  Args:
    name: name of the work, the same in all processes.

  Raises:
    UserError: another process failed in the body.
  """
  meeting = f"{name} {next(_meetings)}"
  if jax.process_index() > 0:
    _wait_for(0, meeting)
  try:
    yield
  except BaseException:
    _announce(meeting, "failed")
    raise
  _meet(meeting)


def wait_for_all(name: str) -> None:
  """Returns when every process has reached the point of this name."""
  _meet(f"{name} {next(_meetings)}")


def _meet(meeting: str) -> None:
  _announce(meeting, "done")
  for index in range(jax.process_count()):
    _wait_for(index, meeting)


def _client():
  """JAX's client of the coordinator, the only way to wait for processes without a collective.

  JAX has no public name for it. The import is local, so a single process never needs it.
  """
  from jax._src import distributed

  return distributed.global_state.client


def _announce(meeting: str, outcome: str) -> None:
  if jax.process_count() > 1:
    _client().key_value_set(f"{meeting}/{jax.process_index()}", outcome)


def _wait_for(index: int, meeting: str) -> None:
  """Waits without a limit; if the coordinator is lost, JAX itself ends the process."""
  outcome = "done" if index == jax.process_index() else None
  while outcome is None:
    try:
      outcome = _client().blocking_key_value_get(f"{meeting}/{index}", _ASK_AGAIN)
    except jax.errors.JaxRuntimeError as error:
      if "DEADLINE_EXCEEDED" not in str(error):
        raise
  if outcome != "done":
    raise UserError(f"process {index} failed: see its output for the reason")
