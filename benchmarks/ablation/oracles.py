"""Variants that use forbidden knowledge: how much can a part of the method be worth?

What would be gained if wrong pseudo-labels had no weight? If all of them were right? If depth were
observed instead of predicted? All variants are mixing (DACS), where nothing reads the target's
depth; the true labels of the target reach the step in its place.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from benchmarks.ablation.variants import DEPTH_SEEN, EMPTY_INPUT, NO_BLUE, RIGHT_ALONE, TRUE_LABELS
from benchmarks.ablation.world import Frames
from corda_jax.adaptation.teacher import Teacher
from corda_jax.adaptation.terms.mixed import MixedSelfTraining
from corda_jax.depth.inverse_depth import NO_DEPTH

_FARTHEST, _NEAREST = 2.0, 400.0  # inverse depths that are black and white: 655 m and 1.6 m


def frames_of_variant(variant: str, frames: Frames, *, target: bool) -> Frames:
  """The frames that a variant sees; those of variants that are no oracles are unchanged.

  Args:
    variant: variant of the ablation.
    frames: frames of one domain.
    target: whether they are those that the target is trained on.
  """
  if variant in (NO_BLUE, DEPTH_SEEN):
    image = frames.image.copy()
    image[..., 2] = _nearness(frames.inverse_depth) if variant == DEPTH_SEEN else 0
    frames = frames._replace(image=image)
  if variant == EMPTY_INPUT:
    frames = frames._replace(inverse_depth=np.full_like(frames.inverse_depth, NO_DEPTH))
  if variant in (RIGHT_ALONE, TRUE_LABELS) and target:
    frames = frames._replace(inverse_depth=frames.label.astype(np.float32))
  return frames


def _nearness(inverse_depth: np.ndarray) -> np.ndarray:
  """Logarithm of the inverse depth as uint8; 0 where there is no depth."""
  share = np.log(np.maximum(inverse_depth, 1) / _FARTHEST) / np.log(_NEAREST / _FARTHEST)
  return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class RightAlone(MixedSelfTraining):
  """Wrong pseudo-labels have no weight, nor have pixels without a true label (the hood)."""

  def weigh(self, student, context):
    """The confident fraction where the pseudo-label is right."""
    mixed, truth = context.mixed, context.inputs["target_inverse_depth"]
    right = mixed["pseudo_label"] == truth.astype(jnp.int32)
    fraction = mixed["confident_fraction"]
    return jnp.where(mixed["mask"], 1, jnp.where(right, fraction, 0)).astype(fraction.dtype), None


@dataclasses.dataclass(frozen=True)
class TrueLabels(Teacher):
  """The teacher is always right; its weight still follows from its own confidence."""

  def label(self, outputs, step, inputs, method="aligned"):
    """As in the base class, with the target's true labels."""
    truth = inputs["target_inverse_depth"].astype(jnp.int32)
    return super().label(outputs, step, inputs, method)._replace(label=truth)
