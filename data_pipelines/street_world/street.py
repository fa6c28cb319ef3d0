"""Where things of a street are: sidewalks and frontages, traffic, street furniture, people.

Lengths and places below are in metres, speeds in metres a second; they are typical of a European
city and the same in all domains.
"""

import numpy as np

from data_pipelines.street_world import objects, textures

FAR_END = 135.0  # a row of buildings and trees closes the street there
CROSSING_HALF = 3.6  # half width of a crossing street
KERB = 0.13  # height of sidewalks and verges


def _strip(builder, label, material, side, near, far, start, end, pattern, second):
  """A raised strip of ground along the street, from `near` to `far` metres off its middle."""
  center = (0.0, 0.0, KERB / 2 - 0.1)
  half = ((far - near) / 2, (end - start) / 2, KERB / 2 + 0.1)
  part = objects.Part(label, material, center, half, pattern=pattern, second=second)
  builder.place([part], side * (near + far) / 2, (start + end) / 2)


def side(builder, domain, rng, side, half_width, crossing):
  """Verge, sidewalk and frontage of one side; returns (kerb, start, end) of the sidewalk."""
  verge = rng.uniform(1.0, 2.6) if rng.random() < domain.verge else 0.0
  start = half_width + verge
  end = start + rng.uniform(2.0, 3.6)
  runs = [(-15.0, FAR_END)]
  if np.isfinite(crossing):
    runs = [(-15.0, crossing - CROSSING_HALF), (crossing + CROSSING_HALF, FAR_END)]
  for low, high in runs:
    if verge:
      _strip(
        builder, "terrain", "grass", side, half_width, start, low, high, textures.GRASS, "soil"
      )
    _strip(builder, "sidewalk", "paving", side, start, end, low, high, textures.PAVING, "")
    at = max(low, 1.0)
    while at < high - 3:
      length = min(rng.uniform(8, 17), high - at)
      _frontage(builder, domain, rng, side, end, at + length / 2, length)
      at += length
  return half_width, start, end


def _choose(rng, weights):
  edges = np.cumsum(list(weights.values()))
  return list(weights)[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]


def _frontage(builder, domain, rng, side, edge, y, length):
  kind = _choose(rng, domain.frontage)
  heading = 0.0 if side > 0 else np.pi  # frontages are built towards their own +x

  def put(parts, off, **options):
    builder.place(parts, side * (edge + off), y, heading=heading, **options)

  if kind == "building":
    put(
      objects.building(rng, length - rng.uniform(0, 1.2) * (rng.random() < 0.4)), rng.uniform(0, 1)
    )
    return
  if kind == "wall":
    put(objects.wall(rng, length), 0.2)
  elif kind == "fence":
    put(objects.fence(rng, length), 0.2)
  elif kind == "hedge":
    put(objects.hedge(length - 0.6, rng.uniform(1.0, 2.2)), 0.7)
  if rng.random() < 0.5:
    put(objects.building(rng, length), rng.uniform(6, 10))
  for _ in range(rng.integers(1, 4)):
    thing = objects.tree(rng) if rng.random() < 0.6 else objects.bush(rng)
    off, shift = rng.uniform(2.0, 5.5), rng.uniform(-length, length) / 2
    builder.place(thing, side * (edge + off), y + shift, shadow=(1.0, 1.0))


def _amount(rng, expected):
  return int(expected) + int(rng.random() < expected - int(expected))


def traffic(builder, domain, rng, half_width, ego):
  """Vehicles and riders on the road; returns x of the tram's rails."""
  here, ahead, kerb = half_width * 0.5, rng.uniform(3, 9), half_width - 1.05
  rails = np.inf
  builder.reserve(ego[0], 0.0, 1.5, 6.0)

  def visible(x, near, far, power=1.5):
    """A y in view of the camera, near places first."""
    near = max(near, abs(x - ego[0]) / 0.4 + 1.5)
    return near + rng.random() ** power * max(far - near, 1.0)

  for _ in range(_amount(rng, domain.objects["train"])):
    parts = objects.train(rng)
    away = rng.random() < 0.5
    x = -here
    done = builder.try_place(
      parts, lambda x=x: (x, visible(x, 28, 50)), (1.4, 16.0),
      heading=0.0 if away else np.pi, velocity=(0, ahead if away else -ahead), shadow=(1.4, 15.0),
    )  # fmt: skip
    rails = x if done else rails
  for kind, long, first in (("truck", 5.0, 17), ("bus", 6.2, 18), ("moving car", 2.4, 13)):
    for _ in range(_amount(rng, domain.objects[kind])):
      parts = getattr(objects, kind.split()[-1])(rng)
      oncoming = rng.random() < 0.5
      x = (-here if oncoming else here) + rng.uniform(-0.3, 0.3)
      builder.try_place(
        parts, lambda x=x, first=first: (x, visible(x, first, 48)), (1.4, long),
        heading=np.pi if oncoming else 0.0, velocity=(0, -ahead if oncoming else ahead),
        shadow=(1.1, long * 0.95),
      )  # fmt: skip
  for kind, half in (("cyclist", (0.4, 1.0)), ("motorcyclist", (0.45, 1.1))):
    for _ in range(_amount(rng, domain.objects[kind])):
      parts = getattr(objects, kind)(rng)
      oncoming = rng.random() < 0.35
      speed = ahead * (0.6 if kind == "cyclist" else 1.0)
      low, high = (-here - 0.8, -here + 1.2) if oncoming else (0.6, half_width - 0.5)
      builder.try_place(
        parts,
        lambda low=low, high=high: (lambda x: (x, visible(x, 6, 22)))(rng.uniform(low, high)), half,
        heading=(np.pi if oncoming else 0.0) + rng.normal(0, 0.35),
        velocity=(0, -speed if oncoming else speed), shadow=(0.35, 0.9),
      )  # fmt: skip
  for _ in range(_amount(rng, domain.objects["parked car"])):
    x = kerb if rng.random() < 0.6 else -kerb
    builder.try_place(
      objects.car(rng), lambda x=x: (x, visible(x, 8, 45)), (1.0, 2.6),
      heading=0.0 if x > 0 else np.pi, shadow=(1.05, 2.3),
    )  # fmt: skip
  return rails


