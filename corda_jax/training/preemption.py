"""Stopping when asked to: by a scheduler (SIGTERM), or a terminal that closes (SIGHUP)."""

import signal
import threading
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint.multihost import reached_preemption


class Preemption:
  """Notices SIGTERM and SIGHUP while it is entered.

  Several processes agree on a step: each may get SIGTERM at another time, or one of them alone.
  They do not hear SIGHUP.

  Attributes:
    signal_name: of the signal that came; SIGTERM until one has.
  """

  signal_name = "SIGTERM"

  def __init__(self) -> None:
    """Asks nothing yet."""
    # `jax.distributed.initialize` takes the signal itself, and gives it to all processes.
    self._shared = jax.distributed.is_initialized() and jax.config.jax_enable_preemption_service
    self._asked = threading.Event()
    self._before: dict[signal.Signals, Any] = {}

  def __enter__(self) -> "Preemption":
    """Begins to listen; outside the main thread Python hears no signals."""
    if not self._shared and threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as it is under nohup
          self._before[number] = signal.signal(number, self._hear)
    return self

  def _hear(self, number: int, _frame: Any) -> None:
    self.signal_name = signal.Signals(number).name
    self._asked.set()

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    """Gives the signal back."""
    for number, before in self._before.items():
      signal.signal(number, before)

  def reached(self, step: int) -> bool:
    """Whether to save and stop after `step`: the same answer in all processes."""
    if self._shared:
      return reached_preemption(step)
    return self._asked.is_set()

  @property
  def asked(self) -> bool:
    """Whether this process, alone in its run, was asked to stop; of several each goes on."""
    return self._asked.is_set()
