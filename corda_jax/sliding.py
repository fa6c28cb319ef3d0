"""Windows that slide over an image, and the mean of what is predicted in them."""

import itertools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from corda_jax.typing import Array, Float


def window_starts(length: int, window: int, stride: int) -> list[int]:
  """Where windows begin along an axis.

  Args:
    length: length of the axis.
    window: length of a window, at most `length`.
    stride: distance of two windows; the last one is moved back to end with the axis.
  """
  count = max(length - window + stride - 1, 0) // stride + 1
  return [min(number * stride, length - window) for number in range(count)]


def corners(
  size: Sequence[int], window: Sequence[int], stride: Sequence[int]
) -> list[tuple[int, int]]:
  """(top, left) of every window, row by row.

  Args:
    size: rows and columns of the image.
    window: those of a window.
    stride: those from one window to the next.
  """
  return list(itertools.product(*map(window_starts, size, window, stride)))


def mean_of_windows(
  parts: Sequence[Float[Array, "b h w c"]],
  places: Sequence[tuple[int, int]],
  size: tuple[int, int],
) -> Float[Array, "b height width c"]:
  """What windows predict, averaged where they overlap.

  Args:
    parts: prediction of each window.
    places: (top, left) of each, in pixels of the predictions.
    size: (H, W) of the result, which the windows cover.
  """
  first = parts[0]
  total = jnp.zeros((len(first), *size, first.shape[-1]), first.dtype)
  count = np.zeros(size)
  for part, (top, left) in zip(parts, places, strict=True):
    rows, columns = slice(top, top + part.shape[1]), slice(left, left + part.shape[2])
    total = total.at[:, rows, columns].add(part)
    count[rows, columns] += 1
  return total / jnp.asarray(count, first.dtype)[..., None]


def predict_windows(
  predict: Callable[[Float[Array, "b h w 3"]], Float[Array, "b h w c"]],
  x: Float[Array, "b height width 3"],
  *,
  window: tuple[int, int],
  stride: tuple[int, int],
) -> Float[Array, "b height width c"]:
  """Predicts images window by window, and averages.

  Args:
    predict: images → predictions of the same size.
    x: images.
    window: (rows, columns) of a window; smaller images are one window.
    stride: (rows, columns) from one window to the next.
  """
  size = x.shape[1:3]
  window = tuple(map(min, window, size))
  places = corners(size, window, stride)
  parts = [predict(x[:, top : top + window[0], left : left + window[1]]) for top, left in places]
  return parts[0] if len(parts) == 1 else mean_of_windows(parts, places, size)
