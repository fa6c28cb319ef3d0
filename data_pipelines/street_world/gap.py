"""The real city with a look nearer to the synthetic one's, or farther from it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from corda_jax.errors import UserError
from data_pipelines.street_world.domains import REAL, SYNTHETIC, Domain

# Fields that are not the look: the camera and the layout of things.
_LAYOUT = (
  "name",
  "focal",
  "principal_point",
  "camera_height",
  "camera_pitch",
  "hood_height",
  "objects",
  "frontage",
  "verge",
)
# Limits of the numbers of a look; others are at least 0.
_LIMITS = {
  "palette": (0.02, 0.98),
  "texture_size": (0.2, math.inf),
  "sun_strength": (0.0, 1.0),
  "shadow": (0.0, 1.0),
  "clouds": (0.0, 1.0),
  "vignetting": (0.0, 1.0),
  "exposure": (-math.inf, math.inf),
}
MAX_GAP = 2.0


def real_city(gap: float) -> Domain:
  """`REAL` with its look moved towards `SYNTHETIC` or away from it.

  Every number of the look is interpolated linearly between the two; layout, things and camera are
  those of `REAL`.

  Args:
    gap: 0: the look of `SYNTHETIC`; 1: `REAL` itself; up to `MAX_GAP`: extrapolated. Numbers are
      clipped to their limits.

  Raises:
    UserError: the gap is not in that range.
  """
  if not 0 <= gap <= MAX_GAP:
    raise UserError(f"data.street_world.gap (--gap) is {gap}, expected 0 to {MAX_GAP:g}")
  if gap == 1:
    return REAL  # bit for bit
  look = [field.name for field in dataclasses.fields(Domain) if field.name not in _LAYOUT]
  return dataclasses.replace(
    REAL,
    **{
      name: _mix(
        getattr(SYNTHETIC, name),
        getattr(REAL, name),
        gap,
        limits=_LIMITS.get(name, (0.0, math.inf)),
      )
      for name in look
    },
  )


def _mix(start: Any, end: Any, share: float, *, limits: tuple[float, float]) -> Any:
  """Mixes nested values number by number, within limits."""
  if isinstance(start, Mapping):
    return {key: _mix(start[key], end[key], share, limits=limits) for key in start}
  if isinstance(start, tuple):
    return tuple(_mix(a, b, share, limits=limits) for a, b in zip(start, end, strict=True))
  low, high = limits
  return min(max(start + share * (end - start), low), high)
