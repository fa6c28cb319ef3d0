"""The mixed image: source classes pasted onto a target image, then augmented."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from corda_jax.adaptation import class_mix
from corda_jax.adaptation.color_augmentation import ColorAugmentation
from corda_jax.adaptation.depth_filter import DepthFilter, Domain
from corda_jax.adaptation.teacher import PseudoLabels
from corda_jax.configuration import check_one_of
from corda_jax.models.normalization import Normalization
from corda_jax.typing import Array, Integer, Key

Maps = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Mixing:
  """ClassMix (Olsson et al., WACV 2021) across domains, as DACS has it.

  Attributes:
    paste_ignored: whether ignored source pixels are a class that can be pasted, as released.
    classes_from: whose classes half are pasted of: those of each "image", as published, or of the
      "batch", of which an image may lack some (DAFormer's release).
    depth_filter: drops pasted classes by their depth.
    augmentation: of the mixed image.
    weak: of the source that the student sees, and of the target before it is mixed; what is pasted
      and what the teacher sees are as they were.
  """

  paste_ignored: bool = True
  classes_from: str = "image"
  depth_filter: DepthFilter = DepthFilter()
  augmentation: ColorAugmentation = ColorAugmentation()
  weak: ColorAugmentation = ColorAugmentation(jitter_probability=0.0, blur_probability=0.0)

  def __post_init__(self):
    check_one_of(self, classes_from=("image", "batch"))

  def sample(
    self, key: Key[Array, ""], source_label: Integer[Array, "b h w"], num_classes: int
  ) -> dict[str, Any]:
    """Samples what is random in a mixed image.

    Args:
      key: PRNG key of the step.
      source_label: training ids, 0..num_classes - 1 or 255.
      num_classes: semantic classes.

    Returns:
      "mix_mask" bool[B, H, W] (True: source), and what `ColorAugmentation.sample` gives.
    """
    class_key, *augmentation_keys = jax.random.split(key, 5)
    present = class_mix.present_classes(
      source_label,
      num_classes,
      ignored_is_a_class=self.paste_ignored,
      of_batch=self.classes_from == "batch",
    )
    mask = class_mix.mix_mask(source_label, class_mix.draw_classes(class_key, present))
    batch = source_label.shape[0]
    return {"mix_mask": mask} | self.augmentation.sample(augmentation_keys, batch)

  def mix(
    self,
    taught: PseudoLabels,
    inputs: Maps,
    draws: Mapping[str, Any],
    *,
    normalization: Normalization,
    num_classes: int,
    step: jax.Array,
  ) -> dict[str, Array]:
    """Pastes source classes onto the target, and gives the target the teacher's labels.

    Args:
      taught: the target's labels.
      inputs: inputs of `AdaptationStep.prepare`.
      draws: random choices of `sample`.
      normalization: between network inputs and colours.
      num_classes: semantic classes.
      step: int32 scalar, number of the step.

    Returns:
      "mask" bool[B, H, W] (True: source), "image" [B, H, W, C] as network input, augmented, "label"
      int32[B, H, W], "inverse_depth" [B, H, W], "pseudo_label" int32[B, H, W] of the target and its
      "confidence" [B, H, W], "confident_fraction" [B, 1, 1] or, over pixels, [B, H, W], and
      "target_weight", the same or, with margins that are not trusted, [B, H, W].
    """
    mask = draws["mix_mask"]
    with jax.named_scope("mixed"):
      mask = self.depth_filter.keep(
        mask,
        Domain(inputs["source_label"], inputs["source_inverse_depth"]),
        Domain(taught.label, inputs["target_inverse_depth"]),
        num_classes=num_classes,
        step=step,
      )
      image = class_mix.mix(mask, inputs["source_image"], inputs["target_image"])
      label = class_mix.mix(mask, inputs["source_label"].astype(jnp.int32), taught.label)
      depths = (inputs[f"{domain}_inverse_depth"] for domain in ("source", "target"))
      return {
        "mask": mask,
        "image": self.augmentation.augment(image, draws, normalization),
        "label": label,
        "inverse_depth": class_mix.mix(mask, *depths),
        "pseudo_label": taught.label,
        "confidence": taught.confidence,
        "confident_fraction": taught.fraction,
        "target_weight": taught.weight,
      }
