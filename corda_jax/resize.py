"""Resizing: predictions with aligned corners or by pixel centres, labels by nearest.

CorDA compares predictions at the size of the label, resized so that the corner pixels of input and
output coincide (PyTorch's `align_corners=True`); DAFormer and its heirs align the edges of the
pixels instead.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.typing import Array, Dim, Float, Shaped


def aligned_weights(input_size: Dim, output_size: Dim) -> Float[Array, "output input"]:
  """Interpolation matrix of one axis.

  Args:
    input_size: length of the axis, in pixels; may be symbolic in an exported function.
    output_size: length after resizing, in pixels; may be symbolic, too.

  Returns:
    Weights whose rows sum to one, float64; float32, on the device, if a size is symbolic. Row i
    weights the two neighbours of the position i (input_size - 1) / (output_size - 1).
  """
  if not (isinstance(input_size, int) and isinstance(output_size, int)):
    steps = jnp.asarray(output_size) - 1
    return _weights_at(jnp.arange(output_size) * (jnp.asarray(input_size) - 1), steps, input_size)
  if output_size == 1:
    position = np.zeros(1)
  else:
    position = np.arange(output_size) * ((input_size - 1) / (output_size - 1))
  return _linear_weights(position, input_size)


def _linear_weights(position: np.ndarray, input_size: int) -> np.ndarray:
  """Rows that weight the two neighbours of each position, which is in pixels and not negative."""
  low = np.minimum(np.floor(position).astype(int), max(input_size - 2, 0))
  fraction = np.minimum(position - low, min(input_size - 1, 1))
  weights = np.zeros((len(position), input_size))
  rows = np.arange(len(position))
  weights[rows, low] = 1 - fraction
  weights[rows, np.minimum(low + 1, input_size - 1)] += fraction
  return weights


def _weights_at(numerator: jax.Array, denominator: jax.Array, input_size: Dim) -> jax.Array:
  """The same for positions that are fractions; exact, by integer quotients and remainders."""
  low = numerator // denominator
  fraction = (numerator % denominator).astype(jnp.float32) / denominator.astype(jnp.float32)
  places, last = jnp.arange(input_size), jnp.asarray(input_size) - 1
  at_low = jnp.where(places == low[:, None], 1 - fraction[:, None], 0)
  above = jnp.minimum(low + 1, last)
  return at_low + jnp.where(places == above[:, None], fraction[:, None], 0)


def resize_weights(method: str) -> Callable[[Dim, Dim], Array]:
  """`aligned_weights` or `centered_weights`; `method`: "aligned" or "centered"."""
  return {"aligned": aligned_weights, "centered": centered_weights}[method]


def resize(
  x: Float[Array, "b h w c"], shape: tuple[Dim, Dim], method: str
) -> Float[Array, "b height width c"]:
  """Resizes images bilinearly, as two matrix products.

  Args:
    x: [B, h, w, C], floating point.
    shape: (H, W), the output size in pixels.
    method: "aligned" corners, or "centered" pixels.

  Returns:
    [B, H, W, C] of the dtype of `x`.

  Raises:
    ValueError: `x` does not have four axes.
  """
  if x.ndim != 4:
    raise ValueError(f"resizing needs [B, h, w, C], got shape {x.shape}")
  weights = resize_weights(method)
  rows = jnp.asarray(weights(x.shape[1], shape[0]), x.dtype)
  columns = jnp.asarray(weights(x.shape[2], shape[1]), x.dtype)
  return interpolate(x, rows, columns)


def resize_aligned(
  x: Float[Array, "b h w c"], shape: tuple[Dim, Dim]
) -> Float[Array, "b height width c"]:
  """Resizes images bilinearly with aligned corners: `resize` by "aligned"."""
  return resize(x, shape, "aligned")


def interpolate(
  x: Float[Array, "b h w c"], rows: Float[Array, "height h"], columns: Float[Array, "width w"]
) -> Float[Array, "b height width c"]:
  """Weighted sums of pixels, along the rows and then along the columns.

  Args:
    x: [B, h, w, C].
    rows: [H, h] weights, of the dtype of `x`; all rows of `aligned_weights` or some.
    columns: [W, w] weights, of the same dtype.

  Returns:
    [B, H, W, C] of the dtype of `x`.
  """
  # Columns last: the larger of the two products then runs once, at the final height.
  x = jnp.einsum("Hh,bhwc->bHwc", rows, x, precision=jax.lax.Precision.HIGHEST)
  return jnp.einsum("Ww,bhwc->bhWc", columns, x, precision=jax.lax.Precision.HIGHEST)


def centered_weights(
  input_size: Dim, output_size: Dim, *, step: float | None = None
) -> Float[Array, "output input"]:
  """Interpolation matrix of one axis, by pixel centres, edges repeated, without antialiasing.

  Args:
    input_size: length of the axis, in pixels; may be symbolic in an exported function.
    output_size: length after resizing, in pixels; may be symbolic, too.
    step: distance of two outputs in input pixels; None: input_size / output_size.

  Returns:
    As `aligned_weights`; row i weights the two neighbours of the position (i + 0.5) step - 0.5, or
    of 0 where that is negative.
  """
  if not (isinstance(input_size, int) and isinstance(output_size, int)):
    doubled = (2 * jnp.arange(output_size) + 1) * jnp.asarray(input_size) - output_size
    return _weights_at(jnp.maximum(doubled, 0), 2 * jnp.asarray(output_size), input_size)
  step = input_size / output_size if step is None else step
  position = np.maximum((np.arange(output_size) + 0.5) * step - 0.5, 0)
  return _linear_weights(position, input_size)


def resize_centered(
  x: Float[Array, "b h w c"], shape: tuple[Dim, Dim]
) -> Float[Array, "b height width c"]:
  """Resizes images bilinearly by pixel centres, edges repeated, as OpenCV's `INTER_LINEAR`.

  No antialiasing, even when shrinking: this matches common multi-scale evaluation code, which uses
  OpenCV or PyTorch's `align_corners=False`.

  Args:
    x: [B, h, w, C], floating point.
    shape: (H, W), the output size in pixels.

  Returns:
    [B, H, W, C] of the dtype of `x`.
  """
  return resize(x, shape, "centered")


def scale_centered(x: Float[Array, "b h w c"], factor: float) -> Float[Array, "b height width c"]:
  """Resizes by a factor, by pixel centres: two outputs are exactly 1 / factor pixels apart.

  They are not in `resize_centered` where the size is rounded down (PyTorch's `scale_factor`).

  Args:
    x: [B, h, w, C], floating point.
    factor: above 0.

  Returns:
    [B, floor(h factor), floor(w factor), C] of the dtype of `x`.
  """
  rows, columns = (
    jnp.asarray(centered_weights(n, int(n * factor), step=1 / factor), x.dtype)
    for n in x.shape[1:3]
  )
  return interpolate(x, rows, columns)


def cubic_weights(
  input_size: int, output_size: int, *, step: float | None = None
) -> Float[np.ndarray, "output input"]:
  """Interpolation matrix of one axis, cubic by pixel centres as PyTorch's and OpenCV's (a = -0.75).

  Edge pixels are repeated, and shrinking does not antialias. (`jax.image.resize` has a = -0.5.)

  Args:
    input_size: length of the axis, in pixels.
    output_size: length after resizing, in pixels.
    step: distance of two outputs in input pixels; None: input_size / output_size.

  Returns:
    float64[output_size, input_size] whose rows sum to one. Row i weights the four neighbours of the
    position (i + 0.5) step - 0.5.
  """
  a = -0.75
  step = input_size / output_size if step is None else step
  position = (np.arange(output_size) + 0.5) * step - 0.5
  low = np.floor(position).astype(int)
  weights = np.zeros((output_size, input_size))
  rows = np.arange(output_size)
  for tap in range(-1, 3):
    t = np.abs(position - low - tap)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    np.add.at(weights, (rows, np.clip(low + tap, 0, input_size - 1)), np.where(t <= 1, near, far))
  return weights


def resize_cubic(
  x: Float[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b height width c"]:
  """Resizes images as OpenCV's `INTER_CUBIC` does, without antialiasing.

  Args:
    x: [B, h, w, C], floating point.
    size: (H, W), the output size in pixels.

  Returns:
    [B, H, W, C] of the dtype of `x`; values can leave the range of the input.
  """
  pairs = zip(x.shape[1:3], size, strict=True)
  return interpolate(x, *(jnp.asarray(cubic_weights(n, m), x.dtype) for n, m in pairs))


def resize_nearest(
  labels: Shaped[Array, "b h w"], shape: tuple[int, int]
) -> Shaped[Array, "b height width"]:
  """Resizes label maps to the nearest pixel centre, identical to Pillow's `NEAREST`.

  Args:
    labels: [B, h, w], any dtype; NumPy or JAX.
    shape: (H, W), the output size in pixels.

  Returns:
    [B, H, W] of the same array type and dtype.
  """
  rows, columns = (
    _nearest(input_size, output_size)
    for input_size, output_size in zip(labels.shape[1:], shape, strict=True)
  )
  return labels[:, rows][:, :, columns]


def _nearest(input_size: int, output_size: int) -> np.ndarray:
  # Summed step by step, not multiplied: if a centre falls between two pixels, the rounding errors
  # of Pillow's sum decide.
  step = input_size / output_size
  centers = np.add.accumulate(np.concatenate([[step * 0.5], np.full(output_size - 1, step)]))
  return centers.astype(int)
