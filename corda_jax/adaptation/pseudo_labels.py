"""Labels that the teacher gives to the target, and how far each pixel of them is trusted."""

import jax
import jax.numpy as jnp

from corda_jax.depth.inverse_depth import NO_DEPTH
from corda_jax.typing import Array, Bool, Float, Integer


def pseudo_labels(
  logits: Float[Array, "b h w classes"], mirrored: Float[Array, "b h w classes"] | None = None
) -> tuple[Integer[Array, "b h w"], Float[Array, "b h w"]]:
  """Most probable class of every pixel, and its probability.

  Args:
    logits: [B, H, W, num_classes] of the teacher.
    mirrored: those of the mirrored images; probabilities are then averaged.

  Returns:
    int32[B, H, W] classes, and their probabilities [B, H, W], 0..1.
  """
  if mirrored is not None:
    mean = (jax.nn.softmax(logits) + jax.nn.softmax(mirrored)[:, :, ::-1]) / 2
    return mean.argmax(-1).astype(jnp.int32), mean.max(-1)
  confidence = jnp.exp(logits.max(-1) - jax.nn.logsumexp(logits, axis=-1))
  return logits.argmax(-1).astype(jnp.int32), confidence


def confident_fraction(
  confidence: Float[Array, "b h w"], *, threshold: float, over: str
) -> Float[Array, "b _ _"]:
  """Share of pixels whose confidence reaches a threshold. Source: DACS, and its release.

  Args:
    confidence: [B, H, W] of `pseudo_labels`.
    threshold: 0..1, least confidence of a confident pixel.
    over: "batch", as released: one share for all images; "image": each image has its own; or
      "pixel": 1 where a pixel is confident, 0 elsewhere.

  Returns:
    [B, 1, 1], 0..1, of the dtype of `confidence`; the same value B times over a batch. Over a
    pixel [B, H, W].
  """
  confident = (confidence >= threshold).astype(confidence.dtype)
  if over == "pixel":
    return confident
  axes = {"batch": (0, 1, 2), "image": (1, 2)}[over]
  share = confident.mean(axes, keepdims=True)
  return jnp.broadcast_to(share, (len(confidence), 1, 1))


def trusted(
  border: Integer[Array, "b 4"], size: tuple[int, int], margins: tuple[int, int, int, int]
) -> Bool[Array, "b {size[0]} {size[1]}"]:
  """Pixels of crops that are not in the margins of their frames.

  Args:
    border: pixels of the frame above, below, left and right of the crop.
    size: (H, W) of the crops.
    margins: (top, bottom, left, right) of a frame, in pixels.
  """
  inside = []
  for axis, length in enumerate(size):
    before, after = (border[:, 2 * axis + side] - margins[2 * axis + side] for side in (0, 1))
    place = jnp.arange(length, dtype=border.dtype)
    inside.append((place + before[:, None] >= 0) & (length - 1 - place + after[:, None] >= 0))
  rows, columns = inside
  return rows[:, :, None] & columns[:, None, :]


def depth_discrepancy_weight(
  source_head: Float[Array, "b h w"],
  target_head: Float[Array, "b h w"],
  inverse_depth: Float[Array, "b h w"],
  *,
  floor: float,
) -> Float[Array, "b h w"]:
  """Trust in a pixel by how well the source's and the target's depth heads agree on it.

  `w = clip(relu(1 - |D_src - D| / Y) + floor + [Y == 1], 0, 1)`: low where adaptation is difficult,
  full where there is no depth to judge by. Source: CorDA, equations 7 and 8, and the release
  (floor, clip).

  Args:
    source_head: [B, H, W], inverse depth by the head trained on the source.
    target_head: [B, H, W], inverse depth by the head trained on the target.
    inverse_depth: [B, H, W], Y, 1 where unknown.
    floor: least weight.

  Returns:
    [B, H, W], 0..1, constant to the gradient.
  """
  if not source_head.shape == target_head.shape == inverse_depth.shape:
    raise ValueError(
      "three maps of one shape expected, got "
      f"{source_head.shape}, {target_head.shape}, {inverse_depth.shape}"
    )
  agreement = jax.nn.relu(1 - jnp.abs(source_head - target_head) / inverse_depth)
  unknown = (inverse_depth == NO_DEPTH).astype(agreement.dtype)
  return jax.lax.stop_gradient(jnp.clip(agreement + floor + unknown, 0, 1))


def difficulty(
  source_head: Float[Array, "b h w"], target_head: Float[Array, "b h w"]
) -> Float[Array, "b h w"]:
  """How far the two depth heads differ, where no depth is measured: of the depth itself.

  Args:
    source_head: [B, H, W], inverse depth by the head trained on the source.
    target_head: [B, H, W], that by the head trained on the target, taken as the truth.

  Returns:
    [B, H, W], 0..1.
  """
  return jnp.clip(jnp.abs(source_head - target_head) / jnp.maximum(target_head, 1), 0, 1)


def pixel_weights(
  mask: Bool[Array, "b h w"],
  target_weight: Float[Array, " b #h #w"],
  depth_weight: Float[Array, "b h w"] | None,
  *,
  divide_depth_weight_by_mean: bool,
  share_depth_weight_across_batch: bool,
) -> Float[Array, "b h w"]:
  """Weight of every pixel of the mixed image in its cross-entropy.

  Source pixels weigh 1 and target pixels `target_weight`; both times the depth weight.

  Args:
    mask: bool[B, H, W], True where the mixed image shows the source.
    target_weight: [B, 1, 1] or [B, H, W], such as `confident_fraction`.
    depth_weight: [B, H, W] of `depth_discrepancy_weight`, or None for no such weight.
    divide_depth_weight_by_mean: whether the depth weights are scaled to a mean of one over the
      batch, as released.
    share_depth_weight_across_batch: as published, a pixel is weighted by its own depth weight
      (False). In the release a broadcast gives each image, at each pixel, the mean of the weights
      of all images of the batch (True).

  Returns:
    [B, H, W] of the dtype of `target_weight`.
  """
  weight = jnp.where(mask, jnp.ones((), target_weight.dtype), target_weight)
  if depth_weight is None:
    return weight
  if divide_depth_weight_by_mean:
    # No pixel of the batch may be trusted: then all weigh nothing, and nothing is divided by zero.
    depth_weight = depth_weight / jnp.maximum(
      depth_weight.mean(), jnp.finfo(depth_weight.dtype).tiny
    )
  if share_depth_weight_across_batch:
    depth_weight = depth_weight.mean(0, keepdims=True)
  return weight * depth_weight
