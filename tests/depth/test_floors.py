import numpy as np
import pytest

from corda_jax.depth.baselines import DepthHistogram, best_constants
from corda_jax.metrics import depth_errors

ROWS, COLUMNS = 6, 15
MIN, MAX = 1.0, 80.0


def frames(random, count=4):
  """Nearer in lower rows, noisy, with unknown pixels; nothing at all is known of the first row."""
  distance = np.geomspace(60, 3, ROWS)[:, None]
  depth = distance * np.exp(0.4 * random.standard_normal((count, ROWS, COLUMNS)))
  depth = np.clip(depth, MIN, MAX)
  depth[random.uniform(size=depth.shape) < 0.2] = np.nan
  depth[:, 0] = np.nan
  return depth


def abs_rel(constant, depth):
  depth = depth[~np.isnan(depth)]
  return np.mean(np.abs(constant - depth) / depth)


def least(depth):
  """The least error of any constant; it is found at one of the depths."""
  return min(abs_rel(candidate, depth) for candidate in depth[~np.isnan(depth)])


def test_the_best_constant_is_the_best(random):
  depth = frames(random)
  histogram = DepthHistogram(ROWS, MIN, MAX)
  for frame in depth:
    histogram.add(frame)
  constant = histogram.best_constant()
  # A bin of the histogram is 0.1 % wide.
  np.testing.assert_allclose(abs_rel(constant, depth), least(depth), rtol=2e-3)
  # Neither the mean nor the median would do.
  for other in (np.nanmean(depth), np.nanmedian(depth)):
    assert abs_rel(other, depth) > 1.05 * least(depth)


def test_the_best_of_each_row_is_the_best(random):
  depth = frames(random)
  floors = best_constants(iter(depth), ROWS, MIN, MAX)
  assert {name: floor.shape for name, floor in floors.items()} == {
    "constant": (ROWS, 1),
    "rows": (ROWS, 1),
  }
  for row in range(1, ROWS):
    got = abs_rel(floors["rows"][row, 0], depth[:, row])
    np.testing.assert_allclose(got, least(depth[:, row]), rtol=5e-3)
  assert np.ptp(floors["constant"]) == 0
  assert floors["rows"][0] == floors["constant"][0]  # nothing is known there
  known = ~np.isnan(depth)
  errors = {
    name: depth_errors(depth[known], np.broadcast_to(floor, depth.shape)[known])["abs_rel"]
    for name, floor in floors.items()
  }
  assert errors["rows"] < 0.8 * errors["constant"]


def test_one_depth_is_its_own_floor():
  for value in (MIN, 7.3, MAX):  # the ends of the range have bins, too
    floors = best_constants([np.full((2, 3), value)], 2, MIN, MAX)
    for floor in floors.values():
      np.testing.assert_allclose(floor, value, rtol=1e-3)


def test_each_frame_counts(random):
  depth = frames(random)
  one = best_constants(depth[:1], ROWS, MIN, MAX)["constant"][0, 0]
  more = best_constants([depth[0], np.full((ROWS, COLUMNS), 2.0)], ROWS, MIN, MAX)["constant"][0, 0]
  assert one > 4
  assert more == pytest.approx(2, rel=1e-3)


def test_without_depth_there_is_no_frame_to_be_measured_by():
  floors = best_constants([np.full((2, 3), np.nan)], 2, MIN, MAX)
  assert all(np.isfinite(floor).all() for floor in floors.values())
