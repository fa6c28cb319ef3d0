"""What is random in a training step, drawn apart from the arithmetic that uses it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from corda_jax.adaptation import class_mix, strong_augmentation
from corda_jax.models.build import Normalization


def draw(key: jax.Array, source_label: jax.Array, num_classes: int, config: Any) -> dict[str, Any]:
  """Draws everything that is random in a step.

  Args:
    key: PRNG key of this step.
    source_label: integers [B, H, W].
    num_classes: semantic classes.
    config: the `method` part of a configuration.

  Returns:
    "mix_mask" bool[B, H, W] (True: source), "use_jitter" and "use_blur" bool[] or, decided for
    each image, bool[B], "jitter" as of `draw_jitter`, "blur_sigma" float32[B], "noise", keys of the
    photometric losses by domain.
  """
  keys = jax.random.split(key, 5)
  batch = source_label.shape[0]
  present = class_mix.present_classes(
    source_label, num_classes, ignored_is_a_class=config.mix_ignored
  )
  chosen = class_mix.draw_classes(keys[0], present)
  augmentation = config.strong_augmentation
  decisions = (batch,) if augmentation.decide_for == "image" else ()
  return {
    "mix_mask": class_mix.mix_mask(source_label, chosen),
    "use_jitter": jax.random.bernoulli(keys[1], augmentation.jitter_probability, decisions),
    "jitter": strong_augmentation.draw_jitter(
      keys[2], batch, strength=augmentation.jitter_strength
    ),
    "use_blur": jax.random.bernoulli(keys[3], augmentation.blur_probability, decisions),
    "blur_sigma": strong_augmentation.draw_blur(
      keys[4], batch, sigma_range=tuple(augmentation.blur_sigma)
    ),
    # Beside the split above, whose keys are those of 0, 1, …: another one there would change all.
    "noise": {
      domain: jax.random.fold_in(key, number)
      for number, domain in enumerate(("source", "target"), start=len(keys))
    },
  }


def augment(
  x: jax.Array, draws: Mapping[str, Any], normalization: Normalization, config: Any
) -> jax.Array:
  """Applies the drawn jitter and blur to network inputs [B, H, W, 3].

  Args:
    x: network inputs.
    draws: of `draw`.
    normalization: between network inputs and colours.
    config: the `method.strong_augmentation` part of a configuration.
  """

  def jitter(x):
    unit = normalization.to_unit_range(x)
    changed = strong_augmentation.color_jitter(
      unit, draws["jitter"], brightness_mode=config.brightness
    )
    return normalization.from_unit_range(changed)

  def blur(x):
    return strong_augmentation.gaussian_blur(x, draws["blur_sigma"])

  def apply_where(use, function, x):
    if use.ndim == 0:
      return jax.lax.cond(use, function, lambda x: x, x)
    return jnp.where(use[:, None, None, None], function(x), x)

  x = apply_where(draws["use_jitter"], jitter, x)
  return apply_where(draws["use_blur"], blur, x)
