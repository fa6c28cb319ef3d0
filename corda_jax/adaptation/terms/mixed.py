"""Self-training on mixed images, pixels weighted by confidence and by depth discrepancy."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from corda_jax.adaptation import class_mix, pseudo_labels
from corda_jax.adaptation.depth_heads import positive
from corda_jax.adaptation.terms.base import (
  Context,
  Found,
  Maps,
  Pass,
  Term,
  depth_heads,
  semantic_losses,
)
from corda_jax.configuration import check_one_of, check_within
from corda_jax.depth.inverse_depth import NO_DEPTH


@dataclasses.dataclass(frozen=True)
class DepthWeight:
  """Trust in pixels by the discrepancy of the depth heads: CorDA, equations 7 and 8.

  Attributes:
    enabled: whether pseudo-labels are weighted by it, where the network has depth heads.
    judge: whose depth heads: the "student"'s on the mixed image or the "teacher"'s on the target.
    floor: least weight.
    divide_by_mean: whether weights are divided by their mean over the batch, as released.
    share_across_batch: the release's broadcast: each image has the mean weights of all images.
      Published: False.
  """

  enabled: bool = True
  judge: str = "student"
  floor: float = 0.001
  divide_by_mean: bool = True
  share_across_batch: bool = True

  def __post_init__(self):
    check_one_of(self, judge=("student", "teacher"))
    check_within(self, floor=(0, 1))


@dataclasses.dataclass(frozen=True)
class MixedSelfTraining(Term):
  """Weighted cross-entropy on the mixed image, of source labels and the teacher's: "ce_mix".

  Source: DACS (Tranheden et al., WACV 2021); with depth weights CorDA.

  Attributes:
    mean_over: what it is averaged over: "all" pixels (released: ignored ones count as zeros) or the
      "valid" ones.
    depth_weight: weight of the pixels.
  """

  mean_over: str = "all"
  depth_weight: DepthWeight = DepthWeight()

  passes: ClassVar[tuple[str, ...]] = ("mixed",)

  def __post_init__(self):
    check_one_of(self, mean_over=("all", "valid"))

  def losses(self, passes: Mapping[str, Pass], context: Context) -> Found:
    """As in the base class."""
    seen, mixed = passes["mixed"], context.mixed
    weights, depth_weight = self.weigh(seen.outputs, context)
    losses = semantic_losses(seen, mixed["label"], weights, mean_over=self.mean_over)
    losses = {"ce_mix" + suffix: loss for suffix, loss in losses.items()}
    metrics = {"confident_fraction": mixed["confident_fraction"].mean()}
    maps = {"pixel_weight": weights}
    if depth_weight is not None:
      metrics["depth_weight"] = depth_weight.mean()
      maps["depth_weight"] = depth_weight
    return Found(losses, metrics, maps)

  def weigh(self, student: Maps, context: Context) -> tuple[jax.Array, jax.Array | None]:
    """How much every pixel of the mixed image counts.

    Args:
      student: its predictions on the mixed image, at the size of the labels.
      context: context of the term.

    Returns:
      Pixel weight [B, H, W]; depth weight [B, H, W], 0..1, or None where there is none.
    """
    mixed, options = context.mixed, self.depth_weight
    depth_weight = None
    if options.enabled and "D" in student:
      if options.judge == "student":
        depth = mixed["inverse_depth"]
        source, target = (
          judged_inverse_depth(student, domain, depth, context.step.depth_from(domain))
          for domain in ("source", "target")
        )
        depth_weight = self._discrepancy(student, class_mix.mix(mixed["mask"], source, target))
      else:  # the teacher saw the target alone: what is pasted over it has labels to be trusted
        depth = context.inputs["target_inverse_depth"]
        depth = judged_inverse_depth(
          context.teacher, "target", depth, context.step.depth_from("target")
        )
        depth_weight = self._discrepancy(context.teacher, depth)
        depth_weight = jnp.where(mixed["mask"], jnp.ones((), depth_weight.dtype), depth_weight)
    weights = pseudo_labels.pixel_weights(
      mixed["mask"],
      mixed["target_weight"],
      depth_weight,
      divide_depth_weight_by_mean=options.divide_by_mean,
      share_depth_weight_across_batch=options.share_across_batch,
    )
    return weights, depth_weight

  def _discrepancy(self, outputs: Maps, inverse_depth: jax.Array) -> jax.Array:
    source_head, target_head = outputs["D_src"][..., 0], outputs["D"][..., 0]
    floor = self.depth_weight.floor
    return pseudo_labels.depth_discrepancy_weight(
      source_head, target_head, inverse_depth, floor=floor
    )


def judged_inverse_depth(
  outputs: Maps, domain: str, inverse_depth: jax.Array, depth_from: frozenset[str]
) -> jax.Array:
  """Y of the depth discrepancy `|D_src - D| / Y`: from files, else from the domain's own head.

  Args:
    outputs: predictions [B, H, W, 1].
    domain: "source" or "target".
    inverse_depth: [B, H, W] of the files, 1 where unknown.
    depth_from: what the domain's heads learn from, of "files" and "views". Nothing: no head learns
      it, so Y is unknown.
  """
  if "files" in depth_from:
    return inverse_depth
  if "views" in depth_from:
    return jax.lax.stop_gradient(positive(depth_heads(outputs, domain)[""]))
  return jnp.full_like(inverse_depth, NO_DEPTH)
