"""Tries again what may come right by itself: disks of networks, full ones that are emptied."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, TypeVar

from corda_jax.errors import first_line

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Retries:
  """How often something is tried again.

  Attributes:
    times: after the first try.
    seconds: before each.
  """

  times: int
  seconds: float = 0.0

  def call(
    self,
    function: Callable[[], Result],
    errors: type[Exception],
    what: str,
    *,
    say: Callable[[str], Any],
  ) -> Result:
    """Calls a function until it does not raise.

    Args:
      function: what is tried.
      errors: kind of errors after which it is tried again; the last one is raised.
      what: has failed, for `say`.
      say: gets a line before each further try.
    """
    for left in range(self.times, 0, -1):
      try:
        return function()
      except errors as error:
        say(
          f"{what} ({first_line(error)}): trying again in {self.seconds:g} seconds, {left} times "
          "at most"
        )
        time.sleep(self.seconds)
    return function()
