"""Depthwise convolutions as sums of shifted products.

A compiler makes them one pass over the image. Libraries are slow at these convolutions, on CPUs
above all at their gradients. The measurements behind them are in docs/benchmarks.md.
"""

import functools
import itertools

import jax
import jax.numpy as jnp

from corda_jax.typing import Array, Float

# Numbers of an image from which a CPU makes the gradient of a depthwise kernel row by row.
_ROWS_FROM = 2**20


def depthwise_convolve(
  x: Float[Array, "b h w c"], kernel: Float[Array, "rows columns c"], dilation: int = 1
) -> Float[Array, "b h w c"]:
  """A convolution of stride 1 of each channel by itself, zeros around the image.

  Args:
    x: [B, H, W, C].
    kernel: [rows, columns, C], rows and columns odd.
    dilation: distance of the kernel's taps in pixels.

  Returns:
    [B, H, W, C].
  """
  return _depthwise_convolution(x, kernel, dilation)


def _shifted(x, shape, dilation):
  """`x` at each tap of a kernel [rows, columns], zero outside: (row, column, [B, H, W, C])."""
  rows, columns = (dilation * (n // 2) for n in shape[:2])
  height, width = x.shape[1:3]
  x = jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
  for row, column in itertools.product(range(shape[0]), range(shape[1])):
    top, left = dilation * row, dilation * column
    yield row, column, x[:, top : top + height, left : left + width]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_convolution(x, kernel, dilation):
  return sum(kernel[row, column] * tap for row, column, tap in _shifted(x, kernel.shape, dilation))


def _depthwise_convolution_forward(x, kernel, dilation):
  return _depthwise_convolution(x, kernel, dilation), (x, kernel)


def _depthwise_convolution_backward(dilation, residuals, cotangent):
  x, kernel = residuals
  # Made once: a compiler would compute what leads to the cotangent again for each of its readers.
  x, cotangent = jax.lax.optimization_barrier((x, cotangent))
  of_x = _depthwise_convolution(cotangent, kernel[::-1, ::-1], dilation)
  at_once = functools.partial(_kernel_gradient_at_once, shape=kernel.shape, dilation=dilation)
  by_rows = functools.partial(_kernel_gradient_by_rows, shape=kernel.shape, dilation=dilation)
  if x.size < _ROWS_FROM:
    return of_x, at_once(x, cotangent)
  return of_x, jax.lax.platform_dependent(x, cotangent, cpu=by_rows, default=at_once)


def _kernel_gradient_at_once(x, cotangent, *, shape, dilation):
  taps = [(tap * cotangent).sum((0, 1, 2)) for *_, tap in _shifted(x, shape, dilation)]
  return jnp.stack(taps).reshape(shape)


def _kernel_gradient_by_rows(x, cotangent, *, shape, dilation):
  """The same, all taps of one row of the image after another: what a row reads stays in a cache."""
  rows, columns = (dilation * (n // 2) for n in shape[:2])
  _, height, width, channels = cotangent.shape
  x = jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))

  def add_row(row, total):
    of_row = jax.lax.dynamic_slice_in_dim(cotangent, row, 1, axis=1)
    taps = []
    for i, j in itertools.product(range(shape[0]), range(shape[1])):
      seen = jax.lax.dynamic_slice_in_dim(x, row + dilation * i, 1, axis=1)
      taps.append((seen[:, :, dilation * j : dilation * j + width] * of_row).sum((0, 1)))
    return total + jnp.stack(taps)

  start = jnp.zeros((shape[0] * shape[1], width, channels), x.dtype)
  return jax.lax.fori_loop(0, height, add_row, start).sum(1).reshape(shape)


_depthwise_convolution.defvjp(_depthwise_convolution_forward, _depthwise_convolution_backward)
