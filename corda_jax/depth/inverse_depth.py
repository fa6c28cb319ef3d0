"""Inverse depth, the scale on which depth files and depth heads agree.

Y = 655.36 / (metres + 0.01): 1 is as far as a 16-bit file of centimetres reaches, and means "no
depth"; the nearest value that the 16-bit files of depth networks hold, Y = 257, is 2.54 m. For
numbers and arrays of NumPy and of JAX, neither of which is imported.
"""

from typing import TypeVar

Array = TypeVar("Array")

NO_DEPTH = 1.0  # inverse depth of a pixel that has no depth
FAR = 655.36  # metres
OFFSET = 0.01  # metres, so that the farthest depth has Y = 1


def to_metres(inverse_depth: Array) -> Array:
  """Distance along the optical axis in metres: 655.36 / Y - 0.01."""
  return FAR / inverse_depth - OFFSET


def from_metres(metres: Array) -> Array:
  """Inverse depth of a distance along the optical axis: 655.36 / (d + 0.01)."""
  return FAR / (metres + OFFSET)
