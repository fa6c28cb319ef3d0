"""Random numbers of a training sample, a function of the seed and of the sample's number alone."""

import itertools
from collections.abc import Iterator

import numpy as np


def random_words(key: tuple[int, int], sample: int) -> Iterator[int]:
  """Random 64-bit words without end; those of two samples never overlap.

  They are raw bits, because NumPy does not promise its distributions across versions.

  Args:
    key: the seed, and what distinguishes streams of one seed; each 0 … 2⁶⁴ - 1.
    sample: number of the sample, 0 … 2⁶³ - 1.
  """
  # A counter gives four words. Its lowest word is the sample's number, the next one counts blocks.
  for block in itertools.count():
    yield from np.random.Philox(key=key, counter=sample + (block << 64)).random_raw(4).tolist()


def random_below(words: Iterator[int], count: int) -> int:
  """A random number among 0 … count - 1, from one word; equally likely to within count / 2⁶⁴."""
  return next(words) * count >> 64
