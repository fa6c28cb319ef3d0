"""The losses of the method.

Semantic losses take logits [..., num_classes] and integer labels [...]; depth losses take inverse
depth [...], where exactly 1 marks a pixel without depth. All return a scalar of the dtype of the
predictions.
"""

import jax
import jax.numpy as jnp

from corda_jax.depth.inverse_depth import NO_DEPTH
from corda_jax.labels import IGNORE
from corda_jax.typing import Array, Float, Integer


def _pixel_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
  """Cross-entropy of every pixel, zero where the label is ignored, and the mask of valid pixels."""
  if logits.shape[:-1] != labels.shape:
    raise ValueError(
      f"logits {logits.shape} and labels {labels.shape} differ in more than the class axis"
    )
  valid = labels != IGNORE
  # Selected by a comparison, not by an index: the gradient of indexing is a scatter into zeros of
  # the logits' size, that of a comparison is fused with the softmax.
  places = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
  chosen = jnp.where(places == labels[..., None].astype(jnp.int32), logits, 0).sum(-1)
  entropy = jax.nn.logsumexp(logits, axis=-1) - chosen
  return jnp.where(valid, entropy, 0.0), valid


def cross_entropy(
  logits: Float[Array, "*pixels classes"],
  labels: Integer[Array, "*pixels"],
  weights: Float[Array, "*pixels"] | None = None,
  *,
  mean_over: str = "valid",
) -> Float[Array, ""]:
  """Mean cross-entropy, of pixels that may have weights; zero where the label is 255.

  Args:
    logits: [..., num_classes].
    labels: integers [...], 0..num_classes - 1 or 255.
    weights: [...], non-negative; None: all are 1. Pass constants: no gradient should flow into
      them.
    mean_over: what the sum is divided by: the number of "all" pixels or of those whose label is not
      255 ("valid").
  """
  entropy, valid = _pixel_cross_entropy(logits, labels)
  if weights is not None:
    if weights.shape != labels.shape:
      raise ValueError(f"weights {weights.shape} and labels {labels.shape} differ in shape")
    entropy = entropy * weights
  count = {"all": valid.size, "valid": jnp.maximum(valid.sum(), 1)}[mean_over]
  return entropy.sum() / jnp.asarray(count, logits.dtype)


def berhu(prediction: Float[Array, "*pixels"], target: Float[Array, "*pixels"]) -> Float[Array, ""]:
  """Reverse Huber loss of inverse depth, mean over the pixels where the target is not 1.

  With `e = prediction - target` and `c = 0.2 max|e|` over the valid pixels of the whole batch, a
  pixel costs `|e|` where `|e| <= c` and `(e² + c²) / (2c)` elsewhere. No gradient flows through
  c. Zero if no pixel is valid. Source: Laina et al., 3DV 2016; masking and scope of c as
  released.

  Args:
    prediction: [...], inverse depth.
    target: [...], inverse depth, 1 where unknown.
  """
  if prediction.shape != target.shape:
    raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape")
  valid = target != NO_DEPTH
  error = jnp.where(valid, jnp.abs(prediction - target), 0.0)
  threshold = jax.lax.stop_gradient(0.2 * error.max())
  safe = jnp.where(threshold > 0, threshold, 1.0)  # keeps 0/0 out of values and gradients
  quadratic = (error**2 + threshold**2) / (2 * safe)
  cost = jnp.where(error <= threshold, error, quadratic)
  return cost.sum() / jnp.maximum(valid.sum(), 1).astype(prediction.dtype)
