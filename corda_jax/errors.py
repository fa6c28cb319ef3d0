"""The error that is meant for the user."""


class UserError(ValueError):
  """A mistake in what the user gave, not in the program.

  The message is one line for the user: what was given, what was wanted, how to mend it. The
  program prints it alone, without a traceback.
  """


_LONGEST = 1_000  # characters of an error that are shown


def shown(error: BaseException) -> str:
  """What the user reads of an error; what is very long, for it repeats what was given, is cut."""
  text = str(error)
  half = _LONGEST // 2
  return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"
