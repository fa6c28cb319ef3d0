"""ClassMix: paste half of a source image's classes onto a target image.

Olsson et al., WACV 2021; used across domains by DACS (Tranheden et al., WACV 2021).
"""

import jax
import jax.numpy as jnp

from corda_jax.labels import IGNORE
from corda_jax.typing import Array, Bool, Integer, Key, Shaped


def present_classes(
  labels: Integer[Array, "b h w"],
  num_classes: int,
  *,
  ignored_is_a_class: bool = True,
  of_batch: bool = False,
) -> Bool[Array, "b choices"]:
  """Which classes each label map holds.

  Args:
    labels: integers [B, H, W], 0..num_classes - 1 or 255.
    num_classes: number of classes.
    ignored_is_a_class: whether 255 counts as a class that can be pasted, as released.
    of_batch: whether every label map is said to hold what any of them holds.

  Returns:
    bool[B, num_classes + 1]; the last entry stands for 255.
  """
  classes = jnp.asarray([*range(num_classes), IGNORE], jnp.int32)
  present = jax.vmap(lambda c: (labels.astype(jnp.int32) == c).any((1, 2)), out_axes=1)(classes)
  if of_batch:
    present = jnp.broadcast_to(present.any(0), present.shape)
  return present if ignored_is_a_class else present.at[:, -1].set(False)


def draw_classes(
  key: Key[Array, ""], present: Bool[Array, "b choices"]
) -> Bool[Array, "b choices"]:
  """Draws ceil(n / 2) of the n classes present in each image, without replacement.

  Args:
    key: PRNG key.
    present: bool[B, K].

  Returns:
    bool[B, K]: the classes to paste.
  """
  scores = jnp.where(present, jax.random.uniform(key, present.shape), jnp.inf)
  rank = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
  count = (present.sum(1, keepdims=True) + 1) // 2
  return rank < count


def mix_mask(
  labels: Integer[Array, "b h w"], chosen: Bool[Array, "b choices"]
) -> Bool[Array, "b h w"]:
  """Bool [B, H, W], True where the mixed image shows the source.

  Args:
    labels: integers [B, H, W] of the source, 0..K - 2 or 255.
    chosen: bool[B, K], the classes to paste; the last entry stands for 255.
  """
  index = jnp.minimum(labels.astype(jnp.int32), chosen.shape[1] - 1)
  return jax.vmap(lambda c, i: c[i])(chosen, index)


def mix(
  mask: Bool[Array, "b h w"], source: Shaped[Array, "b h w *c"], target: Shaped[Array, "b h w *c"]
) -> Shaped[Array, "b h w *c"]:
  """Source where `mask` is True, target elsewhere; maps [B, H, W] or images [B, H, W, C]."""
  if source.shape != target.shape:
    raise ValueError(f"source {source.shape} and target {target.shape} differ in shape")
  if source.ndim == mask.ndim + 1:
    mask = mask[..., None]
  return jnp.where(mask, source, target)
