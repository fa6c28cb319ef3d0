"""Streets and frames: determinism, classes, and agreement between views."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from corda_jax import labels
from corda_jax.errors import UserError
from data_pipelines.street_world import domains, primitives, render, textures
from data_pipelines.street_world import gap as gap_lib
from data_pipelines.street_world import scene as scene_lib
from tests.data_pipelines.street_world.points import to_world

HEIGHT, WIDTH = 64, 128
DOMAINS = (domains.SYNTHETIC, domains.REAL)
MOVES = [(0, True), (1, False), (-2, True)]  # frames, right view


def view(domain, entropy, *, height=HEIGHT, width=WIDTH, **options):
  scene = scene_lib.make_scene(domain, entropy)
  return scene, render.render(scene, height=height, width=width, **options)


def plain(domain):
  """The domain without what does not belong to points: noise, blur, vignetting, hood."""
  return dataclasses.replace(domain, noise=0.0, blur=0.0, vignetting=0.0, hood_height=0.0)


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.name)
def test_same_entropy_same_bytes_in_any_order(domain):
  first = [view(domain, (0, 1, k))[1] for k in (0, 1)]
  second = [view(domain, (0, 1, k))[1] for k in (1, 0)][::-1]
  for a, b in zip(first, second, strict=True):
    for name in ("image", "label", "depth", "instance"):
      assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
  assert (first[0].label != first[1].label).mean() > 0.05


def test_noise_differs_between_views_and_nothing_else_has_it():
  quiet = dataclasses.replace(domains.REAL, noise=0.0)
  noises = []
  for options in ({}, {"right": True}, {"step": 1}):
    _, noisy = view(domains.REAL, (0, 1, 2), **options)
    _, clean = view(quiet, (0, 1, 2), **options)
    noises.append(noisy.image.astype(float) - clean.image)
    assert noises[-1].std() == pytest.approx(255 * domains.REAL.noise, rel=0.1)
    np.testing.assert_array_equal(noisy.label, clean.label)
  for k in (1, 2):
    assert abs(np.corrcoef(noises[0].ravel(), noises[k].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.name)
def test_every_class_occurs(domain):
  seen = np.zeros(256)
  pixels = np.zeros(256)
  frames = 60
  for k in range(frames):
    _, frame = view(domain, (3, 0, k), height=48, width=96)
    counts = np.bincount(frame.label.ravel(), minlength=256)
    seen += counts >= 8
    pixels += counts
  rare = {labels.NAMES[i]: seen[i] for i in range(19) if seen[i] < 0.08 * frames}
  assert not rare
  assert (pixels[19:255] == 0).all()
  assert (pixels[labels.IGNORE] > 0) == (domain.hood_height > 0)
  order = [labels.NAMES[i] for i in np.argsort(-pixels[:19])]
  assert {"road", "building", "vegetation"} <= set(order[:4])


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.name)
def test_sky_and_hood_have_no_depth_and_nothing_else(domain):
  for k in range(3):
    _, frame = view(domain, (4, k))
    sky = frame.label == labels.NAMES.index("sky")
    hood = frame.label == labels.IGNORE
    np.testing.assert_array_equal(np.isinf(frame.depth), sky | hood)
    assert not frame.instance[sky | hood].any()
    assert frame.depth.min() > 0.3
    assert not hood[: HEIGHT // 2].any()


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.name)
@pytest.mark.parametrize(("step", "right"), MOVES)
def test_views_agree(domain, step, right):
  """Points of one view, moved with their things, are seen where the other camera sees them."""
  agreed, compared, shift = 0, 0, []
  for k in range(3):
    scene, here = view(plain(domain), (5, k))
    _, there = view(plain(domain), (5, k), step=step, right=right)
    known = np.isfinite(here.depth).ravel()
    points = to_world(here.camera, (here.camera.rays() * np.where(known, here.depth.ravel(), 1)).T)
    speed = np.zeros((int(scene.instance.max()) + 1, 3))
    speed[scene.instance[:-1]] = scene.velocity
    pixels, depth = there.camera.project(
      points + step / scene_lib.FRAME_RATE * speed[here.instance.ravel()]
    )
    column, row = np.rint(pixels).astype(int).T
    inside = known & (column >= 1) & (row >= 1) & (column < WIDTH - 1) & (row < HEIGHT - 1)
    # At edges the nearest ray may meet another thing; within 3 x 3 equal ones it may not.
    calm = ndimage.maximum_filter(there.instance, 3) == ndimage.minimum_filter(there.instance, 3)
    near, far = ndimage.minimum_filter(there.depth, 3), ndimage.maximum_filter(there.depth, 3)
    at = np.flatnonzero(inside)
    place = row[at], column[at]
    visible = depth[at] <= far[place] * 1.001
    use = at[calm[place] & visible]
    place = row[use], column[use]
    same = here.label.ravel()[use] == there.label[place]
    same &= here.instance.ravel()[use] == there.instance[place]
    same &= depth[use] >= near[place] * 0.999
    agreed, compared = agreed + same.sum(), compared + len(use)
    rows, columns = np.divmod(use, WIDTH)
    shift.append(np.hypot(pixels[use, 0] - columns, pixels[use, 1] - rows))
  assert compared > 0.4 * 3 * HEIGHT * WIDTH
  assert agreed / compared > 0.995
  assert np.concatenate(shift).max() > 2  # else nothing was tested


@pytest.mark.parametrize(("step", "right"), MOVES)
def test_views_agree_in_colour(step, right):
  """Textures belong to points: a road point has one colour in all views, up to sampling."""
  for k in range(3):
    domain = dataclasses.replace(
      plain(domains.REAL), texture_contrast=2.0, shadow=0.0, haze_density=(0.0, 0.0)
    )
    _, here = view(domain, (6, k), height=128, width=256)
    _, there = view(domain, (6, k), height=128, width=256, step=step, right=right)
    road = (here.label == 0).ravel() & (here.depth.ravel() < 12)
    points = to_world(here.camera, (here.camera.rays()[:, road] * here.depth.ravel()[road]).T)
    pixels, _ = there.camera.project(points)
    moved = np.stack(
      [
        ndimage.map_coordinates(
          there.image[..., c].astype(float), pixels.T[::-1], order=1, cval=np.nan
        )
        for c in range(3)
      ],
      -1,
    )
    inside = ndimage.map_coordinates((there.label == 0) * 1.0, pixels.T[::-1], order=1) == 1
    inside &= np.isfinite(moved).all(-1)
    colors = here.image.reshape(-1, 3)[road]
    assert inside.sum() > 300
    error = np.abs(colors - moved)[inside].mean()
    shuffled = np.abs(colors[inside] - np.roll(moved[inside], 37, 0)).mean()
    assert error < 0.35 * shuffled
    assert np.median(np.abs(colors - moved)[inside]) <= 2


def test_shadows_move_with_their_things():
  scene = scene_lib.make_scene(domains.SYNTHETIC, (7, 0))
  moving = np.abs(scene.shadows[:, 6:]).sum(1) > 0
  assert moving.any()
  feet = scene.shadows[moving]
  for x, y, _, _, _, _, vx, vy in feet:
    distance = np.hypot(*(scene.parts.center[:, :2] - (x, y)).T)
    near = distance < 1.2
    assert (scene.velocity[near, :2] == (vx, vy)).all(1).any()


def test_layout_does_not_depend_on_the_look():
  real = domains.REAL
  same = ("focal", "principal_point", "camera_height", "camera_pitch", "hood_height", "objects")
  other = dataclasses.replace(
    domains.SYNTHETIC, **{name: getattr(real, name) for name in (*same, "frontage", "verge")}
  )
  for k in range(3):
    _, a = view(real, (8, k))
    _, b = view(other, (8, k))
    np.testing.assert_array_equal(a.label, b.label)
    np.testing.assert_array_equal(a.depth, b.depth)
    assert np.abs(a.image.astype(float) - b.image).mean() > 10


LAYOUT = ("focal", "principal_point", "camera_height", "camera_pitch", "hood_height", "objects",
          "frontage", "verge", "name")  # fmt: skip


def test_the_gap_between_the_looks_can_be_set():
  start, end = DOMAINS
  assert gap_lib.real_city(1.0) is end
  alike = gap_lib.real_city(0.0)
  for name, value in dataclasses.asdict(alike).items():
    _assert_close(value, dataclasses.asdict(end if name in LAYOUT else start)[name])
  middle, far = gap_lib.real_city(0.5), gap_lib.real_city(1.5)
  assert middle.blur == pytest.approx((start.blur + end.blur) / 2)
  red = [domain.palette["car"][0][0] for domain in (start, end, far)]
  assert red[2] == pytest.approx(1.5 * red[1] - 0.5 * red[0])
  assert far.clouds == pytest.approx(1.5 * 0.6 - 0.5 * 0.15)
  farthest = gap_lib.real_city(gap_lib.MAX_GAP)
  assert (farthest.clouds, farthest.texture_size) == (1.0, 0.2)  # not 1.05, not 0
  assert farthest.exposure[0] < 0
  colors = [c for colors in farthest.palette.values() for color in colors for c in color]
  assert min(colors) == 0.02
  assert max(colors) <= 0.98
  for gap in (-0.1, 2.1, math.nan):
    with pytest.raises(UserError, match=rf"data\.street_world\.gap.*{gap}.*0.*2"):
      gap_lib.real_city(gap)


def test_a_larger_gap_moves_the_colours_and_nothing_else():
  frames = [view(gap_lib.real_city(gap), (8, 0), height=24, width=48)[1] for gap in (0, 1, 1.5, 2)]
  for frame in frames[1:]:
    np.testing.assert_array_equal(frame.label, frames[0].label)
    np.testing.assert_array_equal(frame.depth, frames[0].depth)
  moved = [np.abs(frame.image.astype(float) - frames[0].image).mean() for frame in frames]
  assert sorted(moved) == moved
  assert moved[3] > 1.3 * moved[1] > 10


def _assert_close(a, b):
  if isinstance(a, dict):
    assert a.keys() == b.keys()
    for key in a:
      _assert_close(a[key], b[key])
  elif isinstance(a, str):
    assert a == b
  else:
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def normal_of(body, unit, half):
  """Outward unit normals [P, 3] at points of a body's surface over its half sizes."""
  if body == primitives.BOX:
    along = np.abs(unit) == np.abs(unit).max(1, keepdims=True)
    normal = np.sign(unit) * along
  else:
    normal = unit / half
    if body == primitives.CYLINDER:
      cap = np.abs(unit[:, 2]) > 0.999
      normal = np.where(cap[:, None], [0, 0, 1] * np.sign(unit), normal * [1, 1, 0])
  return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def test_bodies_are_lit_as_they_face_the_sun():
  """A box, two cylinders (a side, a cap) and an ellipsoid, in the light of the sun alone."""
  white, none = (1.0, 1.0, 1.0), (0.0, 0.0)
  domain = dataclasses.replace(
    plain(domains.SYNTHETIC),
    gamma=1.0,
    contrast=1.0,
    saturation=1.0,
    exposure=none,
    haze_density=none,
    white_balance=white,
    white_balance_spread=0.0,
    sun_color=white,
    sun_strength=(1.0, 1.0),
    sun_elevation=(0.4, 0.4),
  )
  # Of a street of which the sun stands behind the camera.
  entropy = next((9, k) for k in range(99) if render.draw_light(domain, (9, k)).sun[1] < -0.8)
  tube = primitives.CYLINDER
  bodies = np.array([primitives.BOX, tube, tube, primitives.ELLIPSOID])
  turns = [[0.3, 0.2, 0.6], [0.2, 0.3, 0.1], [1.2, 0.3, 0.2], [0.4, -0.5, 0.7]]
  parts = primitives.Primitives(
    body=bodies,
    cutout=np.full(4, primitives.SOLID),
    center=np.array([[x, 9.0, 3.0] for x in (-3.3, -1.1, 1.1, 3.3)]),
    half=np.array([[0.5, 0.7, 0.9], [0.6, 0.8, 0.9], [0.8, 0.9, 0.4], [0.9, 0.6, 0.8]]),
    rotation=Rotation.from_rotvec(turns).as_matrix(),
  )
  scene = dataclasses.replace(
    scene_lib.make_scene(domain, entropy),
    parts=parts,
    velocity=np.zeros((4, 3)),
    label=np.zeros(5, np.uint8),
    instance=np.array([1, 2, 3, 4, 0], np.uint16),
    color=np.full((5, 2, 3), 0.5, np.float32),
    glow=np.zeros(5, np.float32),
    pattern=np.array([textures.PLAIN] * 4 + [textures.ROAD]),
    grain=np.array([[1.0, 0.0]] * 5, np.float32),
    shadows=np.zeros((0, 8)),
    ego=(0.0, 0.0, 0.0, 0.0, 3.0, 0.0),
  )
  frame = render.render(scene, height=HEIGHT, width=WIDTH)
  sun = render.draw_light(domain, entropy).sun
  flat = frame.instance.ravel()
  points = to_world(frame.camera, (frame.camera.rays() * np.where(flat, frame.depth.ravel(), 1)).T)
  facing, shown = [], []
  for k, body in enumerate(bodies):
    seen = flat == k + 1
    assert seen.sum() > 100
    unit = (points[seen] - parts.center[k]) @ parts.rotation[k] / parts.half[k]
    normal = normal_of(body, unit, parts.half[k]) @ parts.rotation[k].T
    facing.append(np.maximum(normal @ sun, 0))
    shown.append(frame.image.reshape(-1, 3)[seen, 0].astype(float))
    assert np.ptp(facing[-1]) > 0.2
  light, level = np.concatenate(facing), np.concatenate(shown)
  strength = (light * level).sum() / (light**2).sum()
  for one, light in zip(shown, facing, strict=True):
    error = np.abs(one - strength * light)
    assert (error < 3).mean() > 0.98  # but for edges, which belong to both sides


