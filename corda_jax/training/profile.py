"""A profile of some steps of a run, at a given step or when SIGUSR1 asks for it."""

import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from corda_jax.errors import first_line


class Profile:
  """Writes traces to `workdir/tensorboard`, where TensorBoard's profile plug-in reads them.

  One that cannot be made or written is told, and the run goes on without it.

  Args:
    workdir: folder of the run.
    config: `at_step`, the first step of a profile (0: none but those that are asked for), and
      `steps`, the number of steps in one.
    tell: prints a line.
  """

  def __init__(self, workdir: Path, config: Any, *, tell: Callable[[str], None] = print):
    """Listens to SIGUSR1 until it is closed."""
    self._folder, self._config = Path(workdir) / "tensorboard", config
    self._asked, self._tell = threading.Event(), tell
    self._left = 0  # steps of the profile under way
    self._trace: tempfile.TemporaryDirectory | None = None  # where JAX writes it
    self._before = None
    if threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGUSR1, lambda *_: self._asked.set())

  @contextlib.contextmanager
  def step(self, step: int) -> Iterator[None]:
    """What stands in this context is step number `step`."""
    if not self._left and (self._asked.is_set() or step == self._config.at_step):
      self._asked.clear()
      with self._not_fatal():
        # Not in the run's folder: where stopping a trace fails, older JAX can never start another.
        self._trace = tempfile.TemporaryDirectory(prefix="profile_")
        jax.profiler.start_trace(self._trace.name)
        self._left = self._config.steps
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
    with self._not_fatal(), self._trace as trace:
      jax.profiler.stop_trace()
      shutil.copytree(trace, self._folder, dirs_exist_ok=True)
      self._tell(f"A profile lies in {self._folder}: tensorboard --logdir {self._folder}")

  @contextlib.contextmanager
  def _not_fatal(self) -> Iterator[None]:
    try:
      yield
    except (OSError, RuntimeError) as error:  # JAX's own is one of the latter
      if isinstance(error, shutil.Error):  # of many files: (from, to, why) of each
        error = error.args[0][0][-1]
      reason = first_line(error)
      self._tell(f"the profile cannot be written ({reason}); the run goes on")

  def close(self) -> None:
    """Ends a profile under way, and gives the signal back."""
    if self._left:
      self._left = 0
      self._stop()
    if self._before is not None:
      signal.signal(signal.SIGUSR1, self._before)
