"""Makes batches ahead, by several threads, and gives them out in order."""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import tensorflow as tf

READY_BATCHES = 4  # made ahead of the training step, besides those that are being made

T = TypeVar("T")


def in_order(make: Callable[[int], T], steps: Iterable[int], threads: int) -> Iterator[T]:
  """Yields `make(step)` in the order of the steps, made ahead by several threads; 0: one a core.

  tf.data would run Python's part of it, the reading, in threads of its own: those are stopped
  dead when the interpreter ends, and tf.data then waits for them for ever.
  """
  threads = threads or len(os.sched_getaffinity(0))
  _keep_off_accelerators()

  def make_on_host(step: int) -> T:
    with tf.device("CPU:0"):
      return make(step)

  executor = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="batches")
  steps = iter(steps)
  waiting = collections.deque()
  while True:
    for step in itertools.islice(steps, threads + READY_BATCHES - len(waiting)):
      waiting.append(executor.submit(make_on_host, step))
    if not waiting:
      return
    yield waiting.popleft().result()


def _keep_off_accelerators() -> None:
  """Leaves the accelerators' memory to JAX."""
  for kind in ("GPU", "TPU"):
    try:
      tf.config.set_visible_devices([], kind)
    except RuntimeError:  # TensorFlow has started them already; too late to hide them
      return
