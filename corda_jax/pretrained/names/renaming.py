"""Between the names of two kinds of files of one network, such as its authors' and the Hub's."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from corda_jax.pretrained.names.tables import pattern_regex

Tensors = dict[str, np.ndarray]


class Rule(NamedTuple):
  """One tensor of the one file and what it is in the other.

  Attributes:
    name: pattern of the original name, with parts in braces.
    parts: patterns of the other names; along the first axis they make up the tensor. "": zeros,
      which the other file does not have.
    leading_axis: whether the other file has one more axis, of length 1, in front.
  """

  name: str
  parts: tuple[str, ...]
  leading_axis: bool = False


def to_original(tensors: Mapping[str, np.ndarray], rules: Iterable[Rule]) -> Tensors:
  """The tensors under their original names; those that no rule fits keep theirs.

  Of two tensors of one name, the one that a rule renames is taken: SegFormer's files also hold a
  classifier that its network does not use.
  """
  left, found = dict(tensors), {}
  for rule in rules:
    regex = re.compile(pattern_regex(rule.parts[0]))
    for first in [name for name in left if regex.fullmatch(name)]:
      fields = regex.fullmatch(first).groupdict()
      names = [part.format(**fields) for part in rule.parts]
      if not all(name in left for name in names if name):
        continue
      values = [left.pop(name) if name else np.zeros_like(tensors[first]) for name in names]
      if rule.leading_axis and values[0].shape[:1] == (1,):
        values = [value[0] for value in values]
      found[rule.name.format(**fields)] = np.concatenate(values) if len(values) > 1 else values[0]
  return left | found


def to_other(tensors: Mapping[str, np.ndarray], rules: Iterable[Rule]) -> Tensors:
  """The tensors under the other names, without those that no rule fits."""
  found: Tensors = {}
  for name, value in tensors.items():
    for rule in rules:
      if fields := re.fullmatch(pattern_regex(rule.name), name):
        value = value[None] if rule.leading_axis else value
        values = np.split(value, len(rule.parts)) if len(rule.parts) > 1 else [value]
        found |= {
          part.format(**fields.groupdict()): each
          for part, each in zip(rule.parts, values, strict=True)
          if part
        }
        break
  return found
