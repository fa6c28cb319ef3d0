"""Errors for the user, and the request to stop."""

import signal


class UserError(ValueError):
  """An error in the input of the user, not in the program.

  The message is one line: what was given, what was expected, how to fix it. The program prints it
  without a traceback.
  """


def first_line(error: BaseException | None) -> str:
  """First line of the message of an error, or the name of its type if it is empty."""
  return next(iter(str(error).strip().splitlines()), type(error).__name__)


_LONGEST = 1_000  # characters shown of an error


def shown(error: BaseException) -> str:
  """Message of an error for the user; a very long one is shortened in the middle."""
  text = str(error)
  half = _LONGEST // 2
  return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


# A shell's exit code for a program ended by SIGTERM, which schedulers recognise.
EXIT_CODE = 128 + signal.SIGTERM


class Preempted(BaseException):
  """The run was asked to stop and its state is saved. Like Ctrl-C, it is not an error.

  Attributes:
    step: step of the checkpoint that was saved.
  """

  def __init__(self, step: int, signal_name: str = "SIGTERM"):
    """Makes the message of the signal and the step."""
    super().__init__(f"Stopped by {signal_name} after step {step}")
    self.step = step
