"""Converts the settings of parts between dataclasses and a configuration.

A part is a dataclass or a Flax module. Its fields are its settings, with the defaults of the
configuration. Its `__post_init__` checks them and raises `ValueError` with a message that starts
with the name of the field. `settings` makes the section of a configuration that describes a part;
`build` makes the part that a section describes.

    config.terms.feature_distance = settings(FeatureDistance, weight=0.01)
    term = build(config.terms.feature_distance, "terms.feature_distance")
"""

import dataclasses
import difflib
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from corda_jax.errors import UserError

_PART = "part"  # the field of a section that names its class, "package.module:Class"
_SECTIONS = (Mapping, ml_collections.ConfigDict)
_OF_FLAX = ("parent", "name")  # fields of Flax modules that are no settings


def given(default: Any) -> Any:
  """A field that is not a setting: the code that builds the part passes it."""
  return dataclasses.field(default=default, metadata={"given": True})


def free(default: Any) -> Any:
  """A setting that does not affect the results of training: a resumed run may change it."""
  return dataclasses.field(default=default, metadata={"free": True})


def settings(part: type | Any, **values: Any) -> ml_collections.ConfigDict:
  """The section of a configuration that describes a part.

  Args:
    part: class of the part, or an instance whose values become the defaults.
    **values: fields whose values differ from the defaults.
  """
  made = part(**values) if isinstance(part, type) else dataclasses.replace(part, **values)
  section = _section(made)
  section[_PART] = _name_of(made)
  return section


def _section(part: Any) -> ml_collections.ConfigDict:
  section = ml_collections.ConfigDict()
  for field in _settings_of(type(part)):
    value = getattr(part, field.name)
    if isinstance(value, Mapping):
      value = ml_collections.ConfigDict(value)
    if _is_part(value):
      below = _section(value)
      if type(value) is not _type_of(field):
        below[_PART] = _name_of(value)
      value = below
    section[field.name] = value
  return section


def _name_of(part: Any) -> str:
  return f"{type(part).__module__}:{type(part).__qualname__}"


def build(
  section: Mapping[str, Any], where: str = "", *, default: Any = None, **shared: Any
) -> Any:
  """Builds the part that a section describes.

  Args:
    section: section made by `settings`, possibly with changed values.
    where: name of the section in the configuration, for errors.
    default: class of a section that names none.
    **shared: values of `given` fields, for this part and all nested parts that have them.

  Raises:
    UserError: a field is unknown or its value is invalid; the message names it.
  """
  section = dict(section)
  cls = _load(section.pop(_PART), where) if _PART in section else default
  if cls is None:
    raise UserError(f"{where or 'the configuration'} does not name its part: set {where}.part")
  prefix = where and f"{where}."
  known = {field.name: field for field in _settings_of(cls)}
  if unknown := [name for name in section if name not in known]:
    raise UserError(_unknown(prefix + unknown[0], known, cls))
  values = {
    field.name: shared[field.name]
    for field in dataclasses.fields(cls)
    if field.init and field.name in shared and field.name not in known
  }
  for name, value in section.items():
    if isinstance(value, _SECTIONS) and (_PART in value or _is_part(known[name].default)):
      values[name] = build(value, prefix + name, default=_type_of(known[name]), **shared)
    elif isinstance(value, _SECTIONS):
      values[name] = dict(value)
    else:
      values[name] = _frozen(value)
      _check_finite(prefix + name, value)
  try:
    return cls(**values)
  except UserError as error:
    raise error if str(error).startswith(prefix) else UserError(f"{prefix}{error}") from error
  except (ValueError, TypeError) as error:
    raise UserError(f"{prefix}{error}") from error


