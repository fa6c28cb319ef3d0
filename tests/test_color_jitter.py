import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from corda_jax.color_jitter import GREY, color_jitter, draw_jitter


def test_each_image_has_its_own_factors_and_order(float64, random):
  images = jnp.asarray(random.uniform(size=(3, 4, 5, 3)))
  draws = draw_jitter(jax.random.key(3), 3, strength=0.25)
  jitter = jax.jit(color_jitter)
  together = jitter(images, draws)
  for i in range(3):
    alone = jitter(images[i : i + 1], {k: v[i : i + 1] for k, v in draws.items()})
    np.testing.assert_allclose(together[i], alone[0], atol=1e-15)


def test_brightness_adds_or_multiplies(float64, random):
  images = jnp.asarray(random.uniform(size=(2, 4, 5, 3)))
  draws = {name: jnp.ones(2) for name in ("contrast", "saturation")} | {"hue": jnp.zeros(2)}
  draws |= {"brightness": jnp.array([0.8, 1.2]), "order": jnp.tile(jnp.arange(4), (2, 1))}
  factor = np.array([0.8, 1.2])[:, None, None, None]
  for mode, expected in (("add", images + factor - 1), ("multiply", images * factor)):
    got = color_jitter(images, draws, brightness_mode=mode)
    np.testing.assert_allclose(got, np.clip(expected, 0, 1), atol=1e-14)


@pytest.mark.parametrize(("saturation", "hue"), [(0.7, 0.1), (1.0, 0.0), (1.2, -0.2)])
def test_hue_and_saturation_agree_with_the_standard_library(float64, random, saturation, hue):
  images = random.uniform(size=(1, 40, 3, 3))
  images[0, 0] = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]]
  images[0, 1] = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
  draws = {name: jnp.ones(1) for name in ("brightness", "contrast")}
  draws |= {"saturation": jnp.array([saturation]), "hue": jnp.array([hue])}
  draws |= {"order": jnp.arange(4)[None]}
  got = jax.jit(color_jitter)(jnp.asarray(images), draws)

  def changed(color):
    h, s, v = colorsys.rgb_to_hsv(*color)
    return colorsys.hsv_to_rgb((h + hue) % 1, min(saturation * s, 1), v)

  expected = [[changed(color) for color in row] for row in images[0]]
  np.testing.assert_allclose(got[0], expected, atol=1e-14)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.3])
@pytest.mark.parametrize(
  ("operation", "enhance"),
  [
    ("brightness", ImageEnhance.Brightness),
    ("contrast", ImageEnhance.Contrast),
    ("saturation", ImageEnhance.Color),
  ],
)
def test_blending_agrees_with_pillow(float64, random, operation, enhance, factor):
  pixels = random.randint(0, 256, (2, 9, 8, 3), np.uint8)
  pixels[1] //= 2  # the second image has another mean
  neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
  draws = {name: jnp.full(2, value) for name, value in (neutral | {operation: factor}).items()}
  draws["order"] = jnp.tile(jnp.arange(4), (2, 1))
  jitter = jax.jit(functools.partial(color_jitter, brightness_mode="multiply", grey=GREY))
  got = jitter(jnp.asarray(pixels / 255), draws)
  expected = [np.asarray(enhance(Image.fromarray(x)).enhance(factor)) for x in pixels]
  np.testing.assert_allclose(255 * got, expected, atol=1.21)  # Pillow rounds grey, and truncates
  assert factor == 1 or np.abs(np.asarray(expected, int) - pixels).max() > 20


def test_draws_cover_their_ranges():
  draws = draw_jitter(jax.random.key(0), 4000, strength=0.25)
  for name, center in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0)):
    values = np.asarray(draws[name])
    np.testing.assert_allclose(
      [values.min(), values.max()], [center - 0.25, center + 0.25], atol=3e-3
    )
    np.testing.assert_allclose(values.mean(), center, atol=0.01)
  assert (np.sort(draws["order"], axis=1) == np.arange(4)).all()
  assert len(np.unique(draws["order"], axis=0)) == 24


def test_a_small_number_beside_the_value_lowers_the_saturation(float64, random):
  images = jnp.asarray(random.uniform(0.01, 1, (1, 4, 5, 3)))
  draws = {name: jnp.ones(1) for name in ("brightness", "contrast", "saturation")}
  draws |= {"hue": jnp.zeros(1), "order": jnp.arange(4)[None]}
  np.testing.assert_allclose(color_jitter(images, draws), images, atol=1e-14)
  got = color_jitter(images, draws, hsv_epsilon=0.1)
  value, low = images.max(-1), images.min(-1)
  # To HSV and back for saturation and for hue: the distance to the value shrinks twice.
  np.testing.assert_allclose(got.max(-1), value, atol=1e-14)
  shrunk = np.asarray((value / (value + 0.1)) ** 2)
  np.testing.assert_allclose(value - got.min(-1), (value - low) * shrunk, rtol=1e-10)


def test_all_images_may_share_the_order():
  orders = [
    np.asarray(draw_jitter(jax.random.key(k), 5, strength=0.2, one_order=True)["order"])
    for k in range(10)
  ]
  assert all((order == order[0]).all() for order in orders)
  assert len({order.tobytes() for order in orders}) > 3
