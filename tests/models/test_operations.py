"""Operations with forms and gradients of their own, against those that libraries give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from corda_jax.models import depthwise, operations
from corda_jax.models.transformer import attention, branch_factors, sample_branches


def library_convolution(x, kernel, padding, dilation):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    ((padding, padding), (padding, padding)),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def assert_same_gradients(function, reference, *arguments):
  result, gradients = jax.vjp(function, *arguments)
  expected, expected_gradients = jax.vjp(reference, *arguments)
  np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)
  cotangent = np.random.default_rng(1).standard_normal(result.shape)
  for given, desired in zip(gradients(cotangent), expected_gradients(cotangent), strict=True):
    np.testing.assert_allclose(given, desired, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("features", [3, 4, 9])
def test_channel_product(float64, random, features):
  x, matrix = random.standard_normal((2, 3, 5, 4)), random.standard_normal((4, features))
  assert_same_gradients(operations.channel_product, jnp.matmul, x, matrix)


@pytest.mark.parametrize("features", [3, 9])
def test_the_narrower_factor_stands_first(features):
  x, matrix = jnp.ones((5, 4)), jnp.ones((4, features))

  def gradient(matrix):
    return jax.grad(lambda matrix: operations.channel_product(x, matrix).sum())(matrix)

  over_pixels = [
    equation
    for equation in jax.make_jaxpr(gradient)(matrix).eqns
    if equation.params.get("dimension_numbers") == (((0,), (0,)), ((), ()))
  ]
  (first,) = (equation.invars[0].aval.shape for equation in over_pixels)
  assert first == (5, min(4, features))


@pytest.mark.parametrize(
  ("size", "padding", "dilation"), [(3, 1, 1), (3, 4, 4), (3, 0, 1), (5, 2, 1), (3, 1, 2)]
)
def test_gradients_of_a_convolution(float64, random, size, padding, dilation):
  x, kernel = random.standard_normal((2, 9, 12, 3)), random.standard_normal((size, size, 3, 4))

  def ours(x, kernel):
    return operations.convolve(x, kernel, stride=1, padding=padding, dilation=dilation)

  def reference(x, kernel):
    return library_convolution(x, kernel, padding, dilation)

  assert_same_gradients(ours, reference, x, kernel)
  cotangent = random.standard_normal(reference(x, kernel).shape)
  (expected,) = jax.vjp(lambda kernel: reference(x, kernel), kernel)[1](cotangent)
  for form in (
    operations.kernel_gradient_by_products,
    operations.kernel_gradient_by_convolution,
  ):
    given = form(x, cotangent, shape=kernel.shape, padding=padding, dilation=dilation)
    np.testing.assert_allclose(given, expected, rtol=1e-12, atol=1e-12)


def test_a_wide_kernel_has_the_same_gradient(float64, random):
  x, kernel = random.standard_normal((1, 5, 4, 128)), random.standard_normal((3, 3, 128, 130))
  assert_same_gradients(
    lambda x, kernel: operations.convolve(x, kernel, stride=1, padding=2, dilation=2),
    lambda x, kernel: library_convolution(x, kernel, 2, 2),
    x,
    kernel,
  )


@pytest.mark.parametrize(
  ("platform", "features", "products"),
  [("cpu", 128, 9), ("cpu", 127, 0), ("cuda", 128, 0), ("tpu", 128, 0)],
)
def test_a_cpu_takes_products_for_wide_kernels(platform, features, products):
  def gradient(x, kernel):
    return jax.grad(
      lambda kernel: operations.convolve(x, kernel, stride=1, padding=1, dilation=1).sum()
    )(kernel)

  shapes = (1, 8, 8, features), (3, 3, features, features)
  traced = jax.jit(gradient).trace(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
  program = traced.lower(lowering_platforms=(platform,)).as_text()
  assert program.count("stablehlo.dot_general") == products
  assert ("stablehlo.convolution" in program) == (products == 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rectified_sum_is_equal_to_the_last_bit(random, dtype):
  x, y = (jnp.asarray(random.standard_normal((2, 1000)), dtype) for _ in range(2))
  x, y = x.at[:, :9].set(0), y.at[:, 5:14].set(0)
  y = y.at[:, 20:30].set(-x[:, 20:30])
  for function in (operations.rectified_sum, jax.jit(operations.rectified_sum)):
    result, gradient = jax.vjp(function, x, y)
    expected, expected_gradient = jax.vjp(lambda x, y: nn.relu(x + y), x, y)
    np.testing.assert_array_equal(result, expected)
    for given, desired in zip(gradient(x), expected_gradient(x), strict=True):
      np.testing.assert_array_equal(given, desired)


def test_no_block_is_made_again_for_the_next():
  def stage(x, matrices):
    for matrix in matrices:
      x = operations.rectified_sum(x, jnp.tanh(x @ matrix))
    return x

  matrices = [jnp.ones((32, 32))] * 6
  compiled = jax.jit(stage).lower(jnp.ones((64, 32)), matrices).compile()
  assert compiled.as_text().count(" maximum(") == len(matrices)  # with relu(x + y): 21


@pytest.mark.parametrize("dilation", [1, 2, 6])
@pytest.mark.parametrize("rows_from", [0, 10**9])
def test_depthwise_convolution(float64, random, monkeypatch, dilation, rows_from):
  """Both forms of the kernel's gradient; a dilation that reaches past the image, too."""
  monkeypatch.setattr(depthwise, "_ROWS_FROM", rows_from)

  def library(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel[:, :, None],
      (1, 1),
      ((dilation, dilation),) * 2,
      rhs_dilation=(dilation, dilation),
      feature_group_count=x.shape[-1],
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

  x, kernel = random.standard_normal((2, 5, 7, 3)), random.standard_normal((3, 3, 3))
  assert_same_gradients(
    lambda x, kernel: depthwise.depthwise_convolve(x, kernel, dilation), library, x, kernel
  )


def test_gelu(float64, random):
  x = np.concatenate([random.standard_normal(50), [0.0, 30.0, -30.0]])
  assert_same_gradients(operations.gelu, lambda x: nn.gelu(x, approximate=False), x)


def test_attention(float64, random):
  """Against the formula; the library's softmax is float32."""
  query = random.standard_normal((2, 5, 3, 4))
  key, value = random.standard_normal((2, 2, 7, 3, 4))
  weights = np.exp(np.einsum("bnhd,bmhd->bhnm", query, key) / 2)
  weights /= weights.sum(-1, keepdims=True)
  expected = np.einsum("bhnm,bmhd->bnhd", weights, value)
  np.testing.assert_allclose(attention(query, key, value), expected, rtol=1e-12)
  narrow = attention(*(jnp.asarray(x, jnp.float32) for x in (query, key, value)))
  assert narrow.dtype == jnp.float32
  np.testing.assert_allclose(narrow, expected, atol=1e-5)
  halves = (jnp.asarray(x, jnp.bfloat16) for x in (query, key, value))
  with jax.numpy_dtype_promotion("standard"):  # the library adds 16-bit numbers up in float32
    gradient = jax.grad(lambda *x: attention(*x).astype(jnp.float32).sum())(*halves)
  assert gradient.dtype == jnp.bfloat16
  assert jnp.isfinite(gradient.astype(jnp.float32)).all()


def test_stochastic_depth_keeps_the_mean():
  rates = np.array([0.0, 0.2, 0.9])
  kept = sample_branches(jax.random.key(0), 4_000, rates)
  assert kept[:, 0].all()
  np.testing.assert_allclose(kept.mean((0, 2)), 1 - rates, atol=0.03)
  factors = branch_factors(kept, rates, jnp.float32)
  assert factors.shape == (3, 2, 4_000)
  np.testing.assert_allclose(factors.mean((1, 2)), 1, atol=0.15)
