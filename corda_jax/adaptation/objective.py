"""What a training step minimises: losses on the source and on the mixed image, and their sum."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from corda_jax.adaptation import class_mix, pseudo_labels
from corda_jax.adaptation.joint_depth import judged_inverse_depth, uses_files
from corda_jax.depth.inverse_depth import NO_DEPTH
from corda_jax.losses import berhu, cross_entropy, weighted_cross_entropy

# Outputs of the network by the losses' suffix; the depth heads trained on the target and on the
# source.
_SEMANTIC_HEADS = {"": "S", "_initial": "initial_S"}
_DEPTH_HEADS = {"": ("D", "D_src"), "_initial": ("initial_D", "initial_D_src")}


def depth_heads(outputs: Mapping[str, jax.Array], domain: str) -> dict[str, jax.Array]:
  """The heads that learn a domain's depth: suffix of their losses → prediction [B, H, W].

  Args:
    outputs: predictions [B, H, W, 1].
    domain: "source" or "target".
  """
  place = ("target", "source").index(domain)
  names = {suffix: heads[place] for suffix, heads in _DEPTH_HEADS.items()}
  return {suffix: outputs[name][..., 0] for suffix, name in names.items() if name in outputs}


def source_losses(
  outputs: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], config: Any
) -> dict[str, jax.Array]:
  """Supervised losses on the source: "ce_src", "berhu_src" and those of the initial predictions.

  Args:
    outputs: predictions at the label's size.
    batch: with "source_label" and "source_inverse_depth" [B, H, W].
    config: the `method` part of a configuration.
  """
  losses = {}
  for suffix, head in _SEMANTIC_HEADS.items():
    if head in outputs:
      losses["ce_src" + suffix] = cross_entropy(outputs[head], batch["source_label"])
  if uses_files(config.depth_supervision.source):
    for suffix, prediction in depth_heads(outputs, "source").items():
      losses["berhu_src" + suffix] = berhu(prediction, batch["source_inverse_depth"])
  return losses


def mixed_weights(
  student: Mapping[str, jax.Array],
  teacher: Mapping[str, jax.Array],
  mixed: Mapping[str, jax.Array],
  target_inverse_depth: jax.Array,
  config: Any,
) -> tuple[jax.Array, jax.Array | None]:
  """How much every pixel of the mixed image counts.

  Args:
    student: its predictions on the mixed image, at the label's size.
    teacher: its predictions on the target, at the label's size; depth is read if it is the judge.
    mixed: with "mask" bool[B, H, W], "inverse_depth" [B, H, W] and "confident_fraction" of
      `AdaptationStep.mix`.
    target_inverse_depth: [B, H, W].
    config: the `method` part of a configuration.

  Returns:
    Pixel weight [B, H, W]; depth weight [B, H, W], 0..1, or None where there is none.
  """
  depth_weight = None
  if config.depth_weight.enabled and "D" in student:
    supervision = config.depth_supervision

    def judged(outputs, domain, inverse_depth):
      head = depth_heads(outputs, domain)[""]
      return judged_inverse_depth(inverse_depth, head, supervision[domain])

    def discrepancy(outputs, inverse_depth):
      return pseudo_labels.depth_discrepancy_weight(
        outputs["D_src"][..., 0],
        outputs["D"][..., 0],
        inverse_depth,
        floor=config.depth_weight.floor,
      )

    if config.depth_weight.judge == "student":
      depth = mixed["inverse_depth"]
      source, target = (judged(student, domain, depth) for domain in ("source", "target"))
      depth_weight = discrepancy(student, class_mix.mix(mixed["mask"], source, target))
    else:  # the teacher saw the target alone: what is pasted over it has labels to be trusted
      depth_weight = discrepancy(teacher, judged(teacher, "target", target_inverse_depth))
      depth_weight = jnp.where(mixed["mask"], jnp.ones((), depth_weight.dtype), depth_weight)
  weights = pseudo_labels.pixel_weights(
    mixed["mask"],
    mixed["confident_fraction"],
    depth_weight,
    divide_depth_weight_by_mean=config.depth_weight.divide_by_mean,
    share_depth_weight_across_batch=config.depth_weight.share_across_batch,
  )
  return weights, depth_weight


def mixed_losses(
  outputs: Mapping[str, jax.Array],
  mixed: Mapping[str, jax.Array],
  weights: jax.Array,
  config: Any,
) -> dict[str, jax.Array]:
  """Losses on the mixed image: "ce_mix", "berhu_mix" and those of the initial predictions.

  Args:
    outputs: predictions at the label's size.
    mixed: with "mask" bool[B, H, W] (True: source), "label" [B, H, W] (source labels and
      pseudo-labels) and "inverse_depth" [B, H, W] (of both domains, 1 where unknown).
    weights: [B, H, W], pixel weights of `mixed_weights`.
    config: the `method` part of a configuration.
  """
  losses = {}
  for suffix, head in _SEMANTIC_HEADS.items():
    if head in outputs:
      losses["ce_mix" + suffix] = weighted_cross_entropy(
        outputs[head], mixed["label"], weights, mean_over=config.mixed_mean_over
      )
  supervision = config.depth_supervision
  if not (uses_files(supervision.source) or uses_files(supervision.target)):
    return losses
  depth = class_mix.mix(
    mixed["mask"],
    *(
      mixed["inverse_depth"]
      if uses_files(supervision[domain])
      else jnp.full_like(mixed["inverse_depth"], NO_DEPTH)
      for domain in ("source", "target")
    ),
  )
  source_heads = depth_heads(outputs, "source")
  for suffix, target_head in depth_heads(outputs, "target").items():
    prediction = class_mix.mix(mixed["mask"], source_heads[suffix], target_head)
    losses["berhu_mix" + suffix] = berhu(prediction, depth)
  return losses


def weighted_losses(losses: Mapping[str, jax.Array], config: Any) -> dict[str, jax.Array]:
  """The losses as they are added; those of depth weigh little, and differently on the two images.

  Args:
    losses: scalars, named as `source_losses` and `mixed_losses` name them.
    config: the `method` part of a configuration.
  """
  factors = {
    "ce_src": 1.0,
    "ce_mix": 1.0,
    "berhu_src": config.source_depth_loss_weight,
    "berhu_mix": config.mixed_depth_loss_weight,
    "photometric_src": config.photometric.source_weight,
    "photometric_mix": config.photometric.target_weight,
  }
  return {name: factors[name.removesuffix("_initial")] * losses[name] for name in sorted(losses)}


def total_loss(losses: Mapping[str, jax.Array], config: Any) -> jax.Array:
  """The scalar that a step minimises: the sum of `weighted_losses(losses, config)`."""
  return sum(weighted_losses(losses, config).values())
