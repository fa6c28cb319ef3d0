"""Ray casting against boxes, cylinders and ellipsoids, batched over (primitive, pixel) pairs.

Every primitive is the image of a canonical body inside the cube [-1, 1]^3 under a rotation, a
scaling by its half sizes and a shift. A ray whose camera-axes direction has third component 1 keeps
its parameter under that map, so the parameter of the first hit is the z-depth in metres.
"""

import dataclasses

import numpy as np

from data_pipelines.street_world import camera as camera_lib

BOX, CYLINDER, ELLIPSOID = range(3)  # bodies; a cylinder's axis is its local z

# Cut-outs: parts of a body's surface that are open, by the local coordinates of the first hit.
SOLID, SLATS, RING, DISC, TRIANGLE, LEAVES = range(6)

SLAT_PERIOD = 0.55  # metres between the left edges of two slats of a fence
SLAT_WIDTH = 0.66  # share of a period that is wood
RAIL_HEIGHT = 0.12  # share of a fence's height taken by each of its two rails
RING_INNER = 0.48  # inner radius of a wheel's ring, of its outer radius
LEAF_SIZE = 0.45  # metres between holes of a crown
LEAF_FILL = 0.72  # share of a crown's surface that is closed
PAIRS_AT_ONCE = 1 << 16  # bounds the memory of a step; large enough to hide NumPy's overhead

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_EDGES = np.array(
  [(a, b) for a in range(8) for b in range(a) if np.abs(_CORNERS[a] - _CORNERS[b]).sum() == 2]
)


@dataclasses.dataclass(frozen=True)
class Primitives:
  """N bodies in the world.

  Attributes:
    body: int[N], `BOX`, `CYLINDER` or `ELLIPSOID`.
    cutout: int[N], `SOLID` and so on.
    center: float64[N, 3], metres.
    half: float64[N, 3], half sizes along the body's own axes, metres.
    rotation: float64[N, 3, 3], body to world.
  """

  body: np.ndarray
  cutout: np.ndarray
  center: np.ndarray
  half: np.ndarray
  rotation: np.ndarray


def cast(primitives: Primitives, camera: camera_lib.Camera) -> tuple[np.ndarray, np.ndarray]:
  """First hit of the ray through every pixel's centre.

  Returns:
    float32[H * W] z-depth in metres, infinite where nothing is hit, and int32[H * W] index of the
    primitive; N stands for the ground plane z = 0, -1 for nothing.
  """
  rays = camera.rays()
  count = len(primitives.body)
  depth, index = _ground(rays, camera, count)
  to_body = primitives.rotation.transpose(0, 2, 1) / primitives.half[:, :, None]
  offset = camera.position - primitives.center
  origins = np.einsum("nij,nj->ni", to_body, offset).astype(np.float32)
  directions = (to_body @ camera.rotation).reshape(-1, 9).astype(np.float32)
  rectangles = bounding_rectangles(primitives, camera)
  areas = (rectangles[:, 1] - rectangles[:, 0]) * (rectangles[:, 3] - rectangles[:, 2])
  for body in (BOX, CYLINDER, ELLIPSOID):
    chosen = np.flatnonzero((primitives.body == body) & (areas > 0))
    if not chosen.size:
      continue
    steps = np.cumsum(areas[chosen]) // PAIRS_AT_ONCE
    for chunk in np.split(chosen, np.flatnonzero(np.diff(steps)) + 1):
      pixel, owner = _pairs(rectangles[chunk], areas[chunk], camera.width)
      owner = chunk[owner]
      x, y = rays[0, pixel], rays[1, pixel]
      m = directions[owner].T
      o = origins[owner].T
      d = np.stack(
        [m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5], m[6] * x + m[7] * y + m[8]]
      )
      t = _enter(body, o, d)
      seen = t < depth[pixel]
      open_ = np.flatnonzero(seen & (primitives.cutout[owner] != SOLID))
      if open_.size:
        local = o[:, open_] + t[open_] * d[:, open_]
        seen[open_] = _closed(
          primitives.cutout[owner[open_]], local, primitives.half[owner[open_]].T
        )
      pixel, owner, t = pixel[seen], owner[seen], t[seen]
      np.minimum.at(depth, pixel, t)
      first = t == depth[pixel]
      index[pixel[first]] = owner[first]
  return depth, index


