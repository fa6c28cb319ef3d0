"""Several processes, on one host or on many, that train together."""

import contextlib
import os
from collections.abc import Iterator

import jax

from corda_jax.errors import UserError
from corda_jax.training.sharding import wait_for_all

_ADDRESS, _COUNT, _INDEX = (
  "JAX_COORDINATOR_ADDRESS",
  "JAX_NUM_PROCESSES",
  "JAX_PROCESS_ID",
)


def join_processes() -> None:
  """Makes this process one of those that train together; before anything else touches a device.

  JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say where
  the others are and which this one is. Where none of them is set, the scheduler says it: Slurm, a
  TPU pod or Open MPI.

  Raises:
    UserError: some of the variables are set and others are not, a number is none, or there is no
      scheduler.
  """
  given = {name: os.environ[name] for name in (_ADDRESS, _COUNT, _INDEX) if os.environ.get(name)}
  arguments = {}
  if given:
    if missing := [name for name in (_ADDRESS, _COUNT, _INDEX) if name not in given]:
      raise UserError(
        f"--multihost finds {', '.join(given)} in the environment and not {', '.join(missing)}: "
        "set all three, or none where Slurm, a TPU pod or Open MPI starts the processes"
      )
    if wrong := [name for name in (_COUNT, _INDEX) if not given[name].isdecimal()]:
      raise UserError(f"{wrong[0]} is {given[wrong[0]]!r}, wanted a whole number")
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
      "or start the program by Slurm, on a TPU pod or by Open MPI; alone, leave --multihost out"
    ) from error


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
  """What stands in this context, process 0 does before all others do it.

  For work that leaves files: the others find them done, or, on a disk of their own, do it too.

  Args:
    name: of the work, the same in all processes.
  """
  if jax.process_index() > 0:
    wait_for_all(name)
  yield
  if jax.process_index() == 0:
    wait_for_all(name)
