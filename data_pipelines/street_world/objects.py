"""Things of the street, as lists of parts in their own axes: x right, y ahead, z up, metres."""

import numpy as np

from data_pipelines.street_world import primitives as prim
from data_pipelines.street_world import textures as tex
from data_pipelines.street_world.parts import Part


def _wheels(label, width, stations, radius):
  return [
    Part(label, "tyre", (side * width, y, radius), (0.14, radius, radius), prim.ELLIPSOID)
    for y in stations
    for side in (-1, 1)
  ]


def _bar(label, material, start, end, *, x=0.0, thick=0.03):
  """A bar in the plane x = const from (y0, z0) to (y1, z1)."""
  (y0, z0), (y1, z1) = start, end
  length = float(np.hypot(y1 - y0, z1 - z0))
  tilt = float(np.arctan2(z1 - z0, y1 - y0))
  center = (x, (y0 + y1) / 2, (z0 + z1) / 2)
  return Part(label, material, center, (thick, length / 2, thick), tilt=tilt)


def car(rng: np.random.Generator) -> list[Part]:
  """A saloon, an estate or a van."""
  kind = rng.integers(3)
  long, high, back = ((2.2, 1.45, -1.0), (2.2, 1.5, -1.9), (2.3, 1.9, -2.1))[kind]
  front = (0.8, 0.8, 1.5)[kind]
  belt = 0.9 if kind < 2 else 1.1
  middle, reach = (front + back) / 2, (front - back) / 2
  roof = (high - belt) / 2
  parts = [
    Part("car", "car", (0, 0, (0.25 + belt) / 2), (0.9, long, (belt - 0.25) / 2)),
    Part(
      "car", "car", (0, middle, belt + roof), (0.78, reach, roof), pattern=tex.CABIN, second="glass"
    ),
    Part("car", "car", (0, middle, high), (0.7, reach * 0.92, 0.07), prim.ELLIPSOID),
  ]
  for side in (-0.68, 0.68):
    parts.append(Part("car", "tail lamp", (side, -long, 0.7), (0.16, 0.04, 0.1), glow=0.15))
    parts.append(Part("car", "head lamp", (side, long, 0.65), (0.18, 0.04, 0.1), glow=0.3))
  parts.append(Part("car", "plate", (0, -long, 0.5), (0.26, 0.02, 0.07)))
  return parts + _wheels("car", 0.8, (-1.35, 1.35), 0.34)


def truck(rng: np.random.Generator) -> list[Part]:
  """A cab before a cargo box."""
  long = rng.uniform(2.2, 3.4)
  high = rng.uniform(1.2, 1.45)
  front = long + 1.1
  return [
    Part("truck", "truck", (0, front, 1.35), (1.15, 1.0, 0.95), pattern=tex.CABIN, second="glass"),
    Part("truck", "cargo", (0, 0, 0.95 + high), (1.25, long, high), pattern=tex.PLANKS),
    Part("truck", "tyre", (0, 0.4, 0.75), (0.9, long + 1.2, 0.16)),
    Part("truck", "plate", (0, -long, 0.7), (1.1, 0.05, 0.1)),
    Part("truck", "tail lamp", (-0.9, -long - 0.06, 0.8), (0.18, 0.03, 0.09), glow=0.15),
    Part("truck", "tail lamp", (0.9, -long - 0.06, 0.8), (0.18, 0.03, 0.09), glow=0.15),
    *_wheels("truck", 1.05, (-long + 0.7, -long + 1.8, front), 0.5),
  ]


def bus(rng: np.random.Generator) -> list[Part]:
  """One long body with a band of windows."""
  long = rng.uniform(4.5, 6.0)
  return [
    Part("bus", "bus", (0, 0, 1.75), (1.27, long, 1.4), pattern=tex.COACH, second="glass"),
    Part("bus", "bus", (0, 0, 3.2), (0.9, long * 0.7, 0.12)),
    Part("bus", "head lamp", (-0.95, long, 0.8), (0.18, 0.04, 0.1), glow=0.3),
    Part("bus", "head lamp", (0.95, long, 0.8), (0.18, 0.04, 0.1), glow=0.3),
    Part("bus", "tail lamp", (-1.05, -long, 0.9), (0.12, 0.04, 0.22), glow=0.15),
    Part("bus", "tail lamp", (1.05, -long, 0.9), (0.12, 0.04, 0.22), glow=0.15),
    *_wheels("bus", 1.16, (-long + 1.8, long - 1.8), 0.48),
  ]


