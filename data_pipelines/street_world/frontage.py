"""What closes a street at its sides: buildings, walls, fences, as lists of parts."""

import numpy as np

from data_pipelines.street_world import primitives as prim
from data_pipelines.street_world import textures as tex
from data_pipelines.street_world.parts import Part


def building(rng: np.random.Generator, length: float) -> list[Part]:
  """A block with rows of windows, 10 m deep towards +x, its front at x = 0, `length` along y."""
  high = rng.uniform(5.0, 17.0)
  parts = [
    Part(
      "building",
      "facade",
      (5, 0, high / 2),
      (5, length / 2, high / 2),
      pattern=tex.FACADE,
      second="glass",
    )
  ]
  if rng.random() < 0.5:
    parts.append(Part("building", "roof", (4.9, 0, high + 0.4), (5.2, length / 2 + 0.2, 0.4)))
  if rng.random() < 0.4:
    parts.append(Part("building", "facade", (-0.3, 0, 3.3), (0.4, length / 2 - 0.2, 0.15)))
  return parts


def wall(rng: np.random.Generator, length: float) -> list[Part]:
  """A free-standing wall along y with a coping."""
  high = rng.uniform(1.2, 2.4)
  return [
    Part("wall", "wall", (0, 0, high / 2), (0.14, length / 2, high / 2), pattern=tex.BRICK),
    Part("wall", "wall", (0, 0, high), (0.2, length / 2, 0.06)),
  ]


def fence(rng: np.random.Generator, length: float) -> list[Part]:
  """Slats with gaps to see through, along y."""
  high = rng.uniform(1.3, 2.2)
  return [Part("fence", "fence", (0, 0, high / 2), (0.05, length / 2, high / 2), cutout=prim.SLATS)]
