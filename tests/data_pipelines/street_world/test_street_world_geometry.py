"""Camera and ray casting against independent references."""

import numpy as np
import pytest

from data_pipelines.street_world import camera as camera_lib
from data_pipelines.street_world import primitives as prim
from tests.data_pipelines.street_world.points import to_world


def make_camera(height=24, width=40, *, yaw=0.1, pitch=0.05, position=(0.5, -1.0, 1.4), focal=35.0):
  return camera_lib.Camera(
    height=height,
    width=width,
    focal=focal,
    center=(width * 0.52 - 0.5, height * 0.49 - 0.5),
    rotation=camera_lib.rotation_of(yaw=yaw, pitch=pitch),
    position=np.array(position),
  )


def make_primitives(body, cutout, center, half, rotation):
  return prim.Primitives(
    body=np.array(body),
    cutout=np.array(cutout),
    center=np.array(center, float),
    half=np.array(half, float),
    rotation=np.array(rotation, float),
  )


def random_rotation(rng):
  q, r = np.linalg.qr(rng.normal(size=(3, 3)))
  q = q * np.sign(np.diag(r))
  q[:, 0] *= np.sign(np.linalg.det(q))
  return q


def test_rotation_is_a_rotation_with_the_stated_signs():
  rotation = camera_lib.rotation_of(yaw=0.2, pitch=0.1)
  np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-15)
  assert np.linalg.det(rotation) == pytest.approx(1.0)
  assert rotation[0, 2] > 0  # yaw turns to the right
  assert rotation[2, 2] < 0  # pitch looks down
  np.testing.assert_allclose(
    camera_lib.rotation_of(yaw=0, pitch=0), [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-15
  )


def test_rays_and_projection_are_inverse():
  camera = make_camera()
  depth = np.linspace(1, 30, camera.height * camera.width)
  points = to_world(camera, (camera.rays().astype(float) * depth).T)
  pixels, again = camera.project(points)
  rows, columns = np.divmod(np.arange(depth.size), camera.width)
  np.testing.assert_allclose(again, depth, rtol=1e-12)
  np.testing.assert_allclose(pixels, np.stack([columns, rows], -1), atol=1e-5)


def test_right_view_has_the_disparity_of_a_rectified_pair():
  camera = make_camera()
  points = np.random.default_rng(0).uniform((-5, 4, 0), (5, 40, 5), (50, 3))
  left, depth = camera.project(points)
  right, right_depth = camera.right_of(0.3).project(points)
  np.testing.assert_allclose(right_depth, depth)
  np.testing.assert_allclose(right[:, 1], left[:, 1])
  np.testing.assert_allclose(left[:, 0] - right[:, 0], camera.focal * 0.3 / depth)


def test_ground_depth_is_analytic():
  camera = make_camera(yaw=0.3, pitch=0.07)
  behind = make_primitives([prim.BOX], [prim.SOLID], [[0, -50, 0]], [[1, 1, 1]], [np.eye(3)])
  depth, index = prim.cast(behind, camera)
  y = (np.arange(camera.height) - camera.center[1]) / camera.focal
  fall = y * np.cos(0.07) + np.sin(0.07)
  expected = np.where(fall > 0, 1.4 / np.where(fall > 0, fall, 1), np.inf)
  np.testing.assert_allclose(
    depth.reshape(camera.height, -1), np.repeat(expected[:, None], camera.width, 1), rtol=2e-5
  )
  np.testing.assert_array_equal(index == 1, np.isfinite(depth))
  assert np.isinf(depth).any()
  assert np.isfinite(depth).any()


@pytest.mark.parametrize("body", [prim.BOX, prim.CYLINDER, prim.ELLIPSOID])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cast_agrees_with_marching(body, seed):
  rng = np.random.default_rng(seed)
  camera = make_camera(16, 20, focal=14.0)
  center = to_world(camera, rng.uniform((-2, -2, 3), (2, 1, 7), (4, 3)))
  half = rng.uniform(0.3, 1.5, (4, 3))
  rotation = [random_rotation(rng) for _ in range(4)]
  parts = make_primitives([body] * 4, [prim.SOLID] * 4, center, half, rotation)
  depth, index = prim.cast(parts, camera)

  step = 0.004
  t = np.arange(camera_lib.NEAR, 12.0, step)
  rays = camera.rays().astype(float)
  points = to_world(camera, rays.T[:, None] * t[:, None])  # [pixel, t, 3]
  expected = np.full(rays.shape[1], np.inf)
  owner = np.full(rays.shape[1], -1)
  for k in [4, 0, 1, 2, 3]:
    if k == 4:
      inside = points[..., 2] <= 0
    else:
      local = np.abs((points - center[k]) @ rotation[k] / half[k])
      inside = {
        prim.BOX: lambda q: (q <= 1).all(-1),
        prim.CYLINDER: lambda q: (q[..., 2] <= 1) & ((q[..., :2] ** 2).sum(-1) <= 1),
        prim.ELLIPSOID: lambda q: (q**2).sum(-1) <= 1,
      }[body](local)
      inside &= ~inside[:, :1]  # a camera inside a body does not see it
    first = np.where(inside.any(1), t[inside.argmax(1)], np.inf)
    owner = np.where(first < expected, k, owner)
    expected = np.minimum(first, expected)
  seen = depth < t[-1] - 2 * step
  # Marching may step over a grazed corner, and two bodies may tie within a step.
  same = np.abs(np.where(seen, depth, 0) - np.where(seen, expected, 0)) <= 1.01 * step
  assert same.mean() > 0.99
  assert np.array_equal(seen[same], (expected < t[-1] - step)[same])
  assert (index == owner)[same & seen].mean() > 0.99
  assert len(set(index[seen])) >= 3


def test_bodies_across_the_near_plane_keep_their_visible_part():
  camera = make_camera(yaw=0.0, pitch=0.0, position=(0, 0, 1.5))
  wall = make_primitives([prim.BOX], [prim.SOLID], [[2.0, 0, 1.5]], [[0.5, 40, 1.5]], [np.eye(3)])
  depth, index = prim.cast(wall, camera)
  x = ((np.arange(camera.width) - camera.center[0]) / camera.focal)[None]
  depth, index = depth.reshape(camera.height, -1), index.reshape(camera.height, -1)
  row = camera.height // 2 - 1
  hit = index[row] == 0
  np.testing.assert_array_equal(hit, 1.5 / np.maximum(x[0], 1e-9) < 40)
  np.testing.assert_allclose(depth[row][hit], 1.5 / x[0][hit], rtol=1e-5)


def test_thin_distant_pole_is_exact_in_single_precision():
  camera = make_camera(9, 1201, yaw=0.0, pitch=0.0, position=(0, 0, 1.5), focal=6000.0)
  pole = make_primitives(
    [prim.CYLINDER], [prim.SOLID], [[0.8, 90, 2]], [[0.06, 0.06, 2]], [np.eye(3)]
  )
  depth, index = prim.cast(pole, camera)
  x = (np.arange(1201) - camera.center[0]) / camera.focal
  a, b, c = x**2 + 1, -(0.8 * x + 90), 0.8**2 + 90**2 - 0.06**2
  root = b * b - a * c
  expected = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
  row = slice(4 * 1201, 5 * 1201)
  hit = index[row] == 0
  assert abs(int(hit.sum()) - int((root > 0).sum())) <= 1
  both = hit & (root > 0)
  assert both.sum() > 5
  np.testing.assert_allclose(depth[row][both], expected[both], atol=1e-3)


@pytest.mark.parametrize(
  ("cutout", "half", "share"),
  [
    (prim.DISC, (1, 0.01, 1), np.pi / 4),
    (prim.TRIANGLE, (1, 0.01, 1), 0.5),
    (prim.RING, (0.01, 1, 1), np.pi / 4 * (1 - prim.RING_INNER**2)),
    (prim.SLATS, (2.2, 0.01, 1), None),
  ],
)
def test_cutouts_open_the_stated_share(cutout, half, share):
  turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]) if cutout == prim.RING else np.eye(3)
  camera = make_camera(200, 400, yaw=0.0, pitch=0.0, position=(0, 0, 50), focal=400.0)
  solid, cut = (
    (
      prim.cast(make_primitives([prim.BOX], [c], [[0, 8, 50]], [half], [turn]), camera)[1] == 0
    ).sum()
    for c in (prim.SOLID, cutout)
  )
  if share is None:
    rails = 4 * prim.RAIL_HEIGHT / 2
    share = prim.SLAT_WIDTH + rails * (1 - prim.SLAT_WIDTH)
  assert cut / solid == pytest.approx(share, abs=0.02)