def train(rng: np.random.Generator) -> list[Part]:
  """A tram of two long cars with a skirt to the rails and a pantograph."""
  parts = []
  long = rng.uniform(5.5, 7.0)
  for y in (-long - 0.4, long + 0.4):
    parts += [
      Part("train", "train", (0, y, 1.85), (1.2, long, 1.65), pattern=tex.COACH, second="glass"),
      Part("train", "tyre", (0, y, 0.17), (1.1, long * 0.95, 0.17)),
      Part("train", "train", (0, y, 3.6), (0.8, long * 0.8, 0.14), prim.BOX),
    ]
  parts += [
    Part("train", "tyre", (0, 0, 1.8), (1.0, 0.5, 1.5)),
    _bar("train", "pole", (-long, 3.7), (-long + 1.0, 4.4), thick=0.06),
    _bar("train", "pole", (-long, 5.1), (-long + 1.0, 4.4), thick=0.06),
    Part("train", "head lamp", (0, 2 * long + 0.4, 1.0), (0.5, 0.04, 0.12), glow=0.4),
    Part("train", "tail lamp", (0, -2 * long - 0.4, 1.0), (0.7, 0.04, 0.1), glow=0.15),
  ]
  return parts


def _human(label, *, seat=0.0, lean=0.0, spread=0.1, head="skin", arms=0.0):
  """A figure; `seat` > 0 is the height of a saddle that it sits on."""
  hips = seat if seat else 0.82
  top = hips + 0.58 * np.cos(lean)
  ahead = 0.58 * np.sin(lean)
  parts = [
    Part(
      label,
      "shirt",
      (0, ahead / 2, (hips + top) / 2 + 0.03),
      (0.23, 0.15, 0.36),
      prim.ELLIPSOID,
      tilt=-lean,
    ),
    Part(label, "skin", (0, ahead * 1.15, top + 0.17), (0.1, 0.11, 0.14), prim.ELLIPSOID),
    Part(label, head, (0, ahead * 1.15 - 0.02, top + 0.22), (0.115, 0.12, 0.11), prim.ELLIPSOID),
  ]
  for side in (-1, 1):
    if seat:
      parts.append(
        _bar(label, "trousers", (0, hips), (0.36, hips - 0.12), x=side * 0.14, thick=0.09)
      )
      parts.append(
        _bar(label, "trousers", (0.36, hips - 0.1), (0.22, 0.3), x=side * 0.14, thick=0.075)
      )
    else:
      step = side * spread
      parts.append(
        _bar(label, "trousers", (0, hips + 0.05), (step, 0.03), x=side * 0.1, thick=0.085)
      )
    hand = (ahead + 0.42, hips + 0.25) if arms else (side * -spread, hips)
    parts.append(_bar(label, "shirt", (ahead * 0.9, top - 0.06), hand, x=side * 0.26, thick=0.055))
  return parts


def person(rng: np.random.Generator) -> list[Part]:
  """A pedestrian in mid-step."""
  return _human("person", spread=rng.uniform(0.05, 0.3), head=("skin", "tyre")[rng.integers(2)])


def bicycle(rng: np.random.Generator) -> list[Part]:
  """Two ring wheels and a frame of bars."""
  del rng
  name = "bicycle"
  wheel = (0.05, 0.35, 0.35)
  return [
    Part(name, "tyre", (0, -0.52, 0.35), wheel, cutout=prim.RING),
    Part(name, "tyre", (0, 0.52, 0.35), wheel, cutout=prim.RING),
    _bar(name, name, (-0.52, 0.35), (-0.15, 0.85), thick=0.05),
    _bar(name, name, (-0.15, 0.8), (0.38, 0.82), thick=0.05),
    _bar(name, name, (-0.02, 0.32), (0.4, 0.85), thick=0.05),
    _bar(name, name, (0.38, 0.98), (0.52, 0.35), thick=0.05),
    _bar(name, name, (-0.52, 0.35), (0.0, 0.32), thick=0.05),
    Part(name, name, (0, 0.4, 1.0), (0.3, 0.05, 0.04)),
    Part(name, "tyre", (0, -0.2, 0.92), (0.1, 0.14, 0.05), prim.ELLIPSOID),
  ]


def motorcycle(rng: np.random.Generator) -> list[Part]:
  """Two solid wheels, an engine block, tank, seat and handlebar."""
  del rng
  name = "motorcycle"
  wheel = (0.1, 0.32, 0.32)
  return [
    Part(name, "tyre", (0, -0.7, 0.32), wheel, prim.ELLIPSOID),
    Part(name, "tyre", (0, 0.7, 0.32), wheel, prim.ELLIPSOID),
    Part(name, "pole", (0, 0.0, 0.42), (0.2, 0.38, 0.2)),
    Part(name, name, (0, 0.22, 0.82), (0.2, 0.36, 0.17), prim.ELLIPSOID),
    Part(name, "tyre", (0, -0.4, 0.8), (0.17, 0.42, 0.09)),
    Part(name, name, (0, -0.75, 0.78), (0.16, 0.2, 0.12), prim.ELLIPSOID),
    _bar(name, "pole", (0.45, 1.05), (0.7, 0.32), thick=0.06),
    Part(name, "tyre", (0, 0.42, 1.06), (0.4, 0.05, 0.04)),
    Part(name, name, (0, 0.58, 0.92), (0.2, 0.1, 0.2), prim.ELLIPSOID),
    Part(name, "tail lamp", (0, -0.95, 0.75), (0.09, 0.03, 0.06), glow=0.15),
  ]


