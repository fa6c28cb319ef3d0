"""Retries operations that may recover, such as writes to a network disk or a full one."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, TypeVar

from corda_jax.errors import first_line

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Retries:
  """How often an operation is retried.

  Attributes:
    times: number of retries after the first try.
    seconds: seconds before each retry.
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
    """Calls a function until it succeeds.

    Args:
      function: function to call.
      errors: type of the errors after which it is retried; the last one is raised.
      what: description of the failure, for the message.
      say: prints a line before each retry.
    """
    for left in range(self.times, 0, -1):
      try:
        return function()
      except errors as error:
        say(
          f"{what} ({first_line(error)}): retrying in {self.seconds:g} seconds, at most {left} "
          "more times"
        )
        time.sleep(self.seconds)
    return function()
