import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate

from corda_jax.resize import resize_aligned


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


def test_wants_four_axes():
  with pytest.raises(ValueError, match="B, h, w, C"):
    resize_aligned(jnp.zeros((3, 4, 5)), (6, 8))
