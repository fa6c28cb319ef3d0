"""The teacher: an average of the student over time, whose labels the target is trained with."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from corda_jax.adaptation import pseudo_labels
from corda_jax.configuration import check_at_least, check_one_of, check_within
from corda_jax.resize import resize
from corda_jax.training.state import TrainState, update_teacher
from corda_jax.typing import Array, Float, Integer

Maps = Mapping[str, jax.Array]


class PseudoLabels(NamedTuple):
  """What the teacher says of the target.

  Attributes:
    label: training ids.
    confidence: its probability, 0..1.
    fraction: share of confident pixels, [B, 1, 1] or, over pixels, [B, H, W].
  """

  label: Integer[Array, "b h w"]
  confidence: Float[Array, "b h w"]
  fraction: Float[Array, "b _ _"]


@dataclasses.dataclass(frozen=True)
class Teacher:
  """The mean teacher (Tarvainen and Valpola, NIPS 2017), as released.

  Attributes:
    decay: share of itself that it keeps in a step, in the long run.
    normalization: statistics that it normalises by: those of the "batch" or its "running" ones.
    statistics: its running statistics: its "own" passes', or a moving "average" of the student's.
    initial_label_steps: so many first steps take the labels from "initial_S", if there is one, and
      not from "S".
    confidence_threshold: least probability of a confident pixel.
    fraction_over: pixels whose confident share weighs the labels: of the "batch", of each "image",
      or each "pixel" by itself, so that those in doubt weigh nothing.
  """

  decay: float = 0.999
  normalization: str = "batch"
  statistics: str = "own"
  initial_label_steps: int = 25_001
  confidence_threshold: float = 0.968
  fraction_over: str = "batch"

  def __post_init__(self):
    check_within(self, decay=(0, 1), confidence_threshold=(0, 1))
    check_at_least(self, initial_label_steps=0)
    check_one_of(
      self,
      normalization=("batch", "running"),
      statistics=("own", "average"),
      fraction_over=("batch", "image", "pixel"),
    )
    if self.normalization == "running" and self.statistics == "own":
      raise ValueError(
        "normalization is 'running', but a teacher's own statistics change only where it "
        "normalises by the batch: set statistics='average'"
      )

  def label(
    self, outputs: Maps, step: jax.Array, inputs: Mapping[str, Any], method: str = "aligned"
  ) -> PseudoLabels:
    """Labels of the target at full size.

    Args:
      outputs: its predictions on the target, at the output stride.
      step: int32 scalar, number of the step.
      inputs: inputs of the step.
      method: how predictions are resized, as of `resize`.
    """
    logits = outputs["S"]
    if "initial_S" in outputs and self.initial_label_steps:
      logits = jnp.where(step < self.initial_label_steps, outputs["initial_S"], logits)
    size = inputs["source_label"].shape[1:]
    label, confidence = pseudo_labels.pseudo_labels(resize(logits, size, method))
    fraction = pseudo_labels.confident_fraction(
      confidence, threshold=self.confidence_threshold, over=self.fraction_over
    )
    return PseudoLabels(label, confidence, fraction)

  def follow(self, state: TrainState, params: Any) -> dict[str, Any]:
    """The teacher's fields of the state after an update of the student.

    Args:
      state: before the update, but with the statistics of its passes.
      params: the student's, after it.
    """
    stats = state.teacher_batch_stats
    if self.statistics == "average":
      stats = update_teacher(stats, state.batch_stats, state.step, self.decay)
    teacher = update_teacher(state.teacher_params, params, state.step, self.decay)
    return {"teacher_params": teacher, "teacher_batch_stats": stats}