def furniture(builder, domain, rng, half_width, sides, ego):
  """What stands and walks between the kerbs and the frontages."""

  def spot(low, high, far, power=1.3):
    """A draw of a place `low`..`high` across the sidewalk's strip (0..1), on either side."""

    def draw():
      right = rng.random() < 0.58
      kerb, start, end = sides[int(right)]
      del start
      x = (1 if right else -1) * (kerb + (end - kerb) * rng.uniform(low, high))
      near = abs(x - ego[0]) / 0.42 + 1.0
      return x, near + rng.random() ** power * max(far - near, 1.0)

    return draw

  for side, (kerb, _, _) in zip((-1, 1), sides, strict=True):
    at = rng.uniform(8, 24)
    while at < 90:
      x = side * (kerb + 0.35)
      if builder.free(x, at, 0.3, 0.3):
        builder.reserve(x, at, 0.3, 0.3)
        heading = 0.0 if side > 0 else np.pi
        builder.place(objects.lamp_post(rng), x, at, z=KERB, heading=heading, shadow=(0.2, 0.2))
      at += rng.uniform(16, 28)
  for kind, half, low, high, far in (
    ("signal", (0.4, 0.4), 0.05, 0.3, 26),
    ("sign", (0.5, 0.3), 0.05, 0.4, 24),
    ("tree", (1.0, 1.0), 0.1, 0.5, 60),
    ("bush", (1.0, 1.2), 0.85, 1.1, 40),
  ):
    for _ in range(_amount(rng, domain.objects[kind])):
      parts = getattr(objects, kind)(rng)
      size = 1.6 if kind == "tree" else half[0]
      builder.try_place(parts, spot(low, high, far), half, z=KERB, shadow=(size, size))
  for kind in ("bicycle", "motorcycle"):
    for _ in range(_amount(rng, domain.objects[kind])):
      parts = getattr(objects, kind)(rng)
      builder.try_place(
        parts, spot(0.1, 0.6, 22), (0.8, 0.9), z=KERB, heading=rng.uniform(0.4, 2.7),
        shadow=(0.3, 0.8),
      )  # fmt: skip
  for _ in range(_amount(rng, domain.objects["person"])):
    walk = rng.uniform(0.0, 1.7)
    if rng.random() < 0.15:  # across the road
      way = 1 if rng.random() < 0.5 else -1
      draw = lambda: (rng.uniform(-0.7, 0.9) * half_width, rng.uniform(10, 28))  # noqa: E731
      options = {"heading": -way * np.pi / 2, "velocity": (way * walk, 0.0)}
    else:
      way = 1 if rng.random() < 0.5 else -1
      draw = spot(0.15, 0.9, 30)
      options = {
        "heading": (0.0 if way > 0 else np.pi) + rng.normal(0, 0.4),
        "velocity": (0.0, way * walk),
        "z": KERB,
      }
    builder.try_place(objects.person(rng), draw, (0.4, 0.4), shadow=(0.35, 0.35), **options)


def far_end(builder, rng):
  """A row of buildings and trees across the end of the street."""
  at = -70.0
  while at < 70:
    if rng.random() < 0.6:
      length = rng.uniform(10, 20)
      builder.place(objects.building(rng, length), at + length / 2, FAR_END + 2, heading=np.pi / 2)
      at += length
    else:
      builder.place(objects.tree(rng), at + 2, FAR_END + rng.uniform(0, 4))
      at += 4
