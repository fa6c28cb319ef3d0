"""Masked consistency: the student predicts what it cannot see from what is around."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from corda_jax.adaptation.color_augmentation import ColorAugmentation
from corda_jax.adaptation.terms.base import (
  Context,
  Found,
  Loss,
  Maps,
  Pass,
  PassInput,
  Term,
  semantic_losses,
)
from corda_jax.configuration import check_at_least, check_one_of, check_within
from corda_jax.models.operations import hide_blocks
from corda_jax.typing import Array, Key

_KEY = 2000  # folded into the key of the step


@dataclasses.dataclass(frozen=True)
class MaskedConsistency(Term):
  """Cross-entropy of the masked target to the teacher's labels of the whole one: "ce_masked".

  Source: MIC (Hoyer et al., CVPR 2023); of patches: VFM-UDA (Englert et al., CVPRW 2024).

  Attributes:
    weight: weight of the loss.
    hidden: what is hidden: square "blocks" of the image, by its mean colour after augmentation; or
      the "patches" of a Vision Transformer, by its mask token. Depth that the network sees stays.
    block: side of a block, in pixels.
    ratio: share of blocks or patches that are hidden, on average.
    augmentation: of the target, before it is masked.
  """

  weight: float = 1.0
  hidden: str = "blocks"
  block: int = 64
  ratio: float = 0.7
  augmentation: ColorAugmentation = ColorAugmentation(
    jitter_strength=0.2, hsv_epsilon=1e-6, sample_for="batch"
  )

  passes: ClassVar[tuple[str, ...]] = ("mixed", "masked")

  def __post_init__(self):
    check_at_least(self, weight=0, block=1)
    check_one_of(self, hidden=("blocks", "patches"))
    check_within(self, ratio=(0, 1))

  def sample(self, key: Key[Array, ""], batch: Maps, step: Any) -> dict[str, Any]:
    """As in the base class: "seen", bool of each block or patch, and those of the augmentation."""
    of_mask, *others = jax.random.split(jax.random.fold_in(key, _KEY), 5)
    count, *size = batch["target_image"].shape[:3]
    if self.hidden == "blocks":
      grid = tuple(round(n / self.block) for n in size)
    else:
      grid = step.model.encoder.grid(tuple(size))
    drawn = jax.random.uniform(of_mask, (count, *(max(n, 1) for n in grid)))
    return {"seen": drawn > self.ratio, **self.augmentation.sample(others, count)}

  def images(self, context: Context) -> dict[str, PassInput]:
    """As in the base class."""
    draws, image = context.draws, context.inputs["target_image"]
    image = self.augmentation.augment(image, draws, context.step.normalization)
    if self.hidden == "patches":
      return {"masked": PassInput(image, draws["seen"])}
    colors = hide_blocks(image[..., :3], draws["seen"])
    return {"masked": PassInput(jnp.concatenate([colors, image[..., 3:]], axis=-1))}

  def losses(self, passes: Mapping[str, Pass], context: Context) -> Found:
    """As in the base class."""
    mixed = context.mixed
    weights = jnp.broadcast_to(mixed["target_weight"], mixed["label"].shape)
    losses = semantic_losses(passes["masked"], mixed["pseudo_label"], weights, mean_over="all")
    losses = {
      "ce_masked" + suffix: Loss(value, self.weight * weight)
      for suffix, (value, weight) in losses.items()
    }
    return Found(losses, maps={"masked_image": passes["masked"].image})
