import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
from PIL import Image

from corda_jax.resize import resize_aligned, resize_centered, resize_nearest
from data_pipelines import resizing


@pytest.mark.parametrize("shape", [(9, 14), (4, 3), (5, 7), (1, 5), (2, 1)])
def test_agrees_with_linear_interpolation(float64, random, shape):
  x = random.standard_normal((2, 5, 7, 3))
  rows, columns = (
    np.linspace(0, n - 1, m) if m > 1 else np.zeros(1) for n, m in zip((5, 7), shape, strict=True)
  )
  grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
  got = resize_aligned(jnp.asarray(x), shape)
  for image, resized in zip(x, got, strict=True):
    expected = scipy.interpolate.interpn((np.arange(5), np.arange(7)), image, grid)
    np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-14)


def test_float32_error_is_that_of_the_arithmetic(random):
  x = random.standard_normal((1, 13, 17, 19)).astype(np.float32)
  exact = _float64(x, (97, 129))
  got = resize_aligned(jnp.asarray(x), (97, 129))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, exact, rtol=0, atol=1e-6)


def _float64(x, shape):
  with jax.enable_x64(True):
    return np.asarray(resize_aligned(jnp.asarray(x, jnp.float64), shape))


def test_needs_four_axes(unchecked_shapes):
  with pytest.raises(ValueError, match=r"B, h, w, C.*\(3, 4, 5\)"):
    resize_aligned(jnp.zeros((3, 4, 5)), (6, 8))


def test_nearest_equals_pillow(random):
  sizes = (1, 2, 3, 9, 16, 18, 27, 31, 37, 64, 74)
  for given in sizes:
    label = random.randint(0, 256, (1, given, given + 5)).astype(np.uint8)
    for expected in sizes:
      got = resize_nearest(label, (expected, 2 * expected))
      pillow = Image.fromarray(label[0]).resize((2 * expected, expected), Image.Resampling.NEAREST)
      np.testing.assert_array_equal(got[0], pillow)


def test_nearest_on_the_device(random):
  label = random.randint(0, 256, (2, 11, 14)).astype(np.uint8)
  got = jax.jit(resize_nearest, static_argnums=1)(jnp.asarray(label), (5, 9))
  np.testing.assert_array_equal(got, resize_nearest(label, (5, 9)))


@pytest.mark.parametrize("shape", [(9, 14), (4, 3), (5, 7), (10, 21), (1, 2)])
def test_centered_equals_opencv(random, shape):
  x = random.standard_normal((2, 5, 7, 3)).astype(np.float32)
  got = jax.jit(resize_centered, static_argnums=1)(x, shape)
  for image, resized in zip(x, np.asarray(got), strict=True):
    for channel in range(3):
      expected = resizing.resize_bilinear(image[..., channel], (5, 7), shape)
      np.testing.assert_allclose(resized[..., channel], expected, rtol=0, atol=1e-6)
