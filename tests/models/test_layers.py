import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from corda_jax.models.encoders.resnet import max_pool
from corda_jax.models.layers import (
  BatchNorm,
  Convolution,
  LayerNorm,
  PatchConvolution,
  TransposedConvolution,
)


@pytest.mark.parametrize(
  ("kernel_size", "stride", "dilation"),
  [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 1, 4), (3, 2, 1), (7, 2, 1)],
)
def test_convolution_agrees_with_scipy(float64, random, kernel_size, stride, dilation):
  layer = Convolution(5, kernel_size, stride, dilation, use_bias=True, param_dtype=jnp.float64)
  x = random.standard_normal((2, 9, 12, 3))
  variables = layer.init(jax.random.key(0), x)
  bias = random.standard_normal(5)
  kernel = np.asarray(variables["params"]["kernel"])
  got = jax.jit(layer.apply)({"params": {"kernel": kernel, "bias": bias}}, x)
  reach = dilation * (kernel_size - 1)
  spread = np.zeros((reach + 1, reach + 1, 3, 5))
  spread[::dilation, ::dilation] = kernel
  padded = np.pad(x, ((0, 0), (reach // 2,) * 2, (reach // 2,) * 2, (0, 0)))
  for image, result in zip(padded, got, strict=True):
    for channel in range(5):
      expected = sum(
        scipy.signal.correlate2d(image[..., i], spread[..., i, channel], mode="valid")
        for i in range(3)
      )
      np.testing.assert_allclose(
        result[..., channel], expected[::stride, ::stride] + bias[channel], atol=1e-13
      )


def test_batch_norm_keeps_unbiased_variance_and_normalises_by_the_biased_one(float64, random):
  layer = BatchNorm(param_dtype=jnp.float64)
  x = 3 + 2 * random.standard_normal((2, 3, 5, 4))
  params = {"scale": random.standard_normal(4), "bias": random.standard_normal(4)}
  stats = {"mean": random.standard_normal(4), "var": random.uniform(1, 2, 4)}
  variables = {"params": params, "batch_stats": stats}
  flat = x.reshape(-1, 4)
  y, updated = layer.apply(variables, x, train=True, mutable=["batch_stats"])
  expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * params["scale"] + params["bias"]
  np.testing.assert_allclose(y, expected, atol=1e-13)
  updated = updated["batch_stats"]
  np.testing.assert_allclose(updated["mean"], 0.9 * stats["mean"] + 0.1 * flat.mean(0), rtol=1e-13)
  np.testing.assert_allclose(
    updated["var"], 0.9 * stats["var"] + 0.1 * flat.var(0, ddof=1), rtol=1e-13
  )
  y = layer.apply(variables, x, train=False)
  expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
  np.testing.assert_allclose(y, expected * params["scale"] + params["bias"], atol=1e-13)


def test_batch_norm_of_groups_is_that_of_each(float64, random):
  x = 3 + 2 * random.standard_normal((6, 3, 5, 4))
  whole, groups = BatchNorm(param_dtype=jnp.float64), BatchNorm(group=2, param_dtype=jnp.float64)
  params = {"scale": random.standard_normal(4), "bias": random.standard_normal(4)}
  stats = {"mean": random.standard_normal(4), "var": random.uniform(1, 2, 4)}
  variables = {"params": params, "batch_stats": stats}
  y, updated = groups.apply(variables, x, train=True, mutable=["batch_stats"])
  each = [
    whole.apply(variables, x[start : start + 2], train=True, mutable=["batch_stats"])
    for start in (0, 2, 4)
  ]
  np.testing.assert_allclose(y, np.concatenate([part for part, _ in each]), atol=1e-13)
  for name, value in updated["batch_stats"].items():
    expected = np.mean([found["batch_stats"][name] for _, found in each], axis=0)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
  of_all = whole.apply(variables, x, train=True, mutable=["batch_stats"])[0]
  assert np.abs(y - of_all).max() > 0.1
  np.testing.assert_array_equal(
    groups.apply(variables, x, train=False), whole.apply(variables, x, train=False)
  )
  with pytest.raises(ValueError, match=r"group.*\b2\b.*batch.*\b3\b"):
    groups.apply(variables, x[:3], train=True, mutable=["batch_stats"])
  with pytest.raises(ValueError, match=r"group.*\b2\b.*2 domains.*batch.*\b2\b"):
    groups.clone(domains=2).apply(variables, x[:2], train=True, mutable=["batch_stats"])


def test_frozen_affine_gets_no_gradient(random):
  x = jnp.asarray(random.standard_normal((2, 3, 5, 4)), jnp.float32)
  for trainable in (True, False):
    layer = BatchNorm(trainable=trainable)
    variables = layer.init(jax.random.key(0), x, train=True)

    def loss(params, layer=layer, variables=variables):
      variables = variables | {"params": params}
      return (layer.apply(variables, x, train=True, mutable=["batch_stats"])[0] ** 3).sum()

    gradient = jax.grad(loss)(variables["params"])
    assert bool(jnp.abs(gradient["scale"]).max() > 0) is trainable
    assert bool(jnp.abs(gradient["bias"]).max() > 0) is trainable


@pytest.mark.parametrize("ceil", [True, False])
@pytest.mark.parametrize("size", [(8, 11), (9, 6), (256, 49)])
def test_max_pooling_rounds_sizes_as_asked(random, size, ceil):
  x = random.standard_normal((1, *size, 2)).astype(np.float32)
  got = max_pool(jnp.asarray(x), ceil=ceil)
  # The last window of a size rounded up starts on the last pixel; rounded down there is none there.
  rows, columns = (n // 2 + 1 if ceil else (n + 1) // 2 for n in size)
  assert got.shape == (1, rows, columns, 2)
  for i in range(rows):
    for j in range(columns):
      window = x[:, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
      np.testing.assert_array_equal(got[:, i, j], window.max((1, 2)))


def test_layer_norm_does_not_cancel(random):
  """A mean far above the deviation: differences of large squares would lose it."""
  x = np.float32(1000 + random.standard_normal((3, 64)))
  layer = LayerNorm(1e-6)
  got = layer.apply(layer.init(jax.random.key(0), x), x)
  expected = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
  np.testing.assert_allclose(got, expected, atol=2e-3)


@pytest.mark.parametrize("size", [2, 3])
def test_patches_are_strided_convolutions(float64, random, size):
  x = random.standard_normal((2, 7, 11, 3))
  layer = PatchConvolution(5, size, param_dtype=jnp.float64)
  variables = layer.init(jax.random.key(0), x)
  variables["params"]["bias"] = random.standard_normal(5)
  kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
  expected = jax.lax.conv_general_dilated(
    x, kernel, (size, size), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  np.testing.assert_allclose(layer.apply(variables, x), expected + bias, rtol=1e-12)


def test_transposed_convolution_gives_patches(float64, random):
  x = random.standard_normal((2, 3, 4, 5))
  layer = TransposedConvolution(6, 2, use_bias=True, param_dtype=jnp.float64)
  variables = layer.init(jax.random.key(0), x)
  kernel = variables["params"]["transposed_kernel"]
  got = layer.apply(variables, x)
  assert got.shape == (2, 6, 8, 6)
  for row, column in np.ndindex(2, 2):
    np.testing.assert_allclose(got[:, row::2, column::2], x @ kernel[row, column], rtol=1e-12)
