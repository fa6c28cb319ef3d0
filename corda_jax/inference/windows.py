"""Networks over images that are too large for one pass: tiles with margins, put together again.

A network of output stride s predicts at the pixels 0, s, 2 s, …. A tile that begins at a multiple
of s therefore predicts at the places that the whole image would, and equals it wherever the margin
covers what a prediction sees. So predictions are put together at the output stride, where they are
small, and upsampled as those of a whole image are.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

Outputs = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Span:
  """One axis of a tile.

  Attributes:
    pixels: of the image that the tile shows, margins among them.
    kept: of the tile's predictions, those that are no margin.
  """

  pixels: slice
  kept: slice


def spans(length: int, tile: int, margin: int, stride: int) -> list[Span]:
  """Cuts an axis into tiles.

  Args:
    length: of the image, in pixels.
    tile: most pixels of a tile; rounded down to the stride.
    margin: pixels at an inner end of a tile whose predictions are not kept; rounded up to it.
    stride: of the network's predictions, in pixels.

  Returns:
    The tiles, in order: one where the image is no longer than a tile; else all as long as a tile,
    but for the last, which ends with the image and may be less than a stride shorter.

  Raises:
    ValueError: of a tile nothing is left between the margins.
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
  predict: Callable[[jax.Array], Outputs],
  images: jax.Array,
  *,
  tile: tuple[int, int],
  margin: int,
  stride: int,
) -> Outputs:
  """What a network predicts on whole images, tile by tile.

  Args:
    predict: [B, H, W, C] → predictions by name, [B, h, w, …] at the output stride.
    images: [B, H, W, C].
    tile: (height, width), most pixels that `predict` is given at once.
    margin: pixels around what is kept of a tile, but where the image ends.
    stride: of the predictions, in pixels.

  Returns:
    What `predict` would give for `images`, if its predictions see no farther than the margin.

  Raises:
    ValueError: of a tile nothing is left between the margins.
  """
  rows, columns = (
    spans(length, most, margin, stride)
    for length, most in zip(images.shape[1:3], tile, strict=True)
  )

  def strip(row: Span) -> Outputs:
    parts = [
      jax.tree.map(
        lambda x, kept=(slice(None), row.kept, column.kept): x[kept],
        predict(images[:, row.pixels, column.pixels]),
      )
      for column in columns
    ]
    return _joined(parts, axis=2)

  return _joined([strip(row) for row in rows], axis=1)


def _joined(parts: list[Outputs], axis: int) -> Outputs:
  if len(parts) == 1:
    return parts[0]
  return {name: jnp.concatenate([part[name] for part in parts], axis) for name in parts[0]}
