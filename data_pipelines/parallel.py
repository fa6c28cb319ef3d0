"""A map over processes that keeps the order of its inputs."""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from corda_jax.errors import UserError

_WAITING_PER_PROCESS = 4  # tasks handed out ahead, so that no process waits for a slow first one


def ordered_map(
  function: Callable[[Any], Any], items: Iterable[Any], *, processes: int = 0
) -> Iterator[Any]:
  """Yields `function(item)` in the order of the items, computed by several processes.

  Args:
    function: importable by name; the processes import its module and nothing else.
    items: inputs; picklable.
    processes: number of processes; 0: one per core that this process may use; 1: this process.

  Raises:
    UserError: a process died.
  """
  processes = processes or available_cores()
  if processes == 1:
    yield from map(function, items)
    return
  executor = concurrent.futures.ProcessPoolExecutor(
    processes, multiprocessing.get_context("spawn"), initializer=_start_worker
  )
  waiting = collections.deque()
  items = iter(items)
  try:
    while True:
      for item in itertools.islice(items, processes * _WAITING_PER_PROCESS - len(waiting)):
        with _starting_processes():  # this call may start one
          waiting.append(executor.submit(function, item))
      if not waiting:
        return
      yield waiting.popleft().result()
  except BrokenProcessPool as error:
    raise UserError(
      f"one of {processes} preparing processes was killed, perhaps for lack of memory: "
      "lower data.prepare_processes"
    ) from error
  finally:
    executor.shutdown(wait=True, cancel_futures=True)


def available_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
  """Cores that this process may use; in a container no more than its quota.

  Args:
    quota: file of the control group with the quota and its period, in microseconds.
  """
  cores = len(os.sched_getaffinity(0))
  try:
    microseconds, period = map(int, quota.read_text().split())
  except (OSError, ValueError):  # another kind of machine, or "max"
    return cores
  return min(cores, max(1, -(-microseconds // period)))


@contextlib.contextmanager
def _starting_processes() -> Iterator[None]:
  """Makes new processes inherit an empty main module and a mask against Ctrl-C.

  They would import the program's main module, and TensorFlow with it. Ctrl-C reaches the whole
  process group, but the parent alone stops the others; it receives the signal after this.
  """
  main = sys.modules["__main__"]
  sys.modules["__main__"] = types.ModuleType("__main__")
  mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    sys.modules["__main__"] = main


def _start_worker() -> None:
  # A parent that is killed cannot stop its workers, which would wait for ever.
  threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)