def test_ego_vehicle_drives_where_it_looks():
  scene = scene_lib.make_scene(domains.REAL, (0, 0, 0))
  _, heading, speed, yaw_rate, up, pitch = scene.ego
  assert min(speed, abs(yaw_rate)) > 0.01
  step = 1e-4
  for time in (-0.5, 0.0, 0.7):
    before, here, after = (scene.camera(16, 32, time=time + k * step) for k in (-1, 0, 1))
    yaw = heading + yaw_rate * time
    ahead = np.array([np.sin(yaw), np.cos(yaw), 0])
    np.testing.assert_allclose(
      here.rotation[:, 2], ahead * np.cos(pitch) - [0, 0, np.sin(pitch)], atol=1e-12
    )
    velocity = (after.position - before.position) / (2 * step)
    np.testing.assert_allclose(velocity, speed * ahead, atol=2e-3 * speed)
    assert here.position[2] == up


def test_value_noise_is_smooth_bounded_and_hits_the_lattice():
  rng = np.random.default_rng(0)
  x, y, z = rng.uniform(-100, 100, (3, 5000)).astype(np.float32)
  noise = textures.value_noise(x, y, z)
  assert np.abs(noise).max() <= 1
  assert noise.std() > 0.2
  assert np.abs(textures.value_noise(x + 0.01, y, z) - noise).max() < 0.04
  whole = np.floor(np.stack([x, y, z]))
  period = textures.value_noise(*(whole + 32))
  np.testing.assert_allclose(period, textures.value_noise(*whole), atol=1e-5)


def test_odd_sizes_keep_their_shape():
  _, frame = view(domains.REAL, (9, 0), height=37, width=61)
  assert frame.image.shape == (37, 61, 3)
  assert frame.label.shape == frame.depth.shape == frame.instance.shape == (37, 61)
  types = (frame.image.dtype, frame.label.dtype, frame.depth.dtype, frame.instance.dtype)
  assert types == (np.uint8, np.uint8, np.float32, np.uint16)