def cyclist(rng: np.random.Generator) -> list[Part]:
  """A rider on a bicycle."""
  head = ("skin", "helmet")[rng.integers(2)]
  return bicycle(rng) + _human("rider", seat=0.95, lean=rng.uniform(0.2, 0.6), head=head, arms=1.0)


def motorcyclist(rng: np.random.Generator) -> list[Part]:
  """A rider on a motorcycle."""
  lean = rng.uniform(0.1, 0.45)
  return motorcycle(rng) + _human("rider", seat=0.92, lean=lean, head="helmet", arms=1.0)


def tree(rng: np.random.Generator) -> list[Part]:
  """A trunk under a crown of overlapping ellipsoids."""
  trunk = rng.uniform(1.7, 2.6)
  size = rng.uniform(1.3, 2.2)
  parts = [
    Part(
      "vegetation", "bark", (0, 0, trunk / 2 + 0.3), (0.16, 0.16, trunk / 2 + 0.3), prim.CYLINDER
    )
  ]
  for x, y, z in rng.uniform(-0.6, 0.6, (4, 3)) * size:
    half = size * rng.uniform(0.6, 0.95, 3)
    center = (float(x), float(y), float(trunk + size * 0.9 + z))
    parts.append(_leaves(center, half))
  return parts


def bush(rng: np.random.Generator) -> list[Part]:
  """A low clump of leaves."""
  half = rng.uniform((0.5, 0.5, 0.45), (1.0, 1.2, 0.9))
  return [_leaves((0.0, 0.0, float(half[2] * 0.8)), half)]


def _leaves(center, half, body=prim.ELLIPSOID):
  return Part(
    "vegetation",
    "leaf",
    center,
    tuple(half),
    body,
    pattern=tex.FOLIAGE,
    second="shade leaf",
    cutout=prim.LEAVES,
  )


def hedge(length: float, height: float) -> list[Part]:
  """A clipped hedge along y."""
  part = _leaves((0.0, 0.0, height / 2), (0.5, length / 2, height / 2), prim.BOX)
  return [part._replace(cutout=prim.SOLID)]


def lamp_post(rng: np.random.Generator) -> list[Part]:
  """A street lamp; its arm reaches towards -x."""
  high = rng.uniform(5.5, 7.5)
  return [
    Part("pole", "pole", (0, 0, high / 2), (0.1, 0.1, high / 2), prim.CYLINDER),
    Part("pole", "pole", (-0.7, 0, high), (0.8, 0.06, 0.06)),
    Part("pole", "pole", (-1.4, 0, high - 0.04), (0.35, 0.13, 0.08)),
  ]


def signal(rng: np.random.Generator) -> list[Part]:
  """A traffic light on a post, one lamp lit."""
  high = rng.uniform(2.3, 3.2)
  lit = rng.integers(3)
  parts = [
    Part("pole", "pole", (0, 0, high / 2), (0.085, 0.085, high / 2), prim.CYLINDER),
    Part("traffic light", "housing", (0, 0, high + 0.5), (0.24, 0.17, 0.56)),
  ]
  for k, color in enumerate(("red lamp", "amber lamp", "green lamp")):
    lamp = Part(
      "traffic light",
      color if k == lit else "tyre",
      (0, -0.17, high + 0.86 - 0.36 * k),
      (0.14, 0.06, 0.14),
      prim.ELLIPSOID,
      glow=1.2 if k == lit else 0.0,
    )
    parts.append(lamp)
  return parts


def sign(rng: np.random.Generator) -> list[Part]:
  """A disc, triangle or panel on a post, facing -y."""
  high = rng.uniform(2.0, 2.6)
  cutout = (prim.DISC, prim.TRIANGLE, prim.SOLID)[rng.integers(3)]
  size = rng.uniform(0.38, 0.52)
  wide = size * (rng.uniform(1.0, 1.8) if cutout == prim.SOLID else 1.0)
  return [
    Part("pole", "pole", (0, 0, high / 2), (0.06, 0.06, high / 2), prim.CYLINDER),
    Part(
      "traffic sign",
      "sign",
      (0, -0.09, high),
      (wide, 0.02, size),
      pattern=tex.SIGN,
      second="rim",
      cutout=cutout,
    ),
  ]


def railing(rng: np.random.Generator) -> list[Part]:
  """A low fence along y that keeps people off the road."""
  high, half = rng.uniform(0.9, 1.2), rng.uniform(2.5, 4.5)
  return [Part("fence", "fence", (0, 0, high / 2), (0.05, half, high / 2), cutout=prim.SLATS)]
