"""Encodings of depth files: from a file's values to inverse depth, and back.

Inverse depth Y is in [1, 257) for the disparity files of monocular networks, and in (1, 65536]
where it comes from metres; 1 means "no depth". The formulas are those of the released CorDA
loaders, in the precision in which they compute, so that results are equal bit for bit.
"""

import numpy as np
from jaxtyping import Float, Float32, Real, UInt

from corda_jax.depth import inverse_depth
from corda_jax.depth.inverse_depth import FAR, OFFSET

_FARTHEST = 655.35  # metres, the largest centimetre value of a 16-bit file
_NEAREST_STEREO = 0.1  # metres; stereo matching marks failures with less


def from_disparity(values: UInt[np.ndarray, "*pixels"]) -> Float32[np.ndarray, "*pixels"]:
  """Inverse depth of a 16-bit disparity file: Y = x / 256 + 1, in [1, 257).

  For the files of monocular networks (`disparity/` of GTA5 and of the released Cityscapes tree),
  not for the official Cityscapes disparity.

  Args:
    values: values of the file, 0 where there is no depth.
  """
  return np.asarray(values).astype(np.float32) / np.float32(256) + np.float32(1)


def from_centimetres(values: UInt[np.ndarray, "*pixels"]) -> Float32[np.ndarray, "*pixels"]:
  """Inverse depth of a simulator's 16-bit file: Y = 655.36 / (x / 100 + 0.01), in [1, 65536].

  For SYNTHIA's `Depth/Depth`. The farthest value, 65535, gives 1: no depth.

  Args:
    values: distance along the optical axis in centimetres.
  """
  metres = np.asarray(values).astype(np.float32) / np.float32(100)
  return np.float32(FAR) / (metres + np.float32(OFFSET))


def from_stereo_metres(
  metres: Float[np.ndarray, "*pixels"],
) -> Float32[np.ndarray, "*pixels"]:
  """Inverse depth of a stereo depth map in metres: Y = 655.36 / (d + 0.01), in [1, 5958].

  For `depth_map` in Cityscapes' `*_depth_stereoscopic.mat`: d is clipped to 0..655.35, and less
  than 0.1 m, which marks a failed match, is set to 655.35, that is Y = 1: no depth.

  Args:
    metres: distance along the optical axis; computed in its own precision, as released.
  """
  metres = np.clip(metres, 0.0, _FARTHEST)
  metres = np.where(metres < _NEAREST_STEREO, metres.dtype.type(_FARTHEST), metres)
  return from_metres(metres)


def from_official_disparity(
  values: UInt[np.ndarray, "*pixels"], *, focal: float, baseline: float
) -> Float32[np.ndarray, "*pixels"]:
  """Inverse depth of Cityscapes' own 16-bit disparity: Y = 655.36 / (d + 0.01).

  The disparity of a value x > 0 is (x - 1) / 256 pixels, and d = baseline focal / disparity, at
  most 655.35; so disparity 0, which is infinitely far, has Y = 1, as has x = 0: no depth.

  Args:
    values: values of the file.
    focal: focal length along x at the files' size, pixels.
    baseline: distance of the cameras, metres.
  """
  disparity = (np.asarray(values).astype(np.float64) - 1) / 256
  known = disparity > 0
  metres = np.full(disparity.shape, _FARTHEST)
  np.divide(baseline * focal, disparity, out=metres, where=known)
  return from_metres(np.minimum(metres, _FARTHEST))


def from_stereo_disparity(
  values: Real[np.ndarray, "*pixels"],
  *,
  focal: float,
  baseline: float,
  pixels_per_unit: float = 1.0,
) -> Float32[np.ndarray, "*pixels"]:
  """Inverse depth of a stereo pair's disparity: Y = 655.36 / (baseline focal / disparity + 0.01).

  What is not finite or not above 0 has no depth, Y = 1. RAFT-Stereo writes the flow to the right
  image, which is negative: a map with more negative numbers than positive ones is negated.

  Args:
    values: disparities.
    focal: focal length along x at the files' size, pixels.
    baseline: distance of the cameras, metres.
    pixels_per_unit: pixels of disparity per unit of the values; 1 / 256 in KITTI's 16-bit files.
  """
  disparity = np.asarray(values, np.float64) * pixels_per_unit
  if (disparity < 0).sum() > (disparity > 0).sum():
    disparity = -disparity
  with np.errstate(divide="ignore", invalid="ignore"):
    return from_measured(baseline * focal / disparity)


def from_measured(
  values: Real[np.ndarray, "*pixels"], *, metres_per_unit: float = 1.0
) -> Float32[np.ndarray, "*pixels"]:
  """Inverse depth of any metric depth map: Y = 655.36 / (d + 0.01), in [1, 65536].

  What is not finite or not above 0 has no depth, Y = 1, as has what is 655.35 m away or farther.

  Args:
    values: distance along the optical axis.
    metres_per_unit: metres per unit of the values.
  """
  metres = np.asarray(values, np.float64) * metres_per_unit
  known = np.isfinite(metres) & (metres > 0)
  return from_metres(np.where(known, np.minimum(metres, _FARTHEST), _FARTHEST))


def from_metres(metres: Float[np.ndarray, "*pixels"]) -> Float32[np.ndarray, "*pixels"]:
  """Inverse depth of a distance along the optical axis, computed in its precision."""
  return np.asarray(inverse_depth.from_metres(np.asarray(metres)), np.float32)
