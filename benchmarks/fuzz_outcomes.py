"""What a fuzzed reader is asked, and how its answers are told apart."""

import random
from typing import Any, NamedTuple, Protocol

from corda_jax.errors import shown

RIGHT, KIND, TOLD, WRONG = "read: right", "read: of the kind", "told", "wrong value"
_LONGEST_LINE = 2_000  # characters that an error may have


class Input(NamedTuple):
  """One input.

  Attributes:
    value: what the target reads.
    same: whether, where it can be read, what comes must be what the good input holds.
  """

  value: Any
  same: bool


class Target(Protocol):
  """Something that reads inputs.

  Attributes:
    errors: that the program shows its user in one line.
  """

  errors: tuple[type[Exception], ...]

  def make(self, random: random.Random) -> Input:
    """One malformed input."""

  def read(self, value: Any) -> Any:
    """What the program makes of it."""

  def judge(self, found: Any, made: Input) -> str:
    """RIGHT: what came is what the input says; KIND: it may be, and nothing tells; or WRONG."""


def outcome_of(target: Target, seed: int, number: int) -> tuple[str, str]:
  """The outcome of one input, and what was told."""
  made = target.make(random.Random(f"{seed} {number}"))
  try:
    outcome = target.judge(found := target.read(made.value), made)
  except target.errors as error:
    told = shown(error)
    if not told.strip() or "\n" in told or len(told) > _LONGEST_LINE:
      return "other error", f"not one clear line: {told[:200]!r}"
    return TOLD, told[:200]
  except Exception as error:
    return "other error", f"{type(error).__name__}: {error}"[:200]
  return outcome, repr(found)[:200] if outcome == WRONG else ""