def test_cutouts_show_what_is_behind():
  camera = make_camera(yaw=0.0, pitch=0.0, position=(0, 0, 50))
  parts = make_primitives(
    [prim.BOX] * 2, [prim.RING, prim.SOLID], [[0, 5, 50], [0, 9, 50]],
    [[0.05, 2, 2], [5, 0.1, 5]], [[[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.eye(3)],
  )  # fmt: skip
  depth, index = prim.cast(parts, camera)
  middle = camera.height // 2 * camera.width + camera.width // 2
  assert index[middle] == 1
  assert depth[middle] == pytest.approx(8.9, rel=1e-5)
  assert (index == 0).any()


def test_chunks_do_not_change_the_result(monkeypatch):
  rng = np.random.default_rng(5)
  camera = make_camera()
  parts = make_primitives(
    rng.integers(0, 3, 30), rng.integers(0, 6, 30), rng.uniform((-4, 3, 0), (4, 20, 3), (30, 3)),
    rng.uniform(0.2, 1.5, (30, 3)), [random_rotation(rng) for _ in range(30)],
  )  # fmt: skip
  whole = prim.cast(parts, camera)
  monkeypatch.setattr(prim, "PAIRS_AT_ONCE", 50)
  chunked = prim.cast(parts, camera)
  np.testing.assert_array_equal(whole[0], chunked[0])
  np.testing.assert_array_equal(whole[1], chunked[1])
