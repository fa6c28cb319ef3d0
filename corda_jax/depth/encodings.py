"""What depth networks write: 16-bit disparity files, x of the inverse depth Y = x / 256 + 1."""

import numpy as np
from jaxtyping import Float, UInt16

MANIFEST = "disparity/network_depth.json"  # beside the files, below their folder
COMPUTED = "computed"  # its field for what is computed once, of the data set
LARGEST = 65535  # of a 16-bit file


def to_disparity(inverse_depth: Float[np.ndarray, "*pixels"]) -> UInt16[np.ndarray, "*pixels"]:
  """The values of a disparity file: x = 256 (Y - 1), rounded and clipped to 0..65535."""
  values = np.rint((np.asarray(inverse_depth, np.float64) - 1) * 256)
  return np.clip(values, 0, LARGEST).astype(np.uint16)


def from_sigmoid(sigmoid: Float[np.ndarray, "*pixels"]) -> UInt16[np.ndarray, "*pixels"]:
  """The values of a disparity file of a depth network's output: x = rint(65535 s).

  As released: the files hold the raw sigmoid output, so Y = x / 256 + 1 is about 256 s + 1, of no
  metric scale.

  Args:
    sigmoid: sigmoid outputs, 0..1.

  Raises:
    ValueError: a number is outside 0..1, or none.
  """
  sigmoid = np.asarray(sigmoid, np.float64)
  if not ((sigmoid >= 0) & (sigmoid <= 1)).all():
    raise ValueError(
      f"got sigmoid outputs in {sigmoid.min()}..{sigmoid.max()}, expected numbers in 0..1"
    )
  return np.rint(sigmoid * LARGEST).astype(np.uint16)
