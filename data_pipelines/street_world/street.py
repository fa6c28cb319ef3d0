"""Where things of a street are: sidewalks and frontages, traffic, street furniture, people.

Lengths and places below are in metres, speeds in metres a second; they are typical of a European
city and the same in all domains.
"""

import numpy as np

from data_pipelines.street_world import frontage, objects, textures
from data_pipelines.street_world.parts import Part

FAR_END = 135.0  # a row of buildings and trees closes the street there
CROSSING_HALF = 3.6  # half width of a crossing street
SIGHT = 0.42  # tangent of half the horizontal field of view, about the same in all domains
KERB = 0.13  # height of sidewalks and verges


def _strip(builder, label, material, *, side, across, along, pattern, second=""):
  """A raised strip of ground: ranges in metres across (off the middle) and along the street."""
  (near, far), (start, end) = across, along
  center = (0.0, 0.0, KERB / 2 - 0.1)
  half = ((far - near) / 2, (end - start) / 2, KERB / 2 + 0.1)
  part = Part(label, material, center, half, pattern=pattern, second=second)
  builder.place([part], side * (near + far) / 2, (start + end) / 2)


def side(builder, domain, rng, side, *, half_width, crossing):
  """Verge, sidewalk and frontage of one side; returns (kerb, end of the sidewalk)."""
  verge = rng.uniform(1.0, 2.6) if rng.random() < domain.verge else 0.0
  start = half_width + verge
  end = start + rng.uniform(2.0, 3.6)
  runs = [(-15.0, FAR_END)]
  if np.isfinite(crossing):
    runs = [(-15.0, crossing - CROSSING_HALF), (crossing + CROSSING_HALF, FAR_END)]
  for low, high in runs:
    where = {"side": side, "along": (low, high)}
    if verge:
      ground = {"across": (half_width, start), "pattern": textures.GRASS, "second": "soil"}
      _strip(builder, "terrain", "grass", **where, **ground)
    _strip(builder, "sidewalk", "paving", **where, across=(start, end), pattern=textures.PAVING)
    at = max(low, 1.0)
    while at < high - 3:
      length = min(rng.uniform(8, 17), high - at)
      _frontage(builder, domain, rng, side, edge=end, y=at + length / 2, length=length)
      at += length
  return half_width, end


def _choose(rng, weights):
  edges = np.cumsum(list(weights.values()))
  return list(weights)[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]


def _frontage(builder, domain, rng, side, *, edge, y, length):
  kind = _choose(rng, domain.frontage)
  heading = _heading(side)  # frontages are built towards their own +x

  def put(parts, off, **options):
    builder.place(parts, side * (edge + off), y, heading=heading, **options)

  if kind == "building":
    put(
      frontage.building(rng, length - rng.uniform(0, 1.2) * (rng.random() < 0.4)), rng.uniform(0, 1)
    )
    return
  if kind == "wall":
    put(frontage.wall(rng, length), 0.2)
  elif kind == "fence":
    put(frontage.fence(rng, length), 0.2)
  elif kind == "hedge":
    put(objects.hedge(length - 0.6, rng.uniform(1.0, 2.2)), 0.7)
  if rng.random() < 0.5:
    put(frontage.building(rng, length), rng.uniform(6, 10))
  for _ in range(rng.integers(1, 4)):
    thing = objects.tree(rng) if rng.random() < 0.6 else objects.bush(rng)
    off, shift = rng.uniform(2.0, 5.5), rng.uniform(-length, length) / 2
    builder.place(thing, side * (edge + off), y + shift, shadow=(1.0, 1.0))


def _amount(rng, expected):
  return int(expected) + int(rng.random() < expected - int(expected))


