"""The error that is meant for the user."""


class UserError(ValueError):
  """A mistake in what the user gave, not in the program.

  The message is one line for the user: what was given, what was wanted, how to mend it. The
  program prints it alone, without a traceback.
  """
