import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import ndimage
from scipy.spatial.transform import Rotation

from corda_jax.depth import camera
from tests.depth import reference

# Images that are not square, and principal points far from their centres.
SIZES = [(7, 12), (10, 5)]


def intrinsics_of(random, batch, height, width):
  shares = random.uniform([0.5, 0.7, 0.2, 0.1], [1.5, 1.8, 0.9, 0.8], (batch, 4))
  return shares * [width, height, width, height]


def transforms_of(random, batch):
  transforms = np.tile(np.eye(4), (batch, 1, 1))
  transforms[:, :3, :3] = Rotation.from_rotvec(random.uniform(-0.2, 0.2, (batch, 3))).as_matrix()
  transforms[:, :3, 3] = random.uniform(-0.5, 0.5, (batch, 3))
  return transforms


def test_disparities_become_depths(float64):
  depth = camera.disparity_to_depth(jnp.linspace(0, 1, 5), min_depth=0.1, max_depth=100.0)
  np.testing.assert_allclose(depth, 1 / (0.01 + 9.99 * np.linspace(0, 1, 5)), rtol=1e-14)
  assert (depth[0], depth[-1]) == (pytest.approx(100), pytest.approx(0.1))


def test_rotations_are_those_of_scipy(float64, random):
  axis_angle = random.standard_normal((20, 3)) * np.geomspace(1e-3, 2, 20)[:, None]
  rotation = jax.jit(camera.rotation_matrix)(jnp.asarray(axis_angle))
  expected = Rotation.from_rotvec(axis_angle).as_matrix()
  # The released 1e-7, added to the angle, makes the axis of a small rotation a little short.
  angle = np.linalg.norm(axis_angle, axis=1)
  for got, desired, a in zip(rotation, expected, angle, strict=True):
    bound = 2e-7 * np.sin(min(a, np.pi / 2)) / a + 4e-7 * (1 - np.cos(a)) / a
    np.testing.assert_allclose(got, desired, rtol=0, atol=bound)
  quarter = camera.rotation_matrix(jnp.array([[0, 0, np.pi / 2]]))[0]
  np.testing.assert_allclose(quarter @ jnp.array([1.0, 0, 0]), [0, 1, 0], atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_camera_that_does_not_turn_has_gradients(float64, dtype):
  zero = jnp.zeros((1, 3), dtype)
  np.testing.assert_array_equal(camera.rotation_matrix(zero)[0], np.eye(3))
  derivative = jax.jit(jax.jacobian(camera.rotation_matrix))
  assert np.isfinite(derivative(zero)).all()
  step = jnp.full((1, 3), 1e-20, dtype)  # no square root of what underflows, either
  assert np.isfinite(derivative(step)).all()


def test_a_motion_and_the_same_inverted(float64, random):
  axis_angle, translation = random.standard_normal((2, 6, 3))
  motion = jax.jit(camera.pose_matrix, static_argnames="invert")
  arrays = jnp.asarray(axis_angle), jnp.asarray(translation)
  forth, back = (np.asarray(motion(*arrays, invert=invert)) for invert in (False, True))
  for b in range(6):
    # p → R p + t, and its inverse, R^T T(-t).
    rotation = Rotation.from_rotvec(axis_angle[b])
    point = random.standard_normal(3)
    np.testing.assert_allclose(
      (forth[b] @ [*point, 1])[:3], rotation.apply(point) + translation[b], atol=1e-6
    )
    shift = np.eye(4)
    shift[:3, 3] = -translation[b]
    turn = np.eye(4)
    turn[:3, :3] = rotation.as_matrix().T
    np.testing.assert_allclose(back[b], turn @ shift, atol=1e-6)
  np.testing.assert_allclose(back @ forth, np.tile(np.eye(4), (6, 1, 1)), atol=1e-6)
  # For small motions the two differ in their sign alone.
  small = tuple(1e-4 * array for array in arrays)
  forth, back = (np.asarray(motion(*small, invert=invert)) for invert in (False, True))
  np.testing.assert_allclose(forth + back, 2 * np.tile(np.eye(4), (6, 1, 1)), atol=3e-7)


def test_stereo_moves_points_to_the_left(float64):
  transforms = camera.stereo_matrix(jnp.array([0.22, -0.5]))
  for transform, baseline in zip(transforms, (0.22, -0.5), strict=True):
    np.testing.assert_allclose(transform @ jnp.array([3.0, 2, 7, 1]), [3 - baseline, 2, 7, 1])


@pytest.mark.parametrize("size", SIZES)
def test_reprojection_is_that_of_matrices(float64, random, size):
  intrinsics, transforms = intrinsics_of(random, 3, *size), transforms_of(random, 3)
  depth = random.uniform(2, 9, (3, *size))
  arrays = tuple(map(jnp.asarray, (depth, intrinsics, transforms)))
  pixels = jax.jit(camera.reproject)(*arrays)
  assert pixels.shape == (3, *size, 2)
  for b in range(3):
    expected = reference.reproject(depth[b], intrinsics[b], transforms[b])
    # The released 1e-7 is added to the depth before the division.
    np.testing.assert_allclose(pixels[b], expected, rtol=0, atol=1e-7 * np.abs(expected).max())
  # As in a batch, so alone.
  each = jax.jit(jax.vmap(lambda *x: camera.reproject(*(a[None] for a in x))[0]))(*arrays)
  np.testing.assert_allclose(each, pixels, atol=1e-12)


def test_a_camera_that_stands_still_sees_the_same(float64, random):
  intrinsics = intrinsics_of(random, 1, 6, 9)
  depth = jnp.asarray(random.uniform(2, 9, (1, 6, 9)))
  pixels = camera.reproject(depth, jnp.asarray(intrinsics), jnp.eye(4)[None])
  y, x = np.mgrid[:6, :9]
  np.testing.assert_allclose(pixels[0], np.stack([x, y], -1), atol=1e-6)


def test_a_point_in_the_plane_of_the_camera_has_finite_gradients():
  depth = jnp.full((1, 2, 3), 2.0)
  intrinsics = jnp.array([[3.0, 3, 1, 0.5]])
  transform = camera.pose_matrix(jnp.zeros((1, 3)), jnp.array([[0.0, 0, -2]]), invert=False)
  gradient = jax.jit(jax.grad(lambda d: camera.reproject(d, intrinsics, transform).sum()))(depth)
  assert np.isfinite(gradient).all()


def random_pixels(random, size, shape=(6, 5)):
  """Positions inside, outside, on the border, and on pixels themselves."""
  height, width = size
  pixels = random.uniform([-3, -3], [width + 2, height + 2], (2, *shape, 2))
  pixels[:, 0, 0] = (0, 0)
  pixels[:, 0, 1] = (width - 1, height - 1)
  pixels[:, 0, 2] = (-0.25, height + 50)
  pixels[:, 1, 0] = (width - 1, 0)
  pixels[:, 1, 1] = (width // 2, height // 2)
  return pixels


@pytest.mark.parametrize("size", [(7, 12), (10, 5), (1, 6), (6, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_sampling_is_that_of_scipy(float64, random, size, channels):
  images = random.standard_normal((2, *size, channels))
  pixels = random_pixels(random, size)

  @jax.jit
  def expected(images, pixels):
    def one(image, pixels):
      def channel(c):
        return ndimage.map_coordinates(c, [pixels[..., 1], pixels[..., 0]], 1, mode="nearest")

      return jax.vmap(channel, -1, -1)(image)

    return jax.vmap(one)(images, pixels)

  arrays = jnp.asarray(images), jnp.asarray(pixels)
  got = jax.jit(camera.sample_bilinear)(*arrays)
  np.testing.assert_allclose(got, expected(*arrays), atol=1e-13)
  each = [reference.sample(image, place) for image, place in zip(images, pixels, strict=True)]
  np.testing.assert_allclose(got, each, atol=1e-13)
  # And so are the gradients with respect to the colours.
  weights = jnp.asarray(random.standard_normal(got.shape))
  gradients = [
    jax.jit(jax.grad(lambda x, f=f: (weights * f(x, arrays[1])).sum()))(arrays[0])
    for f in (camera.sample_bilinear, expected)
  ]
  np.testing.assert_allclose(*gradients, atol=1e-12)
  batched = jax.jit(jax.vmap(camera.sample_bilinear))(*(x[:, None] for x in arrays))
  np.testing.assert_allclose(batched[:, 0], got, atol=1e-14)


def test_positions_have_the_gradient_of_the_colours_between(float64, random):
  images = jnp.asarray(random.standard_normal((1, 6, 8, 2)))
  pixels = jnp.asarray(random_pixels(random, (6, 8))[:1] + 0.013)
  weights = jnp.asarray(random.standard_normal((*pixels.shape[:3], 2)))

  @jax.jit
  def parts(pixels):
    return (weights * camera.sample_bilinear(images, pixels)).sum(-1)

  gradient = np.asarray(jax.jit(jax.grad(lambda pixels: parts(pixels).sum()))(pixels))
  step = 1e-6
  for axis in range(2):
    shift = step * jnp.eye(2)[axis]
    # Each position is read by itself, so all of them may move at once.
    ends = [parts(pixels + sign * shift) for sign in (1, -1)]
    np.testing.assert_allclose(gradient[..., axis], (ends[0] - ends[1]) / (2 * step), atol=1e-8)
  outside = (np.asarray(pixels) < 0) | (np.asarray(pixels) > [7, 5])
  assert 5 < outside.sum() < outside.size - 5
  assert (gradient[outside] == 0).all()
  assert (gradient[~outside] != 0).all()


@pytest.mark.parametrize("baseline", [0.5, -0.5])
def test_constant_depth_and_a_baseline_shift_the_image(float64, random, baseline):
  """By focal length times baseline over depth: here 16 * 0.5 / 4 = 2 pixels."""
  right = random.standard_normal((1, 6, 11, 3))
  depth, intrinsics = jnp.full((1, 6, 11), 4.0), jnp.array([[16.0, 9, 2.5, 4]])
  transform = camera.stereo_matrix(jnp.array([baseline]))
  made = jax.jit(camera.synthesize_view)(jnp.asarray(right), depth, intrinsics, transform)
  x = np.clip(np.arange(11) - 4 * baseline, 0, 10).astype(int)
  np.testing.assert_allclose(made, right[:, :, x], atol=1e-5)
