"""The command line: flags and overrides of a configuration, and what is told of wrong ones."""

import re
from typing import Any

from absl import flags

from corda_jax.errors import UserError
from corda_jax.training.run_files import flatten

_FIELD = re.compile(r"--?config(\.\w+|\[-?\d+\])+")


def parse_flags(arguments: list[str], values: flags.FlagValues) -> list[str]:
  """Parses flags, among them those of the configuration file "config".

  Args:
    arguments: of the command, its name first.
    values: the flags that are defined; set by this.

  Returns:
    The arguments that are no flags.

  Raises:
    UserError: an unknown flag or field, a value of the wrong type, and so on, in one line.
  """
  for argument in arguments:
    # The library reads such a name as Python, so that what follows a # would be left out.
    name = argument.split("=")[0]
    if name.startswith(("-config.", "--config.")) and not _FIELD.fullmatch(name):
      raise UserError(f"unknown configuration field: {name.lstrip('-')!r}")
  try:
    positional = values(arguments)
    values["config"].value.num_steps  # noqa: B018 (one that cannot be loaded fails on access)
  except flags.Error as error:
    message = str(error)
    if not any(argument.split("=")[0] in ("--config", "-config") for argument in arguments):
      message = "--config is missing: name a configuration, such as --config=configs/demo.py"
    if "Traceback" in message:  # raised by the configuration file itself: the last line says what
      message = message.splitlines()[-1].partition(": ")[2]
  except (AttributeError, KeyError) as error:
    # 'name' or "'name'\\nDid you mean …?"
    text = str(error.args[0]).replace("\\n", "\n").replace("\\", "")
    name, *hint = (part.strip("\"'") for part in text.split("\n"))
    message = ". ".join((f"unknown configuration field: {name}", *hint))
  except (OSError, TypeError, ValueError) as error:
    message = str(error)
    if "No such file" in message:
      message = f"the configuration file {message.rpartition(': ')[2]} is not there"
  else:
    _refuse_nothing(values["config"].value)
    return positional
  if "get_config() takes" in message:
    message = "this configuration takes no preset: leave out what follows ':' in --config"
  raise UserError(" ".join(message.split()))


def _refuse_nothing(config: Any) -> None:
  """None is taken by some fields, tuples among them, and means nothing in any."""
  for name, value in flatten(config.to_dict()).items():
    if value is None or (isinstance(value, tuple | list) and None in value):
      raise UserError(f"config.{name} is {value}, wanted a value: leave it out to keep the default")
