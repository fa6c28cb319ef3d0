"""Maps of whole frames: classes, from one view of them or from several, depth and difficulty.

A view is the frame at some scale, mirrored or not. One view gives the class of the largest logit;
several are averaged as probabilities at the size of the class map.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from corda_jax.adaptation.pseudo_labels import difficulty
from corda_jax.resize import aligned_weights, interpolate, resize_aligned, resize_centered

# Rows of the class map that are made at once. Logits of a whole frame of 2048x1024 would be 160 MB,
# for every view; of 64 rows they are 10 MB, and on a CPU three times faster for it.
_ROWS = 64

Views = Sequence[Sequence[jax.Array]]


def make_views(
  predict: Callable[[jax.Array], jax.Array],
  images: jax.Array,
  *,
  scales: Sequence[float],
  flip: bool,
) -> Views:
  """Logits of every view of some images.

  Args:
    predict: [B, h, w, 3] → logits [B, h', w', C].
    images: [B, H, W, 3], normalised.
    scales: factors of the images' size, rounded to whole pixels.
    flip: whether each scale is seen mirrored, too.

  Returns:
    One entry a scale: (logits,), or with `flip` (logits, logits of the mirrored images).
  """
  views = []
  for scale in scales:
    size = tuple(max(1, int(n * scale + 0.5)) for n in images.shape[1:3])
    scaled = images if size == images.shape[1:3] else resize_centered(images, size)
    views.append((predict(scaled), predict(scaled[:, :, ::-1])) if flip else (predict(scaled),))
  return views


def class_map(
  views: Views,
  shape: tuple[int, int],
  split_columns: Callable[[jax.Array], jax.Array] = lambda columns: columns,
) -> jax.Array:
  """The most probable class of every pixel.

  Args:
    views: of `make_views`.
    shape: (H, W) of the class map, in pixels.
    split_columns: constrains how the [W, w] weights of columns lie on devices, and with them the
      work; all of it is done for each column by itself.

  Returns:
    uint8[B, H, W], 0..C - 1. Of one view the largest upsampled logit, as released; of several the
    largest mean probability.
  """
  height, width = shape
  slices = -(-height // _ROWS)
  rows, columns = [], []
  for logits, *_ in views:
    weights = jnp.asarray(aligned_weights(logits.shape[1], height), logits.dtype)
    # Rows that only fill the last slice weigh nothing, and are cut off below.
    weights = jnp.pad(weights, ((0, slices * _ROWS - height), (0, 0)))
    rows.append(weights.reshape(slices, _ROWS, -1))
    of_columns = jnp.asarray(aligned_weights(logits.shape[2], width), logits.dtype)
    columns.append(split_columns(of_columns))

  def classes_of_slice(rows):
    return combine(views, rows, columns).argmax(-1).astype(jnp.uint8)

  classes = jax.lax.map(classes_of_slice, rows).swapaxes(0, 1)
  return classes.reshape(classes.shape[0], slices * _ROWS, width)[:, :height]


def combine(views: Views, rows: Sequence[jax.Array], columns: Sequence[jax.Array]) -> jax.Array:
  """Upsamples every view and averages their probabilities.

  Args:
    views: of `make_views`.
    rows: [H, h] weights for each scale, see `resize.aligned_weights`.
    columns: [W, w] weights for each scale.

  Returns:
    [B, H, W, C]: the mean probabilities, 0..1; of a single view its logits.
  """
  if len(views) == len(views[0]) == 1:
    return interpolate(views[0][0], rows[0], columns[0])
  total = 0.0
  for scale, row_weights, column_weights in zip(views, rows, columns, strict=True):
    as_seen, *mirrored = (
      jax.nn.softmax(interpolate(logits, row_weights, column_weights)) for logits in scale
    )
    # Mirrored back here, not before upsampling, and added first: so the mirrored frame has the
    # mirrored probabilities to the last bit.
    total = total + sum((x[:, :, ::-1] for x in mirrored), start=as_seen)
  return total / sum(len(scale) for scale in views)


def depth_maps(outputs: Mapping[str, jax.Array], shape: tuple[int, int]) -> dict[str, jax.Array]:
  """Depth of every pixel, and how far the two depth heads differ about it.

  Args:
    outputs: of the network, at its output stride; without depth heads there are no maps.
    shape: (H, W) of the maps, in pixels.

  Returns:
    "inverse_depth" [B, H, W], by the head trained on the target, and "difficulty" [B, H, W], 0..1.
  """
  if "D" not in outputs:
    return {}
  target, source = (resize_aligned(outputs[name], shape)[..., 0] for name in ("D", "D_src"))
  return {"inverse_depth": target, "difficulty": difficulty(source, target)}
