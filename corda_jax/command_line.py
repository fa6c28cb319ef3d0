"""The command line: flags, overrides of a configuration, and one-line errors about both.

Parsing imports neither JAX nor TensorFlow, so a mistake is reported at once.
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from corda_jax.configuration import flatten
from corda_jax.errors import UserError

MODES = (
  *("prepare", "train", "evaluate", "predict", "label_depth", "report"),
  *("export", "import_torch", "export_torch"),
)

_FIELD = re.compile(r"--?config(\.\w+|\[-?\d+\])+")


class Command(NamedTuple):
  """A parsed command line.

  Attributes:
    config: the configuration with its overrides; locked.
    workdir: folder of the run.
    mode: the job, one of `MODES`.
    multihost: whether to join the other processes of the run.
  """

  config: Any
  workdir: Path
  mode: str
  multihost: bool


def define_flags(values: flags.FlagValues, arguments: list[str] | None = None) -> None:
  """Defines the flags of the command.

  Args:
    values: where to define them.
    arguments: command line with the overrides of the configuration; None: that of this process.
  """
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration file.",
    flag_values=values,
    lock_config=True,
    sys_argv=arguments,
  )
  flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: checkpoints, curves, results.",
    flag_values=values,
  )
  flags.DEFINE_enum("mode", "train", MODES, "The job.", flag_values=values)
  flags.DEFINE_bool(
    "multihost",
    False,
    "Join the other processes of this run, on this host or on others.",
    flag_values=values,
  )


def parse_flags(arguments: list[str], values: flags.FlagValues) -> list[str]:
  """Parses the flags, including the overrides of the configuration.

  Args:
    arguments: the command line, starting with the name of the program.
    values: the defined flags, which receive their values.

  Returns:
    The positional arguments.

  Raises:
    UserError: an unknown flag or field, a value of the wrong type, and so on, in one line.
  """
  arguments = [
    re.sub(r"(?<=^-config=)~[^:]*|(?<=^--config=)~[^:]*", lambda p: os.path.expanduser(p[0]), each)
    for each in arguments
  ]
  for argument in arguments:
    # The library parses such a name as Python, so anything after a # would be ignored.
    name = argument.split("=")[0]
    if name.startswith(("-config.", "--config.")) and not _FIELD.fullmatch(name):
      raise UserError(f"unknown configuration field: {name.lstrip('-')!r}")
  try:
    positional = values(arguments)
    if values["config"].value is not None:
      values["config"].value.items  # noqa: B018 (one that cannot be loaded fails on access)
  except flags.Error as error:
    message = str(error)
    if "Traceback" in message:  # raised by the configuration file; its last line has the error
      message = message.splitlines()[-1].partition(": ")[2]
    elif not any(each.split("=")[0] in ("--config", "-config") for each in arguments):
      message = _MISSING_CONFIG
    elif isinstance(error, flags.UnrecognizedFlagError) and error.flagname.startswith("jax_"):
      message = f"--{error.flagname} is not a flag: set {error.flagname.upper()} in the environment"
  except IndexError:  # its message may not name the field
    places = [name for name in (argument.split("=")[0] for argument in arguments) if "[" in name]
    message = f"unknown configuration field: {' or '.join(places)}"
  except (AttributeError, KeyError) as error:
    # 'name' or "'name'\\nDid you mean …?"
    text = str(error.args[0]).replace("\\n", "\n").replace("\\", "")
    name, *hint = (part.strip("\"'") for part in text.split("\n"))
    message = ". ".join((f"unknown configuration field: {name}", *hint))
  except SyntaxError as error:
    message = f"--config is not a Python file with a configuration: {error}"
  except (OSError, TypeError, ValueError) as error:
    message = str(error)
    if "No such file" in message:
      message = f"the configuration file {message.rpartition(': ')[2]} does not exist"
    elif "earlier failure to load" in message:
      message = f"--config cannot be loaded: {message.partition('load: ')[2]}"
  else:
    if values["config"].value is None:
      raise UserError(_MISSING_CONFIG)
    _refuse_nothing(values["config"].value)
    return positional
  if "get_config() takes" in message:
    message = "this configuration takes no preset: remove ':' and what follows it in --config"
  raise UserError(" ".join(message.split()))


_MISSING_CONFIG = "--config is missing: name a configuration, such as --config=configs/demo.py"


def read_command(values: flags.FlagValues, positional: list[str]) -> Command:
  """Makes a command of parsed flags.

  Args:
    values: flags that `parse_flags` has set.
    positional: positional arguments that `parse_flags` returned, the name of the program first.

  Raises:
    UserError: there is an argument that is not a flag, or --workdir is missing.
  """
  if len(positional) > 1:
    raise UserError(f"unknown argument {positional[1]!r}: flags start with --")
  config, mode, workdir = (values[name].value for name in ("config", "mode", "workdir"))
  of_a_run = mode != "prepare" and config.get("task") != "depth_anything"
  if not workdir and of_a_run:
    raise UserError("--workdir is missing: name the folder of the run")
  _expand_home(config)
  workdir = Path(os.path.expanduser(workdir or ""))
  return Command(config, workdir, mode, values["multihost"].value)


def _expand_home(config: Any) -> None:
  """Replaces a leading ~ in values by the home folder, since shells do not after a "="."""
  for name, value in config.items():
    if isinstance(value, type(config)):
      _expand_home(value)
    elif isinstance(value, str) and value.startswith("~"):
      config[name] = os.path.expanduser(value)


def _refuse_nothing(config: Any) -> None:
  """Raises UserError if a value is None, which some fields accept but none gives a meaning."""
  for name, value in flatten(config.to_dict()).items():
    if value is None or (isinstance(value, tuple | list) and None in value):
      raise UserError(f"config.{name} is {value}, expected a value: omit it to keep the default")
