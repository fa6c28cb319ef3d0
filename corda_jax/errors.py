"""Errors that are meant for the user, and the request to stop."""

import signal


class UserError(ValueError):
  """A mistake in what the user gave, not in the program.

  The message is one line for the user: what was given, what was expected, how to fix it. The
  program prints it alone, without a traceback.
  """


def first_line(error: BaseException | None) -> str:
  """What an error says, in one line."""
  return next(iter(str(error).strip().splitlines()), type(error).__name__)


_LONGEST = 1_000  # characters of an error that are shown


def shown(error: BaseException) -> str:
  """What the user reads of an error; what is very long, for it repeats what was given, is cut."""
  text = str(error)
  half = _LONGEST // 2
  return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


# A shell's exit code for a program that SIGTERM ended; schedulers know it as such.
EXIT_CODE = 128 + signal.SIGTERM


class Preempted(BaseException):
  """The run was asked to stop; its state is saved. Like Ctrl-C no error of the program's.

  Attributes:
    step: of the checkpoint that it left.
  """

  def __init__(self, step: int, signal_name: str = "SIGTERM"):
    """See the class."""
    super().__init__(f"Stopped by {signal_name} after step {step}")
    self.step = step
