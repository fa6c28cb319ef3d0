import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from corda_jax.adaptation import color_augmentation as sa


def test_kernel_of_the_released_crop():
  assert sa.blur_kernel_size(512) == 51


def test_sigmas_cover_their_range():
  sigma = np.asarray(sa.draw_blur(jax.random.key(0), 4000, sigma_range=(0.15, 1.15)))
  np.testing.assert_allclose([sigma.min(), sigma.max()], [0.15, 1.15], atol=3e-3)


@pytest.mark.parametrize("shape", [(7, 30), (11, 23)])
def test_blur_agrees_with_scipy_on_odd_sizes(float64, random, shape):
  image = random.uniform(size=(2, *shape, 3))
  sigma = np.array([0.4, 1.1])
  got = jax.jit(sa.gaussian_blur)(jnp.asarray(image), jnp.asarray(sigma))
  expected = np.stack(
    [
      scipy.ndimage.gaussian_filter(
        x, s, axes=(0, 1), mode="mirror", radius=[sa.blur_kernel_size(n) // 2 for n in shape]
      )
      for x, s in zip(image, sigma, strict=True)
    ]
  )
  np.testing.assert_allclose(got, expected, atol=1e-14)
