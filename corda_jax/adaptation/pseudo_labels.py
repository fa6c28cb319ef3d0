"""Labels that the teacher gives to the target, and how far each pixel of them is trusted."""

import jax
import jax.numpy as jnp

from corda_jax.losses import NO_DEPTH


def pseudo_labels(logits: jax.Array, *, threshold: float) -> tuple[jax.Array, jax.Array]:
  """Most probable class of every pixel, and the share of confident pixels in the batch.

  Args:
    logits: [B, H, W, num_classes] of the teacher.
    threshold: 0..1, least probability of a confident pixel.

  Returns:
    int32[B, H, W] classes, and a scalar: the fraction of all pixels of the batch whose largest
    probability reaches `threshold`.
  """
  confidence = jnp.exp(logits.max(-1) - jax.nn.logsumexp(logits, axis=-1))
  confident = (confidence >= threshold).astype(logits.dtype)
  return logits.argmax(-1).astype(jnp.int32), confident.mean()


def depth_discrepancy_weight(
  source_head: jax.Array, target_head: jax.Array, inverse_depth: jax.Array, *, floor: float
) -> jax.Array:
  """Trust in a pixel by how well the source's and the target's depth heads agree on it.

  w = clip(relu(1 - |D_src - D| / Y) + floor + [Y == 1], 0, 1), divided by its mean over the batch:
  low where adaptation is difficult, full where there is no depth to judge by. Source: CorDA,
  equations 7 and 8, and the release (floor, clip, normalisation).

  Args:
    source_head: [B, H, W], inverse depth by the head trained on the source.
    target_head: [B, H, W], inverse depth by the head trained on the target.
    inverse_depth: [B, H, W], Y, 1 where unknown.
    floor: least weight before the normalisation, above zero.

  Returns:
    [B, H, W] with mean one, constant to the gradient.
  """
  if not source_head.shape == target_head.shape == inverse_depth.shape:
    raise ValueError(
      "three maps of one shape wanted, got "
      f"{source_head.shape}, {target_head.shape}, {inverse_depth.shape}"
    )
  agreement = jax.nn.relu(1 - jnp.abs(source_head - target_head) / inverse_depth)
  unknown = (inverse_depth == NO_DEPTH).astype(agreement.dtype)
  weight = jnp.clip(agreement + floor + unknown, 0, 1)
  return jax.lax.stop_gradient(weight / weight.mean())


def pixel_weights(
  mask: jax.Array,
  confident_fraction: jax.Array,
  depth_weight: jax.Array | None,
  *,
  share_depth_weight_across_batch: bool,
) -> jax.Array:
  """Weight of every pixel of the mixed image in its cross-entropy.

  Source pixels weigh 1 and target pixels `confident_fraction`; both times the depth weight.

  Args:
    mask: bool[B, H, W], True where the mixed image shows the source.
    confident_fraction: scalar of `pseudo_labels`.
    depth_weight: [B, H, W] of `depth_discrepancy_weight`, or None for no such weight.
    share_depth_weight_across_batch: as published, a pixel is weighted by its own depth weight
      (False). In the release a broadcast gives each image, at each pixel, the mean of the weights
      of all images of the batch (True).

  Returns:
    [B, H, W] of the dtype of `confident_fraction`.
  """
  weight = jnp.where(mask, jnp.ones((), confident_fraction.dtype), confident_fraction)
  if depth_weight is None:
    return weight
  if share_depth_weight_across_batch:
    depth_weight = depth_weight.mean(0, keepdims=True)
  return weight * depth_weight
