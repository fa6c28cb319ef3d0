"""Training from batches in memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Batch = Mapping[str, Any]


class MemoryFeed:
  """Batches for `train`, without files; pictures show evaluated frames.

  Args:
    train: function of a step that returns batches for the steps after it.
    frames: function that returns batches of the validation set, once through.
  """

  def __init__(
    self, train: Callable[[int], Iterator[Batch]], frames: Callable[[], Iterable[Batch]]
  ):
    self.train, self._frames = train, frames

  def frames(self, need: Any, spread: int = 0) -> Iterable[Batch]:
    """The validation set, whatever is asked for."""
    return self._frames()


class NoWriter:
  """A writer for runs whose history suffices."""

  def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes nothing."""

  def write_images(self, step: int, images: Mapping[str, Any]) -> None:
    """Writes nothing."""
