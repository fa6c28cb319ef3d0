"""Predicts images that are too large for one pass in tiles with margins.

A network of output stride s predicts at the pixels 0, s, 2 s, …, or at several within each stride
where its decoder returns to a finer one. A tile that starts at a multiple of s therefore predicts
at the same pixels as the whole image, with the same values wherever the margin covers the receptive
field. So predictions are joined at the output stride, where they are small, and upsampled like
those of a whole image.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from corda_jax.typing import Array, Float

Outputs = dict[str, Float[Array, "b _ _ ..."]]


@dataclasses.dataclass(frozen=True)
class Span:
  """One axis of a tile.

  Attributes:
    pixels: range of the image that the tile covers, margins included, in pixels.
    kept: range of the tile that is kept, without margins, in strides.
  """

  pixels: slice
  kept: slice


def spans(length: int, tile: int | float, margin: int, stride: int) -> list[Span]:
  """Cuts an axis into tiles.

  Args:
    length: length of the image, in pixels.
    tile: largest length of a tile, in pixels; rounded down to a multiple of the stride. Infinite:
      one tile.
    margin: pixels at each inner end of a tile whose predictions are discarded; rounded up to a
      multiple of the stride.
    stride: output stride of the network, in pixels.

  Returns:
    The tiles, in order: a single one if the image is no longer than a tile. Otherwise all have the
    length of a tile, except the last, which ends with the image and may be shorter by less than a
    stride.

  Raises:
    ValueError: the margins leave nothing of a tile.
  """
  if length <= tile:
    return [Span(slice(0, length), slice(0, None))]
  tile, margin = tile // stride * stride, -(-margin // stride) * stride
  if tile <= 2 * margin:
    raise ValueError(f"tiles of {tile} pixels have nothing between two margins of {margin}")
  found, start, kept = [], 0, 0
  while start + tile < length:
    end = start + tile - margin
    found.append(_span(start, start + tile, (kept, end), stride))
    start, kept = end - margin, end
  start = -(-(length - tile) // stride) * stride
  found.append(_span(start, length, (kept, None), stride))
  return found


def _span(start, stop, part, stride):
  kept, end = part
  places = slice((kept - start) // stride, None if end is None else (end - start) // stride)
  return Span(slice(start, stop), places)


def predict_tiled(
  predict: Callable[[Array], Outputs],
  images: Float[Array, "b h w c"],
  *,
  tile: tuple[int | float, int | float],
  margin: int,
  stride: int,
) -> Outputs:
  """Predicts whole images tile by tile.

  Args:
    predict: [B, H, W, C] → predictions by name, [B, h, w, …], one or several along each stride.
    images: whole images, as `predict` takes them.
    tile: (height, width), the largest input of `predict`, in pixels; may be infinite.
    margin: pixels at each inner edge of a tile whose predictions are discarded.
    stride: pixels, of which each tile starts at a multiple.

  Returns:
    The same as `predict(images)` if the receptive field is within the margin.

  Raises:
    ValueError: the margins leave nothing of a tile.
  """
  rows, columns = (
    spans(length, most, margin, stride)
    for length, most in zip(images.shape[1:3], tile, strict=True)
  )

  def strip(row: Span) -> Outputs:
    parts = []
    for column in columns:
      seen = images[:, row.pixels, column.pixels]

      def kept(x, seen=seen, column=column):
        rows, columns = (
          _places(span, x.shape[axis], seen.shape[axis], stride)
          for axis, span in ((1, row), (2, column))
        )
        return x[:, rows, columns]

      parts.append(jax.tree.map(kept, predict(seen)))
    return _joined(parts, axis=2)

  return _joined([strip(row) for row in rows], axis=1)


def _places(span: Span, predictions: int, pixels: int, stride: int) -> slice:
  """What is kept of the predictions along an axis, of which a stride may have several."""
  each = round(predictions * stride / pixels)
  start, stop = span.kept.start, span.kept.stop
  return slice(each * start, None if stop is None else each * stop)


def _joined(parts: list[Outputs], axis: int) -> Outputs:
  if len(parts) == 1:
    return parts[0]
  return {name: jnp.concatenate([part[name] for part in parts], axis) for name in parts[0]}
