"""Rungs that know what no training may know: they tell how much a part of the method can be worth.

If wrong pseudo-labels weighed nothing at all, what would be gained? If all were right? If depth
were seen, not predicted? All are mixing (DACS), so that nothing reads the target's depth, in whose
place the true labels of the target reach the step.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.ladder_rungs import DEPTH_SEEN, NO_BLUE, RIGHT_ALONE, TRUE_LABELS
from benchmarks.world import Frames
from corda_jax.adaptation import class_mix
from corda_jax.adaptation.step import AdaptationStep
from corda_jax.jobs.experiment import Experiment

_FARTHEST, _NEAREST = 2.0, 400.0  # inverse depths that are black and white: 655 m and 1.6 m


def frames_of_rung(rung: str, frames: Frames, *, target: bool) -> Frames:
  """What a rung is shown and told of frames; of rungs that are no bounds all as it is.

  Args:
    rung: of the ladder.
    frames: of one domain.
    target: whether they are those that the target is trained on.
  """
  if rung in (NO_BLUE, DEPTH_SEEN):
    image = frames.image.copy()
    image[..., 2] = _nearness(frames.inverse_depth) if rung == DEPTH_SEEN else 0
    frames = frames._replace(image=image)
  if rung in (RIGHT_ALONE, TRUE_LABELS) and target:
    frames = frames._replace(inverse_depth=frames.label.astype(np.float32))
  return frames


def _nearness(inverse_depth: np.ndarray) -> np.ndarray:
  """uint8 of the logarithm; 0 where there is no depth."""
  share = np.log(np.maximum(inverse_depth, 1) / _FARTHEST) / np.log(_NEAREST / _FARTHEST)
  return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def experiment_of(rung: str, config: Any) -> Experiment:
  """The experiment of a rung.

  Raises:
    UserError: a value of the configuration cannot work.
  """
  experiment = Experiment.from_config(config)
  return dataclasses.replace(experiment, step_class=_STEPS.get(rung, AdaptationStep))


class _RightAlone(AdaptationStep):
  """Pseudo-labels that are wrong weigh nothing; so do pixels that have no true label (the hood)."""

  def weigh(self, student, teacher, mixed, inputs):
    """The confident fraction where the pseudo-label is right."""
    right = mixed["pseudo_label"] == inputs["target_inverse_depth"].astype(jnp.int32)
    fraction = mixed["confident_fraction"]
    return jnp.where(mixed["mask"], 1, jnp.where(right, fraction, 0)).astype(fraction.dtype), None


class _TrueLabels(AdaptationStep):
  """The teacher is always right; how far it is trusted stays what its own confidence gives."""

  def mix(self, outputs, step, inputs, draws):
    """As in the base class, with the target's true labels."""
    mixed = super().mix(outputs, step, inputs, draws)
    truth = inputs["target_inverse_depth"].astype(jnp.int32)
    source = inputs["source_label"].astype(jnp.int32)
    return mixed | {"label": class_mix.mix(mixed["mask"], source, truth)}


_STEPS = {RIGHT_ALONE: _RightAlone, TRUE_LABELS: _TrueLabels}
