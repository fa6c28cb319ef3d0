"""Resizing to another size as in the released loaders: inverse depth, float32 H W.

`resize_bilinear` also takes images, uint8 H W 3, and `resize_nearest_corner` labels, uint8 H W.
Each function takes the values, the size of the frame's label, and the size to resize to; sizes are
(height, width).
"""

import cv2
import numpy as np
from PIL import Image

from corda_jax.depth.inverse_depth import NO_DEPTH


def resize_bilinear(
  values: np.ndarray, _label_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  """Bilinear by OpenCV, as released: without antialiasing, edges repeated."""
  return cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)


def resize_nearest_corner(
  values: np.ndarray, _label_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  """Nearest by OpenCV, as released: output i reads input floor(i n / m)."""
  return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST)


def resize_bilinear_with_holes(
  values: np.ndarray, label_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  """Bilinear where all neighbours have depth, else nearest: depth does not blend with no depth."""
  known = (values != NO_DEPTH).astype(np.float32)
  whole = resize_bilinear(known, label_size, size) == 1
  blended = resize_bilinear(values, label_size, size)
  return np.where(whole, blended, resize_nearest_center(values, label_size, size))


def resize_nearest_center(
  values: np.ndarray, label_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  """Nearest as in Pillow, the input pixel under the output's centre; float32 H W.

  A file of another size than the label is first resized to the label's, as released.
  """
  values = resize_nearest_corner(values, label_size, label_size)
  resized = Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.NEAREST)
  return np.asarray(resized)
