"""Which frame and crop a training sample is; those that show rare classes may be seen more often.

Source of rare class sampling: Hoyer et al., DAFormer, CVPR 2022; frames and crops as in its
released code.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from corda_jax.errors import UserError
from data_pipelines.crops import Crops, Cut, ReadLabel, Window
from data_pipelines.random_words import random_below, random_words
from data_pipelines.settings import RareClasses


def class_probabilities(
  label_pixels: ArrayLike, *, temperature: float, min_pixels: int = 0
) -> np.ndarray:
  """Probability of each class to be sampled, P(c) = softmax((1 - f_c) / T).

  f_c is the share of class c in the labelled pixels of all frames. The softmax is over the classes
  that have a frame of more than `min_pixels` of their pixels: others cannot be sampled, and have
  probability 0.

  Args:
    label_pixels: number of pixels of each class in each frame, integers [frames, classes].
    temperature: T, above 0. The lower it is, the more the rarest classes prevail.
    min_pixels: pixels of a class that a frame must exceed.

  Returns:
    float64 [classes], with sum 1.

  Raises:
    UserError: no class has such a frame.
  """
  pixels = np.asarray(label_pixels, np.int64)
  has_frame = (pixels > min_pixels).any(axis=0)
  if not has_frame.any():
    raise UserError(
      f"rare_classes.min_pixels is {min_pixels}, but no frame has more than "
      f"{pixels.max(initial=0)} pixels of a class: set it to less than that"
    )
  frequency = pixels.sum(axis=0) / pixels.sum()
  logits = np.where(has_frame, (1 - frequency) / temperature, -np.inf)
  weights = np.exp(logits - logits.max())
  return weights / weights.sum()


class RareClassSampler:
  """Samples a class by its probability, one of the frames that show it, and a crop that does.

  Args:
    settings: its settings.
    label_pixels: number of pixels of each class in each frame at the size of the labels' files,
      integers [frames, classes].

  Raises:
    UserError: no frame has enough pixels of any class.
  """

  def __init__(self, settings: RareClasses, label_pixels: ArrayLike):
    pixels, least = np.asarray(label_pixels), settings.min_pixels
    probabilities = class_probabilities(pixels, temperature=settings.temperature, min_pixels=least)
    ends = np.cumsum(probabilities)
    self._ends = ends / ends[-1]  # the last is exactly 1
    self._frames = [np.flatnonzero(of_class > least) for of_class in pixels.T]
    self._settings = settings

  def frame(self, words: Iterator[int]) -> tuple[int, int]:
    """A class, and the number of a frame that shows it, from random words."""
    uniform = (next(words) >> 11) * 2.0**-53
    sampled = int(np.searchsorted(self._ends, uniform, side="right"))
    frames = self._frames[sampled]
    return sampled, int(frames[random_below(words, len(frames))])

  def crop(self, sampled: int, next_window: Callable[[], Window], read_label: ReadLabel) -> Window:
    """A window that shows enough of a class; after `tries` that do not, the next one, unseen.

    Args:
      sampled: the class.
      next_window: samples a window of the frame.
      read_label: reads a window of the frame's label.
    """
    enough = self._settings.min_pixels * self._settings.min_crop_ratio
    for _ in range(self._settings.tries):
      window = next_window()
      if np.count_nonzero(read_label(window) == sampled) > enough:
        return window
    return next_window()


@dataclasses.dataclass(frozen=True)
class Sampler:
  """Chooses a training sample's frame, and what is cut from it.

  Attributes:
    crops: the windows that are cut from frames.
    flip: whether half of the crops are mirrored.
    rare: sampling by rare classes; None: each epoch shows every frame once.
    seeds: the seed, and the number of the domain.
  """

  crops: Crops
  flip: bool
  rare: RareClassSampler | None
  seeds: tuple[int, int]

  def __call__(
    self, sample: int, number: int, read_label: Callable[[int, Window], np.ndarray]
  ) -> tuple[int, Cut]:
    """The number of a frame, and a crop of it.

    Args:
      sample: number of the sample.
      number: that of its frame in the epoch.
      read_label: number of a frame, and a window → training ids, uint8.
    """
    words, sampled = random_words(self.seeds, sample), 0
    if self.rare is not None:
      sampled, number = self.rare.frame(words)
    label = functools.lru_cache(1)(functools.partial(read_label, number))  # two rules read it

    def next_window():
      return self.crops.sample(words, label)

    window = next_window() if self.rare is None else self.rare.crop(sampled, next_window, label)
    return number, Cut(window, self.flip and bool(random_below(words, 2)))
