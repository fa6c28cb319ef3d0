"""Finds the previous and the next image of a frame by the number in its name."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from corda_jax.errors import UserError
from data_pipelines.frames import Frame


def with_neighbours(frames: Sequence[Frame], offsets: Mapping[str, int]) -> list[Frame]:
  """The frames that have their neighbours among the others, with them.

  The number of a frame is the last run of digits in its name, after the last "/"; a neighbour's
  name is equal but for its number, which may have other leading zeros.

  Args:
    frames: of a split.
    offsets: view ("previous", "next") → its number less that of the frame.

  Raises:
    UserError: two names have one number.
  """
  by_number: dict[tuple[str, int, str], Frame] = {}
  for frame in frames:
    key = _numbered(frame.name)
    if key is None:
      continue
    other = by_number.setdefault(key, frame)
    if other is not frame:
      raise UserError(
        f"{other.image!r} and {frame.image!r} have one number, {key[1]}, so it is not known which "
        "is a neighbour in time: rename one of them"
      )
  kept = []
  for (before, number, after), frame in by_number.items():
    views = {view: by_number.get((before, number + by, after)) for view, by in offsets.items()}
    if None not in views.values():
      images = {view: other.image for view, other in views.items()}
      kept.append(dataclasses.replace(frame, **images))
  return kept


def _numbered(name: str) -> tuple[str, int, str] | None:
  """What stands before the number, the number, and what stands after it."""
  match = re.fullmatch(r"(.*?)([0-9]+)([^0-9/]*)", name, re.DOTALL)
  return (match[1], int(match[2]), match[3]) if match else None
