"""Maps of whole frames: classes from one or several views, depth and difficulty.

A view is the frame at some scale, mirrored or not. With one view, the class is that of the largest
logit; several are averaged as probabilities at the size of the class map.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from corda_jax.adaptation.pseudo_labels import difficulty
from corda_jax.models.depth_guided import seen_inverse_depth
from corda_jax.resize import interpolate, resize, resize_centered, resize_weights
from corda_jax.sliding import predict_windows
from corda_jax.typing import Array, Dim, Float, UInt8

# Rows of the class map computed at once. Logits of a whole frame of 2048x1024 take 160 MB per view,
# those of 64 rows 10 MB, which is three times faster on a CPU.
_ROWS = 64

Outputs = dict[str, Float[Array, "b _ _ _"]]
Views = Sequence[Sequence[Float[Array, "b _ _ c"]]]


def as_evaluated(
  predict: Callable[[Array], Outputs], evaluation: Any, *, method: str
) -> Callable[[Array], Outputs]:
  """The predictions of a network where, and at the size, that an evaluation asks for.

  Args:
    predict: images [B, H, W, C] → predictions by name, at the network's stride.
    evaluation: `window`, `window_stride`, `window_mean` and `resize_via_input` of an
      `AdaptationEvaluation`. A mean of probabilities is given as its logarithm, which is a logit.
    method: how predictions are resized, as of `resize`.
  """

  def at_input_size(x):
    return {name: resize(y, x.shape[1:3], method) for name, y in predict(x).items()}

  def in_windows(x):
    window, stride = tuple(evaluation.window), tuple(evaluation.window_stride)
    if evaluation.window_mean == "logits":
      return predict_windows(at_input_size, x, window=window, stride=stride)
    found = predict_windows(with_probabilities, x, window=window, stride=stride)
    tiny = jnp.finfo(found["S"].dtype).tiny
    return found | {"S": jnp.log(jnp.maximum(found["S"], tiny))}

  def with_probabilities(x):
    outputs = at_input_size(x)
    return outputs | {"S": jax.nn.softmax(outputs["S"])}

  if any(evaluation.window):
    return in_windows
  return at_input_size if evaluation.resize_via_input else predict


def make_views(
  predict: Callable[[Array], Array],
  images: Float[Array, "b h w channels"],
  *,
  scales: Sequence[float],
  flip: bool,
) -> Views:
  """Logits of each view of a batch of images.

  Args:
    predict: [B, h, w, channels] → logits [B, h', w', C].
    images: normalised images.
    scales: factors of the image size, which is rounded to whole pixels.
    flip: whether each scale also has a mirrored view.

  Returns:
    One entry per scale: (logits,), or with `flip` (logits, logits of the mirrored images).
  """
  views = []
  for scale in scales:
    size = tuple(max(1, int(n * scale + 0.5)) for n in images.shape[1:3])
    scaled = images if size == images.shape[1:3] else resize_centered(images, size)
    views.append((predict(scaled), predict(scaled[:, :, ::-1])) if flip else (predict(scaled),))
  return views


def class_map(
  views: Views,
  shape: tuple[Dim, Dim],
  split_columns: Callable[[Array], Array] = lambda columns: columns,
  *,
  method: str = "aligned",
) -> UInt8[Array, "b height width"]:
  """The most probable class of every pixel.

  Args:
    views: logits made by `make_views`.
    shape: (H, W) of the class map, in pixels.
    split_columns: constrains the sharding of the [W, w] column weights and thereby of the whole
      computation, which is independent for each column.
    method: how logits are resized: with "aligned" corners, or by pixel centres ("centered").

  Returns:
    0..C - 1: the class of the largest upsampled logit for one view, as released; of the largest
    mean probability for several.
  """
  height, width = shape
  first = views[0][0]
  if len(views) == len(views[0]) == 1 and first.shape[1:3] == tuple(shape):
    return first.argmax(-1).astype(jnp.uint8)
  weights_of = resize_weights(method)
  slices = -(-height // _ROWS)
  rows, columns = [], []
  for logits, *_ in views:
    weights = jnp.asarray(weights_of(logits.shape[1], height), logits.dtype)
    # Padding rows of the last slice have zero weights and are cut off below.
    weights = jnp.pad(weights, ((0, slices * _ROWS - height), (0, 0)))
    rows.append(weights.reshape(slices, _ROWS, -1))
    of_columns = jnp.asarray(weights_of(logits.shape[2], width), logits.dtype)
    columns.append(split_columns(of_columns))

  def classes_of_slice(rows):
    return combine(views, rows, columns).argmax(-1).astype(jnp.uint8)

  classes = jax.lax.map(classes_of_slice, rows).swapaxes(0, 1)
  return classes.reshape(classes.shape[0], slices * _ROWS, width)[:, :height]


def combine(
  views: Views,
  rows: Sequence[Float[Array, "height _"]],
  columns: Sequence[Float[Array, "width _"]],
) -> Float[Array, "b height width c"]:
  """Upsamples every view and averages their probabilities.

  Args:
    views: logits made by `make_views`.
    rows: [H, h] weights for each scale, see `resize.resize_weights`.
    columns: [W, w] weights for each scale.

  Returns:
    The mean probabilities, 0..1; the logits if there is a single view.
  """
  if len(views) == len(views[0]) == 1:
    return interpolate(views[0][0], rows[0], columns[0])
  total = 0.0
  for scale, row_weights, column_weights in zip(views, rows, columns, strict=True):
    as_seen, *mirrored = (
      jax.nn.softmax(interpolate(logits, row_weights, column_weights)) for logits in scale
    )
    # Mirrored back after upsampling and added first, so that a mirrored frame has exactly the
    # mirrored probabilities.
    total = total + sum((x[:, :, ::-1] for x in mirrored), start=as_seen)
  return total / sum(len(scale) for scale in views)


def depth_maps(
  outputs: Mapping[str, Float[Array, "b h w _"]],
  x: Float[Array, "b H W channels"],
  shape: tuple[Dim, Dim],
  *,
  method: str = "aligned",
) -> dict[str, Float[Array, "b height width"]]:
  """Depth of every pixel, and the disagreement of the two depth heads.

  Args:
    outputs: outputs of the network at its output stride.
    x: its inputs.
    shape: (H, W) of the maps, in pixels.
    method: how predictions are resized, as of `class_map`.

  Returns:
    With depth heads "inverse_depth" of the one trained on the target, and "difficulty", 0..1; of a
    network that sees depth and has no heads the "inverse_depth" that it sees; else nothing.
  """
  if "D" not in outputs:
    if x.shape[-1] == 3:
      return {}
    return {"inverse_depth": resize_centered(seen_inverse_depth(x)[..., None], shape)[..., 0]}
  target, source = (resize(outputs[name], shape, method)[..., 0] for name in ("D", "D_src"))
  return {"inverse_depth": target, "difficulty": difficulty(source, target)}
