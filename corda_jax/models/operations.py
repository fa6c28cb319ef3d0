"""Operations written so that compilers make them fast, their gradients above all.

Each computes what its first line says, on any device; the measurements behind them are in
docs/benchmarks.md. All arrays are NHWC.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from corda_jax.typing import Array, Bool, Float

# Channels in and out from which a CPU makes a kernel's gradient by products
# (`python -m benchmarks.speed.kernel_gradients`; docs/benchmarks.md).
_PRODUCTS_FROM = 128


def channel_product(
  x: Float[Array, "*pixels i"], matrix: Float[Array, "i o"], dtype: Any = None
) -> Float[Array, "*pixels o"]:
  """A 1x1 convolution, x @ matrix.

  In the matrix's gradient, a product over pixels, the narrower factor comes first: a CPU copies
  that one transposed, and the automatic gradient puts the result's cotangent there, however wide.

  Args:
    x: [..., I].
    matrix: [I, O], of the same dtype.
    dtype: dtype of the result, into which its sums are added up; None: that of `x`.
  """
  return _channel_product(x, matrix, dtype or x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _channel_product(x, matrix, dtype):
  return jnp.matmul(x, matrix, preferred_element_type=dtype)


def _channel_product_forward(x, matrix, dtype):
  return _channel_product(x, matrix, dtype), (x, matrix)


def _channel_product_backward(dtype, residuals, cotangent):
  x, matrix = residuals
  cotangent = cotangent.astype(x.dtype)
  if x.shape[-1] <= cotangent.shape[-1]:
    of_matrix = jnp.einsum("...i,...o->io", x, cotangent)
  else:
    of_matrix = jnp.einsum("...o,...i->oi", cotangent, x).T
  return cotangent @ matrix.T, of_matrix


_channel_product.defvjp(_channel_product_forward, _channel_product_backward)


def convolve(
  x: Float[Array, "b h w i"],
  kernel: Float[Array, "rows columns i o"],
  *,
  stride: int,
  padding: int,
  dilation: int,
) -> Float[Array, "b height width o"]:
  """Convolution with zeros around the image, the same on all sides.

  Args:
    x: [B, H, W, I].
    kernel: [rows, columns, I, O].
    stride: step in pixels.
    padding: zeros before and after each axis, in pixels.
    dilation: distance of the kernel's taps in pixels.

  Returns:
    [B, h, w, O].
  """
  if stride == 1:
    return _dense_convolution(x, kernel, padding, dilation)
  return _library_convolution(x, kernel, stride=stride, padding=padding, dilation=dilation)


def _library_convolution(x, kernel, *, stride=1, padding, dilation):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=((padding, padding), (padding, padding)),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dense_convolution(x, kernel, padding, dilation):
  """A convolution of stride 1; the gradient of a wide kernel is fast on a CPU, too."""
  return _library_convolution(x, kernel, padding=padding, dilation=dilation)


def _dense_convolution_forward(x, kernel, padding, dilation):
  return _library_convolution(x, kernel, padding=padding, dilation=dilation), (x, kernel)


def _dense_convolution_backward(padding, dilation, residuals, cotangent):
  x, kernel = residuals
  (of_x,) = jax.linear_transpose(
    lambda x: _library_convolution(x, kernel, padding=padding, dilation=dilation), x
  )(cotangent)
  given = {"shape": kernel.shape, "padding": padding, "dilation": dilation}
  by_convolution = functools.partial(kernel_gradient_by_convolution, **given)
  by_products = functools.partial(kernel_gradient_by_products, **given)
  if min(kernel.shape[2:]) < _PRODUCTS_FROM:
    of_kernel = by_convolution(x, cotangent)
  else:
    of_kernel = jax.lax.platform_dependent(x, cotangent, cpu=by_products, default=by_convolution)
  return of_x, of_kernel


_dense_convolution.defvjp(_dense_convolution_forward, _dense_convolution_backward)


def kernel_gradient_by_convolution(
  x: Float[Array, "b h w i"],
  cotangent: Float[Array, "b height width o"],
  *,
  shape: tuple[int, int, int, int],
  padding: int,
  dilation: int,
) -> Float[Array, "rows columns i o"]:
  """Gradient of a convolution of stride 1 to its kernel, as the library makes it.

  Args:
    x: [B, H, W, I], what was convolved.
    cotangent: [B, h, w, O], of the result.
    shape: shape of the kernel: rows, columns, I, O.
    padding: zeros around the image, in pixels.
    dilation: distance of the kernel's taps in pixels.
  """
  return jax.linear_transpose(
    lambda kernel: _library_convolution(x, kernel, padding=padding, dilation=dilation),
    jax.ShapeDtypeStruct(shape, x.dtype),
  )(cotangent)[0]


def kernel_gradient_by_products(
  x: Float[Array, "b h w i"],
  cotangent: Float[Array, "b height width o"],
  *,
  shape: tuple[int, int, int, int],
  padding: int,
  dilation: int,
) -> Float[Array, "rows columns i o"]:
  """The same, as one matrix product over all pixels for each tap.

  The cotangent comes first, so that it is transposed once for all taps; the other way round, or
  as a single product of all taps, it is slower.
  """
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  _, height, width, _ = cotangent.shape
  taps = []
  for row, column in itertools.product(range(shape[0]), range(shape[1])):
    top, left = dilation * row, dilation * column
    seen = x[:, top : top + height, left : left + width]
    taps.append(jnp.einsum("bhwo,bhwi->oi", cotangent, seen))
  return jnp.stack(taps).swapaxes(1, 2).reshape(shape)


@jax.custom_vjp
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """The Gaussian error linear unit, exact: x Phi(x) (Hendrycks and Gimpel, 2016).

  Of what it computes, the gradient keeps `x` alone. Compilers make it once: they would compute it,
  and what it is made of, again for each of its readers.
  """
  x = jax.lax.optimization_barrier(x)
  return jax.lax.optimization_barrier(x * _normal_distribution(x))


def _normal_distribution(x):
  return 0.5 * (1 + jax.lax.erf(x * jnp.asarray(0.5**0.5, x.dtype)))


def _gelu_forward(x):
  return gelu(x), x


def _gelu_backward(x, cotangent):
  x, cotangent = jax.lax.optimization_barrier((x, cotangent))
  density = jnp.exp(-0.5 * jnp.square(x)) * jnp.asarray((2 * jnp.pi) ** -0.5, x.dtype)
  return (cotangent * (_normal_distribution(x) + x * density),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@jax.custom_vjp
def rectified_sum(x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """max(x + y, 0), where a residual block ends. Its gradient at 0 is 0.

  It is equal to the last bit, for finite numbers. But compilers, that for CPUs at least, take a
  maximum with a constant for so cheap that they compute it again wherever it is read, and with it
  the sum, the block before, and so on to the start of the stage. They keep a sum that comes last.
  """
  return jnp.maximum(x, -y) + y


def _rectified_sum_forward(x, y):
  result = rectified_sum(x, y)
  return result, result > 0


def _rectified_sum_backward(positive, cotangent):
  passed = jnp.where(positive, cotangent, 0)
  return passed, passed


rectified_sum.defvjp(_rectified_sum_forward, _rectified_sum_backward)


def at_matmul_precision(function: Callable[..., Any], precision: str) -> Callable[..., Any]:
  """The same function; its matrix products and convolutions of float32 at another precision.

  Args:
    function: to be traced, its gradients taken within it.
    precision: "default", what the device does by itself (TF32 on GPUs, bfloat16 on TPUs), "high"
      or "highest", float32.
  """

  @functools.wraps(function)
  def traced(*args, **kwargs):
    with jax.default_matmul_precision(precision):
      return function(*args, **kwargs)

  return traced


def hide_blocks(
  x: Float[Array, "b height width c"], seen: Bool[Array, "b h w"]
) -> Float[Array, "b height width c"]:
  """Images (or features) with 0, the mean colour, in the blocks that are not seen.

  Args:
    x: network inputs, or features.
    seen: True for the blocks that stay. Pixel i of n is in block floor(i h / n) of h.
  """
  rows, columns = (
    jnp.arange(n) * blocks // n for n, blocks in zip(x.shape[1:3], seen.shape[1:], strict=True)
  )
  return jnp.where(seen[:, rows][:, :, columns][..., None], x, 0)
