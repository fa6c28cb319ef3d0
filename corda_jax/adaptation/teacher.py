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
    weight: the same, but 0 in margins that are not trusted, [B, H, W] where there are such.
  """

  label: Integer[Array, "b h w"]
  confidence: Float[Array, "b h w"]
  fraction: Float[Array, "b _ _"]
  weight: Float[Array, "b _ _"]


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
    update: when it follows the student: "after" the step or "before" it, so that it has not yet
      seen the step's update (DAFormer).
    updates_before: updates that its average counts as made before the first; with 0 the first one
      makes it a copy of the student.
    mirror: whether its labels come from the mean over the image and its mirror image.
    untrusted_margins: (top, bottom, left, right), pixels whose labels weigh nothing: the
      own car's hood and the distorted border of the image are there.
    margins_of: what they are the margins of: the whole "frame", or each "crop".
  """

  decay: float = 0.999
  normalization: str = "batch"
  statistics: str = "own"
  initial_label_steps: int = 25_001
  confidence_threshold: float = 0.968
  fraction_over: str = "batch"
  update: str = "after"
  updates_before: int = 0
  mirror: bool = False
  untrusted_margins: tuple[int, int, int, int] = (0, 0, 0, 0)
  margins_of: str = "frame"

  def __post_init__(self):
    check_within(self, decay=(0, 1), confidence_threshold=(0, 1))
    check_at_least(self, initial_label_steps=0, updates_before=0)
    check_one_of(
      self,
      normalization=("batch", "running"),
      statistics=("own", "average"),
      fraction_over=("batch", "image", "pixel"),
      update=("after", "before"),
      margins_of=("frame", "crop"),
    )
    margins = self.untrusted_margins
    if len(margins) != 4 or not all(isinstance(n, int) and n >= 0 for n in margins):
      raise ValueError(
        f"untrusted_margins is {margins}, expected pixels (top, bottom, left, right) of 0 or more"
      )
    if self.normalization == "running" and self.statistics == "own":
      raise ValueError(
        "normalization is 'running', but a teacher's own statistics change only where it "
        "normalises by the batch: set statistics='average'"
      )

  @property
  def batch_names(self) -> tuple[str, ...]:
    """Arrays of the host batch that it reads."""
    of_frame = any(self.untrusted_margins) and self.margins_of == "frame"
    return ("target_border",) if of_frame else ()

  def label(
    self, outputs: Maps, step: jax.Array, inputs: Mapping[str, Any], method: str = "aligned"
  ) -> PseudoLabels:
    """Labels of the target at full size.

    Args:
      outputs: its predictions on the target, at the output stride; those on the mirrored target by
        names that begin with `mirrored_`.
      step: int32 scalar, number of the step.
      inputs: inputs of the step.
      method: how predictions are resized, as of `resize`.
    """
    size = inputs["source_label"].shape[1:]

    def logits(prefix):
      found = outputs[prefix + "S"]
      if prefix + "initial_S" in outputs and self.initial_label_steps:
        found = jnp.where(step < self.initial_label_steps, outputs[prefix + "initial_S"], found)
      return resize(found, size, method)

    views = ("", "mirrored_") if self.mirror else ("",)
    label, confidence = pseudo_labels.pseudo_labels(*map(logits, views))
    fraction = pseudo_labels.confident_fraction(
      confidence, threshold=self.confidence_threshold, over=self.fraction_over
    )
    weight = fraction
    if any(self.untrusted_margins):
      border = (
        inputs["target_border"] if self.batch_names else jnp.zeros((len(label), 4), jnp.int32)
      )
      trusted = pseudo_labels.trusted(border, size, self.untrusted_margins)
      weight = jnp.where(trusted, fraction, 0)
    return PseudoLabels(label, confidence, fraction, weight)

  def follow(self, state: TrainState, params: Any) -> dict[str, Any]:
    """The teacher's fields of the state after it has followed the student.

    Args:
      state: before the update of the student, but with the statistics of its passes.
      params: the student's, that it follows.
    """
    stats, count = state.teacher_batch_stats, state.step + self.updates_before
    if self.statistics == "average":
      stats = update_teacher(stats, state.batch_stats, count, self.decay)
    teacher = update_teacher(state.teacher_params, params, count, self.decay)
    return {"teacher_params": teacher, "teacher_batch_stats": stats}
