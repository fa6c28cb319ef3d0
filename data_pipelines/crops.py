"""What training cuts from a frame: a window, sampled again where one class covers it, mirrored."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from corda_jax.labels import IGNORE
from data_pipelines.random_words import random_below

Window = tuple[int, int, int, int]  # top, left, height, width
ReadLabel = Callable[[Window], np.ndarray]  # window of a frame → its training ids, uint8 H W


class Cut(NamedTuple):
  """A crop of a frame.

  Attributes:
    window: (top, left, height, width).
    mirrored: whether it is then mirrored left-right.
  """

  window: Window
  mirrored: bool = False

  def border(self, frame: tuple[int, int]) -> np.ndarray:
    """int32[4], pixels of the frame (height, width) above, below, left and right of the crop.

    Left and right are as shown: they are swapped if the crop is mirrored.
    """
    top, left, height, width = self.window
    sides = [left, frame[1] - left - width]
    vertical = [top, frame[0] - top - height]
    return np.array(vertical + sides[:: -1 if self.mirrored else 1], np.int32)


@dataclasses.dataclass(frozen=True)
class Crops:
  """The windows that are cut from frames.

  Attributes:
    frame: height and width of the frames.
    size: height and width of a window.
    max_class_share: see `data_pipelines.settings.Frames`.
    tries: the same, its `crop_tries`.
  """

  frame: tuple[int, int]
  size: tuple[int, int]
  max_class_share: float = 1.0
  tries: int = 10

  def sample(self, words: Iterator[int], read_label: ReadLabel) -> Window:
    """A window at a uniformly random place, at which no class has too large a share.

    After `tries` windows that do not comply, the next one is taken unseen.

    Args:
      words: random words.
      read_label: reads a window of the frame's label.
    """
    for _ in range(self.tries if self.max_class_share < 1 else 0):
      window = self._anywhere(words)
      if is_varied(read_label(window), self.max_class_share):
        return window
    return self._anywhere(words)

  def _anywhere(self, words: Iterator[int]) -> Window:
    top, left = (
      random_below(words, length - part + 1)
      for length, part in zip(self.frame, self.size, strict=True)
    )
    return (top, left, *self.size)


def is_varied(label: np.ndarray, max_class_share: float) -> bool:
  """Whether a label shows several classes, the largest with less than a share of what is labelled.

  Args:
    label: training ids, uint8; 255 is left out.
    max_class_share: share, 0..1.
  """
  pixels = Image.fromarray(label).histogram()[:IGNORE]  # faster than NumPy's
  return max(pixels) < max_class_share * sum(pixels)
