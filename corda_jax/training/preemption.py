"""Stops a run on request of a scheduler (SIGTERM) or a closing terminal (SIGHUP)."""

import signal
import threading
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint.multihost import reached_preemption


class Preemption:
  """Handles SIGTERM and SIGHUP inside its context.

  Several processes agree on a step to stop at: they may receive SIGTERM at different times, or only
  one of them may receive it. They do not handle SIGHUP.

  Attributes:
    signal_name: name of the signal received; "SIGTERM" before any is.
  """

  signal_name = "SIGTERM"

  def __init__(self) -> None:
    """Initially no stop is requested."""
    # `jax.distributed.initialize` handles the signal itself and forwards it to all processes.
    self._shared = jax.distributed.is_initialized() and jax.config.jax_enable_preemption_service
    self._asked = threading.Event()
    self._before: dict[signal.Signals, Any] = {}

  def __enter__(self) -> "Preemption":
    """Installs the handlers; outside the main thread Python allows none."""
    if not self._shared and threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup
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
    """Restores the previous handlers."""
    for number, before in self._before.items():
      signal.signal(number, before)

  def reached(self, step: int) -> bool:
    """Whether to save and stop after `step`; the same in all processes."""
    if self._shared:
      return reached_preemption(step)
    return self._asked.is_set()

  @property
  def asked(self) -> bool:
    """Whether this process was asked to stop; False if several processes agree by `reached`."""
    return self._asked.is_set()
