"""Stopping when a scheduler asks for it: SIGTERM, at the same step in all processes."""

import signal
import threading
from types import TracebackType

import jax
from orbax.checkpoint.multihost import reached_preemption


class Preemption:
  """Notices SIGTERM while it is entered.

  Several processes agree on a step: each may get the signal at another time, or one of them alone.
  """

  def __init__(self) -> None:
    """Asks nothing yet."""
    # `jax.distributed.initialize` takes the signal itself, and tells it to all processes.
    self._shared = jax.distributed.is_initialized() and jax.config.jax_enable_preemption_service
    self._asked = threading.Event()
    self._before = None

  def __enter__(self) -> "Preemption":
    """Begins to listen; outside the main thread Python hears no signals."""
    if not self._shared and threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGTERM, lambda *_: self._asked.set())
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    """Gives the signal back."""
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)

  def reached(self, step: int) -> bool:
    """Whether to save and stop after `step`: the same answer in all processes."""
    if self._shared:
      return reached_preemption(step)
    return self._asked.is_set()

  @property
  def asked(self) -> bool:
    """Whether this process, alone in its run, was asked to stop; of several each goes on."""
    return self._asked.is_set()
