import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.depth import photometric
from corda_jax.depth.camera import stereo_matrix
from corda_jax.depth.photometric import Views
from corda_jax.depth.step import DepthMethod
from tests.depth import reference

CONFIG = DepthMethod(automask="none")


def images(random, *shape):
  return random.uniform(size=shape)


@pytest.mark.parametrize("size", [(5, 7), (2, 9), (8, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_that_of_moments_of_windows(float64, random, size, channels):
  x = images(random, 2, *size, channels)
  y = np.clip(x + random.uniform(-0.4, 0.4, x.shape), 0, 1)
  y[1, :, :2] = 1 - x[1, :, :2]  # of opposite structure: the loss is cut off at 1 only beyond it
  loss = jax.jit(photometric.ssim_loss)(jnp.asarray(x), jnp.asarray(y))
  expected = np.stack([reference.ssim_loss(*pair) for pair in zip(x, y, strict=True)])
  np.testing.assert_allclose(loss, expected, atol=1e-12)
  assert expected.max() > 0.5
  # One window, by hand: at a corner the second row and column come twice.
  a, b = (z[0][np.ix_([1, 0, 1], [1, 0, 1])][..., 0] for z in (x, y))
  luminance = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
  covariance = np.cov(a.ravel(), b.ravel(), bias=True)
  structure = (2 * covariance[0, 1] + 9e-4) / (covariance[0, 0] + covariance[1, 1] + 9e-4)
  np.testing.assert_allclose(loss[0, 0, 0, 0], (1 - luminance * structure) / 2, atol=1e-12)
  error = jax.jit(photometric.reprojection_error)(jnp.asarray(x), jnp.asarray(y))
  expected = np.stack([reference.error(*pair) for pair in zip(x, y, strict=True)])
  np.testing.assert_allclose(error, expected, atol=1e-12)


def test_equal_images_have_no_error_and_no_gradient(float64, random):
  x = jnp.asarray(images(random, 1, 5, 6, 3)).at[:, :3].set(0.5)  # with and without texture
  np.testing.assert_allclose(jax.jit(photometric.ssim_loss)(x, x), 0, atol=1e-12)
  np.testing.assert_allclose(jax.jit(photometric.reprojection_error)(x, x), 0, atol=1e-12)
  gradient = jax.jit(jax.grad(lambda y, x: photometric.ssim_loss(y, x).sum()))(x, x)
  np.testing.assert_allclose(gradient, 0, atol=1e-9)


def test_smoothness_follows_its_formula(float64, random):
  disparity, image = images(random, 2, 5, 7), images(random, 2, 5, 7, 3)
  smooth = jax.jit(photometric.smoothness)
  everywhere = np.ones(disparity.shape)
  arrays = jnp.asarray(disparity), jnp.asarray(image)
  expected = reference.smoothness(disparity, image, everywhere)
  np.testing.assert_allclose(smooth(*arrays), expected, rtol=1e-12)
  np.testing.assert_allclose(smooth(*arrays, jnp.asarray(everywhere)), expected, rtol=1e-12)
  weight = (random.uniform(size=disparity.shape) < 0.6).astype(float)
  expected = reference.smoothness(disparity, image, weight)
  np.testing.assert_allclose(smooth(*arrays, jnp.asarray(weight)), expected, rtol=1e-12)
  # What does not count may be anything.
  other = jnp.where(weight > 0, arrays[0], 50.0)
  np.testing.assert_allclose(smooth(other, arrays[1], jnp.asarray(weight)), expected, rtol=1e-12)
  assert smooth(*arrays, jnp.zeros(disparity.shape)) == 0
  assert smooth(jnp.full((2, 5, 7), 3.0), arrays[1]) == 0


def test_an_edge_of_the_image_damps_that_of_the_disparity(float64):
  disparity = jnp.asarray(np.repeat([0.2, 0.6], 3)[None, None].repeat(4, 1))
  edge = jnp.asarray(np.repeat([0.0, 1.0], 3)[None, None, :, None].repeat(4, 1))
  smooth = jax.jit(photometric.smoothness)
  plain, damped = (smooth(disparity, image) for image in (0 * edge, edge))
  np.testing.assert_allclose(plain, 0.4 / 5)  # one step of five
  np.testing.assert_allclose(damped, 0.4 / 5 * np.exp(-1))


def test_disparities_over_their_means(float64, random):
  disparity = images(random, 3, 4, 5)
  weight = (random.uniform(size=disparity.shape) < 0.5).astype(float)
  weight[2] = 0
  normalized = jax.jit(photometric.normalized)
  got = normalized(jnp.asarray(disparity))
  np.testing.assert_allclose(
    got, disparity / (disparity.mean((1, 2), keepdims=True) + 1e-7), rtol=1e-12
  )
  got = normalized(jnp.asarray(disparity), jnp.asarray(weight))
  for b in range(2):
    mean = disparity[b][weight[b] > 0].mean()
    np.testing.assert_allclose(got[b], disparity[b] / (mean + 1e-7), rtol=1e-12)
  np.testing.assert_allclose(got[2], disparity[2], rtol=1e-6)  # none counts: as it is
  gradient = jax.jit(jax.grad(lambda d, w: photometric.normalized(d, w).sum()))(
    jnp.asarray(disparity), jnp.asarray(weight)
  )
  assert np.isfinite(gradient).all()
  smaller = normalized(jnp.asarray(disparity / 9))
  np.testing.assert_allclose(smaller, normalized(jnp.asarray(disparity)), rtol=1e-5)


def scene(random, height=12, width=20, true=(4, 2)):
  """A texture far away with a square before it, seen by two cameras to its right.

  Shifts are 2 and 4 pixels in the first, twice that in the second; the disparity is 8 / shift.
  """
  texture = np.kron(images(random, height // 2, width + 10, 3), np.ones((2, 2, 1)))
  target = texture[:, 10 : 10 + width]
  views = []
  for factor in (1, 2):
    shift = true[1] * factor
    views.append(texture[:, 10 + shift : 10 + shift + width])
  transforms = stereo_matrix(jnp.array([0.5, 1.0]))[:, None]
  intrinsics = jnp.array([[16.0, 16, 9, 5]])
  sources = jnp.asarray(np.stack(views)[:, None])
  return Views(jnp.asarray(target[None]), sources, transforms, intrinsics, (False, True))


def disparity_of(depth, shape):
  """The network's output [1, H, W, 1] that stands for a depth."""
  return jnp.full((1, *shape, 1), (1 / depth - 0.01) / (10 - 0.01))


def disparities_of(depth, size=(12, 20), scales=3):
  return [disparity_of(depth, (size[0] >> s, size[1] >> s)) for s in range(scales)]


# All is 4 metres away: 16 * 0.5 / 4 = 2 pixels, and 4 in the second view.
RIGHT, WRONG = 4.0, 6.0


@pytest.mark.parametrize("over_views", ["minimum", "mean"])
def test_the_right_depth_has_the_least_loss(float64, random, over_views):
  views, config = scene(random), dataclasses.replace(CONFIG, over_views=over_views)

  @jax.jit
  def loss(depth):
    value, maps = photometric.photometric_loss(disparities_of(depth), views, config)
    return value, maps

  losses = {depth: float(loss(depth)[0]) for depth in (2.5, 3.5, RIGHT, 4.5, WRONG, 30.0)}
  assert min(losses, key=losses.get) == RIGHT
  assert losses[RIGHT] < 0.7 * min(v for d, v in losses.items() if d != RIGHT)
  _, maps = loss(RIGHT)
  # Inside, each view becomes the target; what it does not see is at its left border.
  np.testing.assert_allclose(maps["warped"][0][:, :, 2:], views.target[:, :, 2:], atol=1e-5)
  np.testing.assert_allclose(maps["warped"][1][:, :, 4:], views.target[:, :, 4:], atol=1e-5)
  assert bool(maps["automask"].all())


def test_views_are_joined_by_minimum_or_mean(float64, random):
  views, depth = scene(random), jnp.full((1, 12, 20), WRONG)
  each = [
    reference.data_error(
      np.asarray(depth),
      np.asarray(views.target),
      np.asarray(views.sources[n : n + 1]),
      np.asarray(views.transforms[n : n + 1]),
      np.asarray(views.intrinsics),
    )
    for n in range(2)
  ]
  for over_views, expected in (("minimum", np.min(each, 0)), ("mean", np.mean(each, 0))):

    @jax.jit
    def join(depth, over_views=over_views):
      return photometric.reprojection_minimum(depth, views, over_views=over_views)

    got, warped = join(depth)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert warped.shape == (2, 1, 12, 20, 3)
  with pytest.raises(ValueError, match=r"over_views.*median.*minimum.*mean"):
    photometric.reprojection_minimum(depth, views, over_views="median")


def test_what_moves_with_the_camera_does_not_count(float64, random):
  """The right half is the same in all views: it is left out, whatever its disparity."""
  views = scene(random)
  sources = jnp.where((jnp.arange(20) >= 10)[:, None], views.target[None], views.sources)
  views = views._replace(sources=sources)
  config = dataclasses.replace(CONFIG, automask="all", smoothness_weight=0.0)

  def loss(disparity):
    return photometric.photometric_loss([disparity], views, config, key=jax.random.key(0))

  disparity = disparity_of(RIGHT, (12, 20))
  (value, maps), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(disparity + 0.001)
  automask, gradient = np.asarray(maps["automask"][0]), np.asarray(gradient[0, ..., 0])
  assert not automask[:, 11:].any()
  assert automask[:, 4:8].mean() > 0.8
  # A window of 3x3 reaches one pixel into what does not count.
  counted = np.pad(automask, 1)
  near = np.max([counted[i : i + 12, j : j + 20] for i in range(3) for j in range(3)], 0)
  assert (gradient[~near] == 0).all()
  assert (gradient[automask] != 0).mean() > 0.5  # the texture is of blocks of 2x2
  # The value is the least of warped and unwarped errors, with noise that breaks ties.
  noise = 1e-5 * np.asarray(jax.random.normal(jax.random.key(0), (2, 1, 12, 20)))
  arrays = [np.asarray(x) for x in views[:4]]
  error = reference.data_error(np.asarray(maps["depth"]), *arrays, noise)
  np.testing.assert_allclose(value, error.mean(), rtol=1e-5)
  # Without the mask, that half is to be infinitely far.
  config = dataclasses.replace(config, automask="none")
  value, _ = jax.jit(lambda d: photometric.photometric_loss([d], views, config))(disparity + 0.001)
  assert value > 1.2 * error.mean()


def test_noise_breaks_ties_and_no_more(float64, random):
  views = scene(random)
  still = views._replace(sources=jnp.broadcast_to(views.target, views.sources.shape))
  np.testing.assert_allclose(photometric.identity_error(still, "all", None), 0, atol=1e-12)
  noise = photometric.identity_error(still, "all", jax.random.key(1))
  expected = 1e-5 * np.asarray(jax.random.normal(jax.random.key(1), (2, 1, 12, 20))).min(0)
  np.testing.assert_allclose(noise, expected, atol=1e-12)
  errors = [
    np.stack([reference.error(np.asarray(source[0]), np.asarray(views.target[0]))])
    for source in views.sources
  ]
  np.testing.assert_allclose(
    photometric.identity_error(views, "all", None), np.min(errors, 0), atol=1e-12
  )


def test_all_scales_are_judged_at_full_size(float64, random):
  views = scene(random)
  disparities = [
    jnp.asarray(random.uniform(0.01, 0.05, (1, 12 >> s, 20 >> s, 1))) for s in range(3)
  ]

  @jax.jit
  def loss(disparities, pyramid=None):
    return photometric.photometric_loss(disparities, views, CONFIG, pyramid=pyramid)

  value, maps = loss(disparities)
  pyramid = photometric.image_pyramid(views.target, 3)
  for scale, disparity in enumerate(disparities):
    full = jax.image.resize(disparity, (1, 12, 20, 1), "linear")[..., 0]
    depth = 1 / (0.01 + 9.99 * full)
    np.testing.assert_allclose(maps["depths"][scale], depth, rtol=1e-10)
    arrays = [np.asarray(x) for x in views[:4]]
    data = reference.data_error(np.asarray(depth), *arrays).mean()
    scaled = np.asarray(disparity[..., 0] / (disparity.mean() + 1e-7))
    smooth = reference.smoothness(scaled, np.asarray(pyramid[scale]), np.ones(scaled.shape))
    np.testing.assert_allclose(maps["losses"][scale], data + 1e-3 / 2**scale * smooth, rtol=1e-6)
  np.testing.assert_allclose(value, maps["losses"].mean(), rtol=1e-12)
  np.testing.assert_array_equal(maps["depth"], maps["depths"][0])
  # A pyramid that is given takes the place of the means.
  flat = [jnp.zeros_like(image) for image in pyramid]
  other, _ = loss(disparities, flat)
  assert other > value


def test_a_pyramid_of_means(float64, random):
  image = images(random, 2, 8, 12, 3)
  pyramid = photometric.image_pyramid(jnp.asarray(image), 3)
  assert [x.shape for x in pyramid] == [(2, 8, 12, 3), (2, 4, 6, 3), (2, 2, 3, 3)]
  np.testing.assert_array_equal(pyramid[0], image)
  for scale in (1, 2):
    side = 2**scale
    for y, x in np.ndindex(8 // side, 12 // side):
      block = image[:, y * side : (y + 1) * side, x * side : (x + 1) * side]
      np.testing.assert_allclose(pyramid[scale][:, y, x], block.mean((1, 2)), rtol=1e-12)


def test_views_of_the_automask(float64, random):
  """Only those of another time are compared unwarped, or none, or all."""
  views = scene(random)
  still = [np.asarray(photometric.reprojection_error(x, views.target)) for x in views.sources]
  for which, expected in (("all", np.minimum(*still)), ("temporal", still[1])):
    np.testing.assert_array_equal(photometric.identity_error(views, which, None), expected)
  assert photometric.identity_error(views, "none", None) is None
  stereo = views._replace(temporal=(False, False))
  assert photometric.identity_error(stereo, "temporal", None) is None
  with pytest.raises(ValueError, match=r"automask.*some.*all.*temporal.*none"):
    photometric.identity_error(views, "some", None)


def test_the_own_cars_hood_does_not_count(float64, random):
  views = scene(random)
  config = dataclasses.replace(CONFIG, ignored_bottom=0.25, smoothness_weight=0.0)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss(disparity, target):
    changed = views._replace(target=target)
    return photometric.photometric_loss([disparity], changed, config)

  disparity = disparity_of(RIGHT, (12, 20)) + 0.001
  (value, maps), gradient = loss(disparity, views.target)
  # Three of twelve rows, and the one whose windows reach into them.
  assert not np.asarray(maps["automask"])[:, 8:].any()
  assert np.asarray(maps["automask"])[:, :8].all()
  np.testing.assert_array_equal(gradient[:, 9:], 0)
  assert (np.asarray(gradient[:, :9]) != 0).any()
  error, _ = jax.jit(lambda depth: photometric.reprojection_minimum(depth, views))(maps["depth"])
  np.testing.assert_allclose(value, np.asarray(error)[:, :8].mean(), rtol=1e-12)
  (other, _), _ = loss(disparity, views.target.at[:, 9:].set(0.5))
  np.testing.assert_allclose(other, value, rtol=1e-12)
