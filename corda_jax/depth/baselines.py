"""What a network must beat: the best depth that does not look at the image.

In street scenes much of a pixel's depth follows from its row, so a constant for each row is the
baseline to compare with. Both constants are the best ones in absolute relative error over the very
frames that they are measured on, which no trained constant could be.
"""

from collections.abc import Iterable

import numpy as np

_BINS = 4096  # of the logarithm of depth: 0.2 % wide over three orders of magnitude


class DepthHistogram:
  """Counts of depth by image row.

  Args:
    rows: number of rows of the images.
    min_depth: least depth that is counted, metres.
    max_depth: largest depth that is counted, metres.
  """

  def __init__(self, rows: int, min_depth: float, max_depth: float):
    """Starts with nothing."""
    self._low, self._high = np.log(min_depth), np.log(max_depth)
    self._counts = np.zeros((rows, _BINS), np.int64)

  def add(self, depth: np.ndarray) -> None:
    """Counts the depths [H, W] of a frame, metres; NaN where unknown."""
    row, _ = known = np.nonzero(~np.isnan(depth))
    place = (np.log(depth[known]) - self._low) / (self._high - self._low) * _BINS
    place = np.clip(place.astype(int), 0, _BINS - 1)
    np.add.at(self._counts, (row, place), 1)

  def best_constant(self) -> float:
    """The one depth with the least mean of `|c - d| / d`."""
    return float(self._weighted_medians(self._counts.sum(0, keepdims=True))[0])

  def best_rows(self) -> np.ndarray:
    """float64[H], the same for each row; of rows without depth, that of all."""
    rows = self._weighted_medians(self._counts)
    return np.where(self._counts.any(1), rows, self.best_constant())

  def _weighted_medians(self, counts: np.ndarray) -> np.ndarray:
    # |c - d| / d is the distance to d, weighted by 1 / d: a weighted median minimises its sum.
    centers = np.exp(self._low + (np.arange(_BINS) + 0.5) * (self._high - self._low) / _BINS)
    cumulative = np.cumsum(counts / centers, 1)
    return centers[(cumulative >= cumulative[:, -1:] / 2).argmax(1)]


def best_constants(
  depths: Iterable[np.ndarray], rows: int, min_depth: float, max_depth: float
) -> dict[str, np.ndarray]:
  """Depth [H, 1] of each baseline, by its name.

  Args:
    depths: depths of the frames, [H, W] metres, NaN where unknown or out of range.
    rows: H.
    min_depth: metres.
    max_depth: metres.
  """
  histogram = DepthHistogram(rows, min_depth, max_depth)
  for depth in depths:
    histogram.add(depth)
  return {
    "constant": np.full((rows, 1), histogram.best_constant()),
    "rows": histogram.best_rows()[:, None],
  }