def free_fields(config: Mapping[str, Any], cls: type | None = None) -> Iterator[str]:
  """Yields the dotted names of the fields and sections that a resumed run may change.

  Args:
    config: configuration or section.
    cls: class of its settings if it names none. A class attribute `free = True` makes all of its
      fields free.
  """
  cls = _load(config[_PART], "") if _PART in config else cls
  known = {} if cls is None else {field.name: field for field in _settings_of(cls)}
  of_all = getattr(cls, "free", False)
  for name, value in config.items():
    field = known.get(name)
    if of_all or (field is not None and field.metadata.get("free")):
      yield name
    elif isinstance(value, _SECTIONS):
      below = free_fields(value, field and _type_of(field))
      yield from (f"{name}.{each}" for each in below)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Flattens nested mappings into one with dotted names."""
  flat = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat


def check_at_least(part: Any, **least: float) -> None:
  """Raises ValueError if a field is below its least value or NaN."""
  for name, value in least.items():
    if not getattr(part, name) >= value:
      raise ValueError(f"{name} is {getattr(part, name)}, expected {value} or more")


def check_above(part: Any, **bounds: float) -> None:
  """Raises ValueError if a field is not above its bound."""
  for name, bound in bounds.items():
    if not getattr(part, name) > bound:
      raise ValueError(f"{name} is {getattr(part, name)}, expected more than {bound}")


def check_within(part: Any, **ranges: tuple[float, float]) -> None:
  """Raises ValueError if a field is outside its closed range or NaN."""
  for name, (least, most) in ranges.items():
    if not least <= getattr(part, name) <= most:
      raise ValueError(f"{name} is {getattr(part, name)}, expected {least} to {most}")


def check_one_of(part: Any, **choices: Sequence[Any]) -> None:
  """Raises ValueError if a field is not one of its choices."""
  for name, known in choices.items():
    if getattr(part, name) not in known:
      expected = " or ".join(map(repr, known))
      raise ValueError(f"{name} is {getattr(part, name)!r}, expected {expected}")


def check_subset(part: Any, **choices: Sequence[str]) -> None:
  """Raises ValueError if a field has an element that is not one of its choices."""
  for name, known in choices.items():
    value = tuple(getattr(part, name))
    if not set(value) <= set(known):
      raise ValueError(f"{name} is {value}, expected some of: {', '.join(known)}")


def check_whole_numbers(part: Any, *names: str) -> None:
  """Raises ValueError if a field is not a non-empty tuple of whole numbers of 1 or more."""
  for name in names:
    value = getattr(part, name)
    whole = isinstance(value, Sequence) and all(type(x) is int and x >= 1 for x in value)
    if not whole or not value:
      raise ValueError(f"{name} is {value}, expected whole numbers of 1 or more, such as (1, 2)")


def _settings_of(cls: type) -> list[dataclasses.Field]:
  return [
    field
    for field in dataclasses.fields(cls)
    if field.init and field.name not in _OF_FLAX and not field.metadata.get("given")
  ]


def _is_part(value: Any) -> bool:
  return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _type_of(field: dataclasses.Field) -> type | None:
  return type(field.default) if _is_part(field.default) else None


def _load(name: Any, where: str) -> type:
  module, _, qualname = str(name).partition(":")
  try:
    found = getattr(importlib.import_module(module), qualname)
  except (ImportError, AttributeError, ValueError) as error:
    raise UserError(
      f"{where}.part is {name!r}, which cannot be imported ({error}): expected 'module:Class'"
    ) from error
  if not dataclasses.is_dataclass(found):
    raise UserError(f"{where}.part is {name!r}, expected a dataclass or a Flax module")
  return found


def _unknown(name: str, known: Mapping[str, Any], cls: type) -> str:
  if name.rpartition(".")[2] in (field.name for field in dataclasses.fields(cls)):
    return f"{name} is not a setting, it follows from the rest of the configuration: remove it"
  close = difflib.get_close_matches(name.rpartition(".")[2], known, 1)
  hint = f"; did you mean {close[0]!r}?" if close else f", expected one of: {', '.join(known)}"
  return f"unknown configuration field: {name}{hint}"


def _frozen(value: Any) -> Any:
  if isinstance(value, Sequence) and not isinstance(value, str):
    return tuple(map(_frozen, value))
  return value


def _check_finite(name: str, value: Any) -> None:
  for each in value if isinstance(value, tuple | list) else (value,):
    if isinstance(each, float) and not math.isfinite(each):
      raise UserError(f"{name} is {value}, expected finite numbers")
