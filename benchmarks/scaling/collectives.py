"""Counts the collectives of a compiled program."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping

from benchmarks.speed.operations import OTHER, part_of

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# %name = type operation(…), …; asynchronous ones are counted where they start.
_INSTRUCTION = re.compile(
  rf"^\s*(?:ROOT )?%[\w.\-]+ = (.*?) ({'|'.join(_KINDS)})(-start)?\((.*)$", re.MULTILINE
)
_ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([\d,]*)\]")
_SCOPES = re.compile(r'op_name="([^"]*)"')
_BYTES = {"pred": 1}
_CONTEXT = ("u32", "")  # context of asynchronous collectives on TPUs


@dataclasses.dataclass
class Messages:
  """Collectives of one kind.

  Attributes:
    count: operations.
    payload: bytes of their results on one device, those of all-reduces once.
  """

  count: int = 0
  payload: int = 0


def count_collectives(
  program: str, parts: frozenset[str] = frozenset()
) -> dict[tuple[str, str], Messages]:
  """Collectives by part and kind.

  Args:
    program: text of the optimised HLO of a program for several devices.
    parts: names of scopes (`jax.named_scope`) that are distinguished; the outermost of them counts.

  Returns:
    (part, kind) → messages; the part is one of `parts` or "other". Collectives in a
    loop's body count once.
  """
  found: dict[tuple[str, str], Messages] = defaultdict(Messages)
  for result, kind, start, rest in _INSTRUCTION.findall(program):
    arrays = [array for array in _ARRAY.findall(result) if array != _CONTEXT]
    if start and kind != "all-reduce":  # the result of a start holds the operands first
      arrays = arrays[len(arrays) // 2 :]
    scopes = _SCOPES.search(rest)
    messages = found[part_of(scopes[1], parts) if scopes else OTHER, kind]
    messages.count += 1
    messages.payload += sum(_bytes(*array) for array in arrays)
  return dict(found)


def _bytes(dtype: str, shape: str) -> int:
  size = _BYTES.get(dtype) or int(re.search(r"\d+", dtype)[0]) // 8
  for axis in filter(None, shape.split(",")):
    size *= int(axis)
  return size


def by_name(found: Mapping[tuple[str, str], Messages]) -> dict[str, dict[str, int]]:
  """What `count_collectives` found, JSON-ready: "part: kind" → count and payload."""
  return {f"{part}: {kind}": dataclasses.asdict(each) for (part, kind), each in found.items()}


def collectives_table(variants: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
  """Collectives as lines of Markdown, one per part and kind.

  Args:
    variants: name → the result of `by_name`.
  """
  lines = [f"| collectives (MB on each device) | {' | '.join(variants)} |"]
  lines.append("|---" * (len(variants) + 1) + "|")
  none = {"count": 0, "payload": 0}
  for row in sorted({name for found in variants.values() for name in found}):
    found = [each.get(row, none) for each in variants.values()]
    cells = [f"{each['count']} ({each['payload'] / 1e6:.2f})" for each in found]
    lines.append(f"| {row} | {' | '.join(cells)} |")
  return lines
