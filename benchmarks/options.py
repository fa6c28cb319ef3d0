"""Options and exit handling that the benchmarks' commands share."""

import argparse
import ast
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from corda_jax.errors import UserError


def load_config(name: str) -> Any:
  """The configuration configs/NAME.py; "NAME:argument" is a variant of it.

  Raises:
    UserError: there is none.
  """
  module, _, argument = name.partition(":")
  try:
    get_config = importlib.import_module(f"configs.{module}").get_config
  except ModuleNotFoundError as error:
    if error.name != f"configs.{module}":
      raise UserError(f"configs/{module}.py needs {error.name}, which is not installed") from error
    raise UserError(f"--config is {name!r}, expected the name of a file in configs") from error
  try:
    return get_config(argument) if argument else get_config()
  except (TypeError, ValueError) as error:
    raise UserError(f"--config is {name!r}: {error}") from error


def run_command(main: Callable[[], None]) -> None:
  """Runs a command; a `UserError` ends in one line and exit code 1."""
  try:
    main()
  except UserError as error:
    sys.exit(f"error: {error}")


def value(text: str) -> Any:
  """A Python literal, or the text itself where it is none."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def setting(text: str) -> tuple[str, Any]:
  """ "field=value" → the field's name and its `value`."""
  name, _, given = text.partition("=")
  return name, value(given)


def apply_settings(config: Any, settings: Mapping[str, Any]) -> None:
  """Changes fields of a configuration, in place, and locks it.

  Raises:
    UserError: there is no such field, or the value is of another type.
  """
  config.lock()  # else a misspelt field would be added to it
  try:
    config.update_from_flattened_dict(settings)
  except (KeyError, AttributeError, TypeError) as error:
    raise UserError(f"{dict(settings)} does not fit the configuration: {error}") from error


def add_set_option(parser: argparse.ArgumentParser, changed: str) -> None:
  """`--set FIELD=VALUE …`, which may be repeated, for `apply_settings`.

  Args:
    parser: gets the option.
    changed: what the settings change, for its help.
  """
  parser.add_argument(
    "--set",
    nargs="*",
    action="extend",
    default=[],
    type=setting,
    metavar="FIELD=VALUE",
    help=f"changes {changed}",
  )


def add_config_options(
  parser: argparse.ArgumentParser, default: str = "gta2cs", changed: str = "it"
) -> None:
  """Options that name a configuration: `chosen_config` reads them.

  Args:
    parser: gets the options.
    default: name of a configuration.
    changed: what `--set` changes, for its help.
  """
  parser.add_argument("--config", default=default, help="name of a file in configs/")
  add_set_option(parser, changed)


def chosen_config(options: argparse.Namespace, settings: Mapping[str, Any] | None = None) -> Any:
  """The configuration that the options name.

  Args:
    options: those of `add_config_options`, among others.
    settings: field → value; they take precedence over the options.

  Raises:
    UserError: there is none, or a field or a value does not fit.
  """
  config = load_config(options.config)
  apply_settings(config, dict(options.set) | dict(settings or {}))
  return config


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
  """Options that name configurations: `swept_configs` reads them."""
  add_config_options(parser)
  parser.add_argument(
    "--sweep",
    nargs="+",
    action="append",
    default=[],
    metavar=("FIELD", "VALUE"),
    help="a variant for each value; several sweeps: all combinations",
  )


def swept_configs(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
  """Name and configuration of every combination of the swept values.

  Raises:
    UserError: a sweep has no values, or a field or a value does not fit.
  """
  for field, *texts in options.sweep:
    if not texts:
      raise UserError(f"--sweep {field} names no value")
  sweeps = [[(field, value(text)) for text in texts] for field, *texts in options.sweep]
  for settings in itertools.product(*sweeps):
    config = chosen_config(options, dict(settings))
    name = ", ".join(f"{field.split('.')[-1]} {given}" for field, given in settings)
    yield name or options.config, config
