"""Supervision by the source's labels."""

import dataclasses
from collections.abc import Mapping

from corda_jax.adaptation.terms.base import Context, Found, Loss, Pass, Term, semantic_heads
from corda_jax.losses import cross_entropy


@dataclasses.dataclass(frozen=True)
class SourceSupervision(Term):
  """Cross-entropy of all semantic predictions on the source: "ce_src"."""

  def losses(self, passes: Mapping[str, Pass], context: Context) -> Found:
    """As in the base class."""
    label = context.inputs["source_label"]
    heads = semantic_heads(passes["source"].outputs)
    return Found({"ce_src" + s: Loss(cross_entropy(logits, label)) for s, logits in heads.items()})
