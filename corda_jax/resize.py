"""Bilinear resizing with aligned corners.

The method compares predictions at the label's size, resized so that the corner pixels of the
input and of the output coincide (PyTorch's `align_corners=True`). `jax.image.resize` aligns the
pixel edges instead, hence this module.
"""

import jax
import jax.numpy as jnp
import numpy as np


def aligned_weights(input_size: int, output_size: int) -> np.ndarray:
  """Interpolation matrix of one axis.

  Args:
    input_size: length of the axis, in pixels.
    output_size: length after resizing, in pixels.

  Returns:
    float64[output_size, input_size] whose rows sum to one. Row i weighs the two neighbours of the
    position i (input_size - 1) / (output_size - 1).
  """
  if output_size == 1:
    position = np.zeros(1)
  else:
    position = np.arange(output_size) * ((input_size - 1) / (output_size - 1))
  low = np.minimum(np.floor(position).astype(int), max(input_size - 2, 0))
  fraction = position - low
  weights = np.zeros((output_size, input_size))
  rows = np.arange(output_size)
  weights[rows, low] = 1 - fraction
  weights[rows, np.minimum(low + 1, input_size - 1)] += fraction
  return weights


def resize_aligned(x: jax.Array, shape: tuple[int, int]) -> jax.Array:
  """Resizes images bilinearly with aligned corners, as two matrix products.

  Args:
    x: [B, h, w, C], any real dtype.
    shape: (H, W), the size wanted, in pixels.

  Returns:
    [B, H, W, C] of the dtype of `x`.

  Raises:
    ValueError: `x` has not four axes.
  """
  if x.ndim != 4:
    raise ValueError(f"resize_aligned wants [B, h, w, C], got shape {x.shape}")
  rows = jnp.asarray(aligned_weights(x.shape[1], shape[0]), x.dtype)
  columns = jnp.asarray(aligned_weights(x.shape[2], shape[1]), x.dtype)
  # Columns last: the larger of the two products then runs once, at the final height.
  x = jnp.einsum("Hh,bhwc->bHwc", rows, x, precision=jax.lax.Precision.HIGHEST)
  return jnp.einsum("Ww,bhwc->bhWc", columns, x, precision=jax.lax.Precision.HIGHEST)
