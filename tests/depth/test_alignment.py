"""The robust affine fit, against a linear programme."""

import numpy as np
import pytest
import scipy.optimize

from corda_jax.depth.alignment import fit_affine


def least_deviations(x, y):
  """Factor and offset with the least sum of absolute deviations, exactly."""
  n = len(x)
  rows = np.stack([x, np.ones(n)], axis=1)
  above = np.block([[rows, -np.eye(n)], [-rows, -np.eye(n)]])
  cost = np.r_[0, 0, np.ones(n)]
  free = [(None, None)] * 2 + [(0, None)] * n
  return scipy.optimize.linprog(cost, above, np.r_[y, -y], bounds=free).x[:2]


def test_the_sum_of_deviations_is_the_least(random):
  x = random.uniform(0, 30, 200)
  y = 2.5 * x + 4 + random.standard_cauchy(200)
  found, expected = fit_affine(x, y), least_deviations(x, y)
  deviation = lambda factor, offset: np.abs(factor * x + offset - y).sum()  # noqa: E731
  assert deviation(*found) == pytest.approx(deviation(*expected), rel=1e-5)
  np.testing.assert_allclose(found, expected, rtol=1e-2)
  np.testing.assert_allclose(found(x), found.factor * x + found.offset)


def test_outliers_do_not_matter(random):
  x = random.uniform(100, 101, 500)  # far from 0 and narrow
  y = -3.0 * x + 1_000
  y[::3] = random.uniform(0, 65_536, len(y[::3]))
  np.testing.assert_allclose(fit_affine(x, y), (-3.0, 1_000), rtol=1e-4)


def test_outliers_at_one_end_matter_from_a_quarter(random):
  x = np.sort(random.uniform(size=1000))
  for share, factor in ((0.2, 2.0), (0.35, None)):
    y = 2 * x + 1
    y[int(1000 * (1 - share)) :] = 200
    found = fit_affine(x, y).factor
    assert found == pytest.approx(2, abs=0.01) if factor else found > 10


def test_where_all_are_the_same_there_is_no_slope():
  assert fit_affine(np.arange(4.0), np.full(4, 257.0)) == (0, 257)


@pytest.mark.parametrize("x", [[], [1.0], [2.0, 2.0, 2.0]])
def test_a_line_needs_two_values(x):
  with pytest.raises(ValueError, match=r"expected 2 or more"):
    fit_affine(np.array(x), np.zeros(len(x)))
