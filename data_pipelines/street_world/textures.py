"""Procedural textures: functions of position alone, so that every view of a point agrees."""

import numpy as np

# Patterns: which of a part's two colours shows where.
PLAIN, ROAD, PAVING, FACADE, BRICK, PLANKS, CABIN, COACH, SIGN, FOLIAGE, GRASS = range(11)

# Texture of each material: size of its coarser grain in metres, and contrast of its brightness.
GRAIN = {
  "asphalt": (0.9, 0.16),
  "paint": (0.5, 0.12),
  "paving": (0.6, 0.12),
  "facade": (1.8, 0.14),
  "wall": (0.7, 0.2),
  "fence": (0.5, 0.16),
  "leaf": (0.6, 0.4),
  "grass": (0.5, 0.3),
  "soil": (0.7, 0.25),
  "bark": (0.3, 0.3),
  "shirt": (0.3, 0.12),
  "trousers": (0.3, 0.12),
  "cargo": (1.5, 0.1),
}
DEFAULT_GRAIN = (1.0, 0.04)

_SIDE = 32  # side of the periodic lattice of random values
_LATTICE = np.random.default_rng(20200613).random(_SIDE**3, dtype=np.float32) * 2 - 1


def value_noise(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
  """Smooth noise in -1..1 with one random value a unit cube; float32[P] from float32[P] each."""
  index, weight = [], []
  for coordinate, stride in ((x, 1), (y, _SIDE), (z, _SIDE * _SIDE)):
    cell = np.floor(coordinate)
    share = coordinate - cell
    weight.append(share * share * (3 - 2 * share))
    low = cell.astype(np.int32) & (_SIDE - 1)
    index.append((low * stride, ((low + 1) & (_SIDE - 1)) * stride))
  total = 0.0
  for corner in range(8):
    a, b, c = corner & 1, corner >> 1 & 1, corner >> 2
    value = _LATTICE[index[0][a] + index[1][b] + index[2][c]]
    share = weight[0] if a else 1 - weight[0]
    share = share * (weight[1] if b else 1 - weight[1])
    total = total + value * share * (weight[2] if c else 1 - weight[2])
  return total


def band(value: np.ndarray, period: float, share: float) -> np.ndarray:
  """bool: the first `share` of each period."""
  return np.mod(value, period) < share * period


def second_colour(pattern: int, local: np.ndarray, half: np.ndarray, normal: np.ndarray):
  """bool[P]: where the part shows its second colour.

  Args:
    pattern: one of the patterns above, except `ROAD`, `FOLIAGE` and `GRASS`.
    local: float32[3, P], points in the part's axes, metres.
    half: float32[3, P], half sizes of the part, metres.
    normal: float32[3, P], unit normals in the part's axes.
  """
  upright = np.abs(normal[2]) < 0.5
  side = np.abs(normal[0]) > 0.5
  along = np.where(side, local[1], local[0])
  reach = np.where(side, half[1], half[0])
  height = local[2] + half[2]
  if pattern == PAVING:
    return band(local[0], 0.9, 0.07) | band(local[1], 0.9, 0.07)
  if pattern == FACADE:
    window = band(along + 0.65, 2.4, 0.52) & band(height - 1.0, 3.1, 0.5)
    return upright & window & (height > 1.0) & (np.abs(along) < reach - 0.5)
  if pattern == BRICK:
    return band(height, 0.36, 0.16) | band(along, 1.1, 0.07)
  if pattern == PLANKS:
    return upright & (band(along, 0.8, 0.1) | (height < 0.18))
  if pattern == CABIN:
    return (
      upright
      & (np.abs(along) < reach * 0.88)
      & (height > 0.42 * half[2])
      & (height < 1.8 * half[2])
    )
  if pattern == COACH:
    pane = np.where(side, np.mod(along, 1.5) > 0.14, True)
    return (
      upright
      & pane
      & (np.abs(along) < reach - 0.12)
      & (height > 0.95 * half[2])
      & (height < 1.65 * half[2])
    )
  if pattern == SIGN:
    x, z = local[0] / half[0], local[2] / half[2]
    return (x * x + z * z > 0.5) & (x * x + z * z <= 1.0)
  return np.zeros(local.shape[1:], bool)


def lane_marking(
  x: np.ndarray, y: np.ndarray, *, half_width: float, crossing: float, crossing_half: float
) -> np.ndarray:
  """bool[P]: painted points of the road at world (x, y): centre dashes, edge lines, zebra.

  Args:
    x: metres from the middle of the road.
    y: metres along the road.
    half_width: half width of the road.
    crossing: y of the middle of the crossing street; infinite for none.
    crossing_half: its half width.
  """
  beyond = np.abs(y - crossing) - crossing_half
  dashes = (np.abs(x) < 0.09) & band(y, 6.0, 0.5)
  edges = np.abs(np.abs(x) - half_width + 0.35) < 0.07
  zebra = (beyond > 1.0) & (beyond < 3.5) & band(x, 1.1, 0.5) & (np.abs(x) < half_width - 0.4)
  return ((dashes | edges) & (beyond > 4.0)) | zebra
