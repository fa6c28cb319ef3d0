"""Places things into a street and gives them colours."""

import numpy as np

from data_pipelines.street_world import textures
from data_pipelines.street_world.parts import ID

HUE_SHARE = 0.4  # standard deviation of hue shifts over that of brightness shifts
DARKER = 0.72  # a pattern's second colour over the first, where it has no material of its own
TRIES = 8  # places tried for a thing before it is left out


class Look:
  """Samples linear colours of a scene's materials."""

  def __init__(self, domain, rng):
    """Samples from `domain.palette` with the generator `rng`."""
    self._domain = domain
    self._rng = rng
    self._shift = {}

  def draw(self, material):
    """Samples the linear colour of one more thing of this material, float64[3]."""
    domain, rng = self._domain, self._rng
    if material not in self._shift:
      self._shift[material] = _spread(rng, domain.palette_shift)
    choices = domain.palette[material]
    shift = self._shift[material] + _spread(rng, domain.object_shift)
    return np.clip(choices[rng.integers(len(choices))] + shift, 0.02, 0.98) ** 2.2


def _spread(rng, deviation):
  """A colour shift: mostly of brightness, less of hue."""
  brightness, *hue = rng.normal(0.0, deviation, 4)
  return brightness + HUE_SHARE * np.array(hue)


class Builder:
  """Collects placed things; keeps their footprints apart."""

  def __init__(self, look, texture_size, texture_contrast):
    """Takes colours from `look`; the factors apply to all textures."""
    self._look = look
    self._texture = (texture_size, texture_contrast)
    self._taken = []
    self._count = 0
    self.rows = []  # one a primitive, columns as `place` writes them
    self.shadows = []  # one a thing that casts one, columns as in `scene.Scene.shadows`

  def free(self, x, y, half_x, half_y):
    """Whether a footprint about (x, y) is clear of all reserved ones."""
    return all(abs(x - a) >= half_x + c or abs(y - b) >= half_y + d for a, b, c, d in self._taken)

  def reserve(self, x, y, half_x, half_y):
    """Keeps a footprint clear."""
    self._taken.append((x, y, half_x, half_y))

  def place(self, parts, x, y, *, z=0.0, heading=0.0, velocity=(0.0, 0.0), shadow=None):
    """Puts a thing's parts into the world.

    Args:
      parts: list of `Part`.
      x: x of the thing's foot, metres.
      y: y of the thing's foot, metres.
      z: z of the thing's foot, metres.
      heading: radians by which its y axis turns towards -x.
      velocity: (x, y), metres a second.
      shadow: half width and half length of its shadow; None for none.
    """
    self._count += 1
    cos, sin = np.cos(heading), np.sin(heading)
    colors = {}
    for part in parts:
      for material in (part.material, part.second):
        if material and material not in colors:
          colors[material] = self._look.draw(material)
      a, b, c = part.center
      ct, st = np.cos(part.tilt), np.sin(part.tilt)
      size, contrast = textures.GRAIN.get(part.material, textures.DEFAULT_GRAIN)
      first = colors[part.material]
      second = colors[part.second] if part.second else first * DARKER
      self.rows.append(
        (
          part.body, part.cutout, part.pattern, ID[part.label], self._count, part.glow,
          x + cos * a - sin * b, y + sin * a + cos * b, z + c, *part.half,
          cos, -sin * ct, sin * st, sin, cos * ct, -cos * st, 0.0, st, ct,
          *velocity, *first, *second, size * self._texture[0], contrast * self._texture[1],
        )
      )  # fmt: skip
    if shadow:
      self.shadows.append((x, y, z, heading, *shadow, *velocity))

  def try_place(self, parts, draw, half, **options):
    """Places a thing at the first free place that `draw()` returns.

    Args:
      parts: parts of the thing.
      draw: returns a place (x, y).
      half: half sizes of its footprint along x and y, metres.
      **options: options of `place`.

    Returns:
      Whether a place was found.
    """
    for _ in range(TRIES):
      x, y = draw()
      if self.free(x, y, *half):
        self.reserve(x, y, *half)
        self.place(parts, x, y, **options)
        return True
    return False