def traffic(builder, domain, rng, *, half_width, crossing, ego):
  """Vehicles and riders on the road; returns x of the tram's rails."""
  here, ahead, kerb = half_width * 0.5, rng.uniform(3, 9), half_width - 1.05
  rails = np.inf
  builder.reserve(ego[0], 0.0, 1.5, 6.0)

  def lane(low, high, near, far):
    """Samples places with x in low..high and y in view of the camera, near ones more often."""

    def draw():
      x = rng.uniform(low, high)
      first = max(near, abs(x - ego[0]) / SIGHT + 1.5)
      return x, first + rng.random() ** 1.5 * max(far - first, 1.0)

    return draw

  for _ in range(_amount(rng, domain.objects["train"])):
    way = _way(rng)
    done = builder.try_place(
      objects.train(rng), lane(-here, -here, 28, 50), (1.4, 16.0), heading=_heading(way),
      velocity=(0, way * ahead), shadow=(1.4, 15.0),
    )  # fmt: skip
    rails = -here if done else rails
  for kind, long, first in (("truck", 5.0, 17), ("bus", 6.2, 18), ("moving car", 2.4, 13)):
    for _ in range(_amount(rng, domain.objects[kind])):
      way = _way(rng)
      x = way * here
      builder.try_place(
        getattr(objects, kind.split()[-1])(rng), lane(x - 0.3, x + 0.3, first, 48), (1.4, long),
        heading=_heading(way), velocity=(0, way * ahead), shadow=(1.1, long * 0.95),
      )  # fmt: skip
  for kind, half, speed in (("cyclist", (0.4, 1.0), 0.6), ("motorcyclist", (0.45, 1.1), 1.0)):
    for _ in range(_amount(rng, domain.objects[kind])):
      way = _way(rng, 0.65)
      low, high = (0.6, half_width - 0.5) if way > 0 else (-here - 0.8, -here + 1.2)
      builder.try_place(
        getattr(objects, kind)(rng), lane(low, high, 6, 22), half,
        heading=_heading(way) + rng.normal(0, 0.35), velocity=(0, way * ahead * speed),
        shadow=(0.35, 0.9),
      )  # fmt: skip
  if np.isfinite(crossing):  # nothing is placed in it
    builder.reserve(0.0, crossing, 100.0, CROSSING_HALF)
  for _ in range(_amount(rng, domain.objects["parked car"])):
    way = _way(rng, 0.6)
    builder.try_place(
      objects.car(rng), lane(way * kerb, way * kerb, 8, 45), (1.0, 2.6), heading=_heading(way),
      shadow=(1.05, 2.3),
    )  # fmt: skip
  return rails


def _way(rng, share=0.5):
  """1 with probability `share`, else -1: with the ego vehicle or towards it, right or left."""
  return 1 if rng.random() < share else -1


def _heading(way):
  return 0.0 if way > 0 else np.pi


def furniture(builder, domain, rng, *, half_width, sides, ego):
  """Things and people between the kerbs and the frontages.

  `sides` holds (kerb, end of the sidewalk), metres off the road's middle, left and right.
  """

  def strip(low, high, far):
    """Samples places `low`..`high` (0..1) across the strip from kerb to frontage, in view."""

    def draw():
      way = _way(rng, 0.58)
      kerb, end = sides[way > 0]
      x = way * (kerb + (end - kerb) * rng.uniform(low, high))
      near = abs(x - ego[0]) / SIGHT + 1.0
      return x, near + rng.random() ** 1.3 * max(far - near, 1.0)

    return draw

  for way, (kerb, _) in zip((-1, 1), sides, strict=True):
    at = rng.uniform(8, 24)
    while at < 90:
      builder.try_place(
        objects.lamp_post(rng), lambda x=way * (kerb + 0.35), y=at: (x, y), (0.3, 0.3), z=KERB,
        heading=_heading(way), shadow=(0.2, 0.2),
      )  # fmt: skip
      at += rng.uniform(16, 28)
  for kind, half, low, high, far in (
    ("railing", (0.2, 4.5), 0.06, 0.06, 26),
    ("signal", (0.4, 0.4), 0.05, 0.3, 26),
    ("sign", (0.5, 0.3), 0.05, 0.4, 24),
    ("tree", (1.0, 1.0), 0.1, 0.5, 60),
    ("bush", (1.0, 1.2), 0.85, 1.1, 40),
  ):
    for _ in range(_amount(rng, domain.objects[kind])):
      size = 1.6 if kind == "tree" else half[0]
      thing = getattr(objects, kind)(rng)
      shadow = None if kind == "railing" else (size, size)
      builder.try_place(thing, strip(low, high, far), half, z=KERB, shadow=shadow)
  for kind in ("bicycle", "motorcycle"):
    for _ in range(_amount(rng, domain.objects[kind])):
      builder.try_place(
        getattr(objects, kind)(rng), strip(0.1, 0.6, 19), (0.8, 0.9), z=KERB,
        heading=rng.uniform(0.4, 2.7), shadow=(0.3, 0.8),
      )  # fmt: skip
  for _ in range(_amount(rng, domain.objects["person"])):
    way, speed = _way(rng), rng.uniform(0.0, 1.7)
    if rng.random() < 0.15:  # across the road
      draw = lambda: (rng.uniform(-0.7, 0.9) * half_width, rng.uniform(8, 22))  # noqa: E731
      options = {"heading": -way * np.pi / 2, "velocity": (way * speed, 0.0)}
    else:
      draw = strip(0.15, 0.9, 25)
      heading = _heading(way) + rng.normal(0, 0.4)
      options = {"heading": heading, "velocity": (0.0, way * speed), "z": KERB}
    builder.try_place(objects.person(rng), draw, (0.4, 0.4), shadow=(0.35, 0.35), **options)


def far_end(builder, rng):
  """A row of buildings and trees across the end of the street."""
  at = -70.0
  while at < 70:
    if rng.random() < 0.6:
      length = rng.uniform(10, 20)
      builder.place(frontage.building(rng, length), at + length / 2, FAR_END + 2, heading=np.pi / 2)
      at += length
    else:
      builder.place(objects.tree(rng), at + 2, FAR_END + rng.uniform(0, 4))
      at += 4
