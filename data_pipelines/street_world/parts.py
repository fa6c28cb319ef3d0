"""What things of the street are made of."""

from typing import NamedTuple

from corda_jax import labels
from data_pipelines.street_world import primitives as prim
from data_pipelines.street_world import textures as tex

Vector = tuple[float, float, float]
ID = {name: index for index, name in enumerate(labels.NAMES)}


class Part(NamedTuple):
  """One primitive of a thing.

  Attributes:
    label: name of the class.
    material: key of the palette.
    center: centre in the thing's axes, metres.
    half: half sizes along the part's axes, metres.
    body: `primitives.BOX`, `CYLINDER` or `ELLIPSOID`.
    tilt: radians about the thing's x axis; positive leans backwards.
    pattern: one of `textures`' patterns.
    second: material of the pattern's second colour; "" for the same as `material`.
    cutout: one of `primitives`' cut-outs.
    glow: light that the part emits, added to its albedo times the light.
  """

  label: str
  material: str
  center: Vector
  half: Vector
  body: int = prim.BOX
  tilt: float = 0.0
  pattern: int = tex.PLAIN
  second: str = ""
  cutout: int = prim.SOLID
  glow: float = 0.0
