"""From relative inverse depth to a known one: an affine map, robust against outliers."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_ROUNDS = 100
_TOLERANCE = 1e-10  # relative change at which the fit has converged
_LEAST_RESIDUAL = 1e-8  # of the scale of y, so that weights stay finite


class Affine(NamedTuple):
  """y = factor x + offset."""

  factor: float
  offset: float

  def __call__(self, x: Float[np.ndarray, "*pixels"]) -> Float[np.ndarray, "*pixels"]:
    """Maps values."""
    return self.factor * x + self.offset


def fit_affine(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Affine:
  """The affine map with the least sum of absolute deviations, by reweighted least squares.

  Pairs that are wrong in y, however much, hardly matter while they are few and spread over x: a
  third of them, but only a quarter if all lie at one end of a uniform x.

  Args:
    x: relative inverse depth of pixels.
    y: known inverse depth of the same pixels.

  Raises:
    ValueError: there are fewer than two pixels, or all of `x` are equal.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if len(x) < 2 or np.ptp(x) == 0:
    raise ValueError(f"got {len(x)} pixels with {len(np.unique(x))} values, expected 2 or more")
  if np.ptp(y) == 0:
    return Affine(0.0, float(y[0]))
  # Centred and scaled, so that the two unknowns do not differ by orders of magnitude.
  shift, width = np.median(x), np.ptp(x)
  u, least = (x - shift) / width, _LEAST_RESIDUAL * np.ptp(y)
  weights, found = np.ones_like(u), np.zeros(2)
  for _ in range(_ROUNDS):
    design = np.stack([u, np.ones_like(u)], axis=1) * weights[:, None]
    last, found = found, np.linalg.solve(design.T @ np.stack([u, np.ones_like(u)], 1), design.T @ y)
    if np.abs(found - last).max() <= _TOLERANCE * np.abs(found).max():
      break
    weights = 1 / np.maximum(np.abs(found[0] * u + found[1] - y), least)
  factor = found[0] / width
  return Affine(float(factor), float(found[1] - factor * shift))
