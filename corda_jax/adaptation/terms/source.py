"""Supervision by the source's labels."""

import dataclasses
from collections.abc import Mapping

from corda_jax.adaptation.terms.base import Context, Found, Pass, Term, semantic_losses
from corda_jax.configuration import check_one_of


@dataclasses.dataclass(frozen=True)
class SourceSupervision(Term):
  """Cross-entropy of all semantic predictions on the source: "ce_src".

  Attributes:
    mean_over: what it is averaged over: the "valid" pixels, which have a label, or "all", where
      ignored ones count as zeros (DAFormer's release).
  """

  mean_over: str = "valid"

  def __post_init__(self):
    check_one_of(self, mean_over=("valid", "all"))

  def losses(self, passes: Mapping[str, Pass], context: Context) -> Found:
    """As in the base class."""
    label = context.inputs["source_label"]
    losses = semantic_losses(passes["source"], label, mean_over=self.mean_over)
    return Found({"ce_src" + suffix: loss for suffix, loss in losses.items()})
