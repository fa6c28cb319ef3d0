import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from corda_jax.adaptation import color_augmentation as sa
from corda_jax.models.normalization import IMAGENET


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


def sampled(part, seed, batch=4):
  return part.sample(list(jax.random.split(jax.random.key(seed), 4)), batch)


def test_order_and_blur_are_of_each_image_or_of_the_batch():
  for sample_for, fewest in (("image", 2), ("batch", 1)):
    part = sa.ColorAugmentation(sample_for=sample_for)
    found = [sampled(part, seed) for seed in range(20)]
    orders = [len(np.unique(draws["jitter"]["order"], axis=0)) for draws in found]
    sigmas = {len(np.unique(draws["blur_sigma"])) for draws in found}
    assert (max(orders) >= 2) == (fewest == 2)
    assert sigmas == ({4} if fewest == 2 else {1})
    assert {len(np.unique(draws["jitter"]["contrast"])) for draws in found} == {4}
    assert len({draws["jitter"]["order"].tobytes() for draws in found}) > 5


def test_each_factor_has_its_strength():
  part = sa.ColorAugmentation(jitter_strength=(0.1, 0.2, 0.3, 0.05))
  jitter = sampled(part, 0, batch=2_000)["jitter"]
  expected = {"brightness": 0.1, "contrast": 0.2, "saturation": 0.3, "hue": 0.05}
  for name, strength in expected.items():
    centre = 0 if name == "hue" else 1
    values = np.asarray(jitter[name])
    np.testing.assert_allclose(
      [values.min(), values.max()], [centre - strength, centre + strength], atol=1e-3
    )


def test_grey_is_of_red_green_and_blue_wherever_they_are(float64, random):
  part = sa.ColorAugmentation(
    blend_with_grey=True,
    brightness="multiply",
    jitter_probability=1.0,
    jitter_strength=(0.2, 0.2, 0.2, 0.0),  # hue turns the other way
    blur_probability=0.0,
  )
  rgb = jnp.asarray(random.randint(0, 256, (4, 5, 6, 3), np.uint8))
  draws = sampled(part, 0)
  plain = {"bgr": dataclasses.replace(IMAGENET, bgr=True), "rgb": IMAGENET}
  seen = {
    name: order.to_unit_range(part.augment(order.normalize(rgb, jnp.float64), draws, order))
    for name, order in plain.items()
  }
  np.testing.assert_allclose(seen["bgr"][..., ::-1], seen["rgb"], atol=1e-9)
  assert np.abs(np.asarray(seen["rgb"]) - np.asarray(rgb) / 255).max() > 0.05


def test_without_probability_nothing_is_computed():
  part = sa.ColorAugmentation(jitter_probability=0.0, blur_probability=0.0)
  x = jnp.ones((1, 3, 4, 3))
  assert part.augment(x, {}, IMAGENET) is x


@pytest.mark.parametrize("strength", [(0.1, 0.2), 1.5, (-0.1, 0.0, 0.0, 0.0)])
def test_strengths_that_cannot_be(strength):
  with pytest.raises(ValueError, match="jitter_strength"):
    sa.ColorAugmentation(jitter_strength=strength)
