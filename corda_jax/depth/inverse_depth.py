"""Inverse depth, the scale on which depth files and depth heads agree.

Y = 655.36 / (metres + 0.01): 1 is as far as a 16-bit file of centimetres reaches, and means "no
depth"; the nearest value that the 16-bit files of depth networks hold, Y = 257, is 2.54 m.
"""

from typing import TypeVar

import jax
import numpy as np

Array = TypeVar("Array", np.ndarray, jax.Array)

_FAR = 655.36  # metres
_OFFSET = 0.01  # metres


def to_metres(inverse_depth: Array) -> Array:
  """Distance along the optical axis in metres: 655.36 / Y - 0.01."""
  return _FAR / inverse_depth - _OFFSET


def from_metres(metres: Array) -> Array:
  """Inverse depth of a distance along the optical axis: 655.36 / (d + 0.01)."""
  return _FAR / (metres + _OFFSET)
