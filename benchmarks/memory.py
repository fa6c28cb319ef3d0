"""Training from batches in memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Batch = Mapping[str, Any]


class MemoryFeed:
  """What `train` reads, without files; pictures show what is evaluated.

  Args:
    train: first step → batches for the step after it and all after that.
    frames: → batches of the validation set, once through.
  """

  def __init__(
    self, train: Callable[[int], Iterator[Batch]], frames: Callable[[], Iterable[Batch]]
  ):
    self.train, self._frames = train, frames

  def frames(self, need: Any, spread: int = 0) -> Iterable[Batch]:
    """The validation set, whatever is asked for."""
    return self._frames()


class NoWriter:
  """For runs whose history has all that is needed."""

  def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes nothing."""

  def write_images(self, step: int, images: Mapping[str, Any]) -> None:
    """Writes nothing."""