def bounding_rectangles(primitives: Primitives, camera: camera_lib.Camera) -> np.ndarray:
  """int[N, 4] pixel rectangles (first column, end, first row, end) that hold the bodies' images.

  A body behind the camera has an empty rectangle. Edges that cross the near plane are cut there.
  """
  corners = _CORNERS[None] * primitives.half[:, None, :]
  corners = corners @ primitives.rotation.transpose(0, 2, 1) + primitives.center[:, None]
  corners = camera.to_camera(corners)
  a, b = corners[:, _EDGES[:, 0]], corners[:, _EDGES[:, 1]]
  crosses = (a[..., 2] < camera_lib.NEAR) != (b[..., 2] < camera_lib.NEAR)
  span = np.where(crosses, b[..., 2] - a[..., 2], 1.0)
  cut = a + (b - a) * ((camera_lib.NEAR - a[..., 2]) / span)[..., None]
  points = np.concatenate([corners, cut], axis=1)
  valid = np.concatenate([corners[..., 2] >= camera_lib.NEAR, crosses], axis=1)
  z = np.where(valid, points[..., 2], 1.0)
  u = points[..., 0] / z * camera.focal + camera.center[0]
  v = points[..., 1] / z * camera.focal + camera.center[1]
  big = 4.0 * (camera.width + camera.height)

  def span_of(values, size):
    low = np.where(valid, values, big).min(axis=1)
    high = np.where(valid, values, -big).max(axis=1)
    return np.clip(np.floor(low), 0, size), np.clip(np.ceil(high) + 1, 0, size)

  left, right = span_of(u, camera.width)
  top, bottom = span_of(v, camera.height)
  rectangles = np.stack([left, right, top, bottom], axis=1).astype(np.int64)
  rectangles[(left >= right) | (top >= bottom)] = 0
  return rectangles


def _ground(rays, camera, count):
  down = camera.rotation[2].astype(np.float32)
  fall = -(down[0] * rays[0] + down[1] * rays[1] + down[2])
  with np.errstate(divide="ignore"):
    depth = np.where(fall > 0, np.float32(camera.position[2]) / fall, np.inf).astype(np.float32)
  return depth, np.where(np.isfinite(depth), count, -1).astype(np.int32)


def _pairs(rectangles, areas, width):
  owner = np.repeat(np.arange(len(areas)), areas)
  place = np.arange(owner.size) - np.repeat(np.cumsum(areas) - areas, areas)
  columns = (rectangles[:, 1] - rectangles[:, 0])[owner]
  row = place // columns
  first = (rectangles[:, 2] * width + rectangles[:, 0])[owner]
  return first + row * width + (place - row * columns), owner


def _enter(body, o, d):
  """float32[P]: where the rays o + t d enter the canonical body; infinite where they miss it."""
  with np.errstate(divide="ignore", invalid="ignore"):
    if body == ELLIPSOID:
      near, far = _round(o, d, (0, 1, 2))
    elif body == CYLINDER:
      near, far = _round(o, d, (0, 1))
      low, high = _slab(o[2], d[2])
      near, far = np.maximum(near, low), np.minimum(far, high)
    else:
      near, far = _slab(o[0], d[0])
      for axis in (1, 2):
        low, high = _slab(o[axis], d[axis])
        near, far = np.maximum(near, low), np.minimum(far, high)
    return np.where((near <= far) & (near > camera_lib.NEAR), near, np.float32(np.inf))


def _slab(o, d):
  inverse = 1 / d
  a, b = (-1 - o) * inverse, (1 - o) * inverse
  return np.minimum(a, b), np.maximum(a, b)


def _round(o, d, axes):
  # From the point closest to the axis: b² - ac would cancel in float32 for thin, distant poles.
  square = sum(d[k] * d[k] for k in axes)
  middle = -sum(o[k] * d[k] for k in axes) / square
  rest = 1 - sum((o[k] + middle * d[k]) ** 2 for k in axes)
  reach = np.sqrt(rest / square)
  return middle - reach, middle + reach


def _closed(cutout, local, half):
  """bool[P]: whether the surface is closed at canonical coordinates `local` [3, P]."""
  x, y, z = local
  metres = local * half
  along = np.where(half[0] > half[1], metres[0], metres[1])
  slats = (np.mod(along, SLAT_PERIOD) < SLAT_WIDTH * SLAT_PERIOD) | (
    np.abs(np.abs(z) - 0.75) < RAIL_HEIGHT
  )
  wheel = y * y + z * z
  plate = x * x + z * z
  triangle = np.abs(x) < (1 - z) / 2
  cells = np.floor(metres / LEAF_SIZE).astype(np.int64)
  mixed = (cells[0] * 73856093) ^ (cells[1] * 19349663) ^ (cells[2] * 83492791)
  leaves = ((mixed * 2654435761 >> 7) & 1023) < LEAF_FILL * 1024
  return np.select(
    [cutout == SLATS, cutout == RING, cutout == DISC, cutout == TRIANGLE, cutout == LEAVES],
    [slats, (wheel <= 1) & (wheel >= RING_INNER**2), plate <= 1, triangle, leaves],
    True,
  )
