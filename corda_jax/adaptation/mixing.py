"""The mixed image: source classes pasted onto a target image, then augmented."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from corda_jax.adaptation import class_mix
from corda_jax.adaptation.strong_augmentation import StrongAugmentation

Maps = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Mixing:
  """ClassMix (Olsson et al., WACV 2021) across domains, as DACS has it.

  Attributes:
    paste_ignored: whether ignored source pixels are a class that can be pasted, as released.
    augmentation: of the mixed image.
  """

  paste_ignored: bool = True
  augmentation: StrongAugmentation = StrongAugmentation()

  def sample(self, key: jax.Array, source_label: jax.Array, num_classes: int) -> dict[str, Any]:
    """Samples what is random in a mixed image.

    Args:
      key: PRNG key of the step.
      source_label: integers [B, H, W].
      num_classes: semantic classes.

    Returns:
      "mix_mask" bool[B, H, W] (True: source), and what `StrongAugmentation.sample` gives.
    """
    class_key, *augmentation_keys = jax.random.split(key, 5)
    present = class_mix.present_classes(
      source_label, num_classes, ignored_is_a_class=self.paste_ignored
    )
    mask = class_mix.mix_mask(source_label, class_mix.draw_classes(class_key, present))
    batch = source_label.shape[0]
    return {"mix_mask": mask} | self.augmentation.sample(augmentation_keys, batch)
