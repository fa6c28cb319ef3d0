"""Metric depth to the data sets' depth files.

Their common inverse depth is Y = 655.36 / (metres + 0.01), at least 1; Y = 1 means "no depth". In
what follows depth is float[H, W] in metres, infinite where there is none.
"""

import io

import numpy as np
from scipy import io as scipy_io
from scipy import ndimage

from corda_jax.depth.inverse_depth import NO_DEPTH, from_metres

_MAT_TEXT = b"MATLAB 5.0 MAT-file, depth in metres, key depth_map"


def inverse_depth(depth: np.ndarray) -> np.ndarray:
  """float64[H, W], Y of every pixel."""
  return np.maximum(from_metres(depth.astype(np.float64)), NO_DEPTH)


def inverse_depth_file(inverse: np.ndarray) -> np.ndarray:
  """Y → uint16 x with Y = x / 256 + 1; saturates at Y = 256.996, which is 2.54 m."""
  return np.clip(np.rint((inverse - 1) * 256), 0, 65535).astype(np.uint16)


def centimetres_file(depth: np.ndarray) -> np.ndarray:
  """uint16 centimetres, as SYNTHIA's; 65535 where there is no depth."""
  return np.clip(np.rint(depth * 100.0), 0, 65535).astype(np.uint16)


def disparity_file(depth: np.ndarray, focal: float, baseline: float) -> np.ndarray:
  """uint16 p with disparity = (p - 1) / 256 pixels where p > 0; 0 where there is no depth.

  Args:
    depth: metres.
    focal: pixels.
    baseline: metres.
  """
  p = np.rint(focal * baseline / depth.astype(np.float64) * 256) + 1
  return np.where(np.isfinite(depth), np.clip(p, 1, 65535), 0).astype(np.uint16)


def stereo_depth_file(depth: np.ndarray) -> bytes:
  """MATLAB file with `depth_map`, float32 metres, 0 where there is no depth."""
  buffer = io.BytesIO()
  known = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
  scipy_io.savemat(buffer, {"depth_map": known}, do_compression=True)
  data = buffer.getvalue()
  # SciPy writes the time of day into the file's text; the same frame must give the same bytes.
  return _MAT_TEXT.ljust(116) + data[116:]


def monocular_estimate(
  depth: np.ndarray, *, error: float, blur: float, rng: np.random.Generator
) -> np.ndarray:
  """Y as a self-supervised network might estimate it: smoothly wrong, blurred at edges.

  Args:
    depth: metres.
    error: standard deviation of the log of a smooth factor on the inverse depth.
    blur: standard deviation of the blur of the inverse depth, pixels.
    rng: generator of the smooth factor.
  """
  height, width = depth.shape
  coarse = rng.normal(0.0, error, (4, 6))
  rows = np.linspace(0, 3, height)
  columns = np.linspace(0, 5, width)
  factor = np.exp(
    ndimage.map_coordinates(coarse, np.meshgrid(rows, columns, indexing="ij"), order=1)
  )
  inverse = ndimage.gaussian_filter(inverse_depth(depth), blur, mode="nearest")
  return np.maximum(inverse * factor, 1.0)
