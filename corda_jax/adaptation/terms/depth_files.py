"""Depth heads that learn from depth files."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

from corda_jax.adaptation import class_mix
from corda_jax.adaptation.terms.base import Context, Found, Loss, Pass, Term, depth_heads
from corda_jax.configuration import check_at_least, check_subset
from corda_jax.depth.inverse_depth import NO_DEPTH
from corda_jax.losses import berhu


@dataclasses.dataclass(frozen=True)
class DepthFiles(Term):
  """BerHu loss of inverse depth: "berhu_src" on the source, "berhu_mix" on the mixed image.

  Attributes:
    domains: whose files are learned from.
    source_weight: weight of the loss on the source.
    mixed_weight: weight of the loss on the mixed image, if there is one.
  """

  domains: tuple[str, ...] = ("source", "target")
  source_weight: float = 0.01
  mixed_weight: float = 0.001

  def __post_init__(self):
    check_subset(self, domains=("source", "target"))
    check_at_least(self, source_weight=0, mixed_weight=0)

  def depth_from(self, domain: str) -> str | None:
    """As in the base class."""
    return "files" if domain in self.domains else None

  def losses(self, passes: Mapping[str, Pass], context: Context) -> Found:
    """As in the base class."""
    losses = {}
    if "source" in self.domains:
      depth = context.inputs["source_inverse_depth"]
      for suffix, head in depth_heads(passes["source"].outputs, "source").items():
        losses["berhu_src" + suffix] = Loss(berhu(head, depth), self.source_weight)
    if "mixed" in passes and self.domains:
      mask, depth = context.mixed["mask"], context.mixed["inverse_depth"]
      known = (
        depth if domain in self.domains else jnp.full_like(depth, NO_DEPTH)
        for domain in ("source", "target")
      )
      depth = class_mix.mix(mask, *known)
      outputs = passes["mixed"].outputs
      source_heads = depth_heads(outputs, "source")
      for suffix, head in depth_heads(outputs, "target").items():
        prediction = class_mix.mix(mask, source_heads[suffix], head)
        losses["berhu_mix" + suffix] = Loss(berhu(prediction, depth), self.mixed_weight)
    return Found(losses)
