"""A profile of some steps of a run, at a given step or when SIGUSR1 asks for it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax


class Profile:
  """Writes traces to `workdir/tensorboard`, where TensorBoard's profile plug-in reads them.

  Args:
    workdir: folder of the run.
    config: `at_step`, the first step of a profile (0: none but those that are asked for), and
      `steps`, the number of steps in one.
  """

  def __init__(self, workdir: Path, config: Any):
    """Listens to SIGUSR1 until it is closed."""
    self._folder, self._config = Path(workdir) / "tensorboard", config
    self._asked = threading.Event()
    self._left = 0  # steps of the profile under way
    self._before = None
    if threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGUSR1, lambda *_: self._asked.set())

  @contextlib.contextmanager
  def step(self, step: int) -> Iterator[None]:
    """What stands in this context is step number `step`."""
    if not self._left and (self._asked.is_set() or step == self._config.at_step):
      self._asked.clear()
      self._left = self._config.steps
      jax.profiler.start_trace(str(self._folder))
    if not self._left:
      yield
      return
    with jax.profiler.StepTraceAnnotation("train", step_num=step):
      yield
    self._left -= 1
    if not self._left:
      self._stop()

  def _stop(self) -> None:
    jax.effects_barrier()
    for array in jax.live_arrays():  # the device has done what the last step asked of it
      array.block_until_ready()
    jax.profiler.stop_trace()
    print(f"A profile lies in {self._folder}: tensorboard --logdir {self._folder}")

  def close(self) -> None:
    """Ends a profile under way, and gives the signal back."""
    if self._left:
      self._left = 0
      self._stop()
    if self._before is not None:
      signal.signal(signal.SIGUSR1, self._before)
