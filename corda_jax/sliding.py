"""Windows that slide over an image, and the mean of what is predicted in them."""

import itertools
from collections.abc import Callable, Sequence

import jax
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


def count_windows(
  places: Sequence[tuple[int, int]], window: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  """How many windows show each pixel, [H, W].

  Args:
    places: (top, left) of each window.
    window: rows and columns of a window.
    size: (H, W) of the image.
  """
  count = np.zeros(size)
  for top, left in places:
    count[top : top + window[0], left : left + window[1]] += 1
  return count


def mean_of_windows(
  parts: Float[Array, "windows b h w c"],
  places: Sequence[tuple[int, int]],
  size: tuple[int, int],
) -> Float[Array, "b height width c"]:
  """What windows predict, averaged where they overlap.

  Args:
    parts: prediction of each window.
    places: (top, left) of each, in pixels of the predictions.
    size: (H, W) of the result, which the windows cover.
  """
  window = parts.shape[2:4]
  total = jnp.zeros((parts.shape[1], *size, parts.shape[-1]), parts.dtype)
  for part, (top, left) in zip(parts, places, strict=True):
    total = total.at[:, top : top + window[0], left : left + window[1]].add(part)
  return total / jnp.asarray(count_windows(places, window, size), parts.dtype)[..., None]


def predict_windows(
  predict: Callable[[Float[Array, "b h w 3"]], dict[str, Float[Array, "b h w _"]]],
  x: Float[Array, "b height width 3"],
  *,
  window: tuple[int, int],
  stride: tuple[int, int],
) -> dict[str, Float[Array, "b height width _"]]:
  """Predicts images window by window, one after the other, and averages.

  Args:
    predict: images → predictions of the same size, by name.
    x: images.
    window: rows and columns of a window; smaller images are one window.
    stride: those from one window to the next.
  """
  size = x.shape[1:3]
  window = tuple(map(min, window, size))
  places = corners(size, window, stride)
  if len(places) == 1:
    return predict(x)
  shape = (x.shape[0], *window, x.shape[-1])

  def add(totals, place):
    first = (0, place[0], place[1], 0)
    parts = predict(jax.lax.dynamic_slice(x, first, shape))

    def added(total, part):
      seen = jax.lax.dynamic_slice(total, first, part.shape)
      return jax.lax.dynamic_update_slice(total, seen + part, first)

    return jax.tree.map(added, totals, parts), None

  of_window = jax.eval_shape(predict, jax.ShapeDtypeStruct(shape, x.dtype))
  totals = jax.tree.map(lambda y: jnp.zeros((x.shape[0], *size, y.shape[-1]), y.dtype), of_window)
  totals, _ = jax.lax.scan(add, totals, jnp.asarray(places))
  count = count_windows(places, window, size)[..., None]
  return jax.tree.map(lambda y: y / jnp.asarray(count, y.dtype), totals)
