"""Settings shared by the runs of all tasks."""

import dataclasses
from typing import Any, ClassVar

from corda_jax.configuration import check_at_least, check_one_of, check_within, free


@dataclasses.dataclass(frozen=True)
class Faults:
  """What a run does when something fails.

  Attributes:
    skipped_steps: number of skipped steps in a row that end the run, 0: never. A step whose loss or
      gradients are not finite is skipped; the run ends when the curves are next written.
    retries: number of retries if a checkpoint cannot be written or read.
    retry_seconds: seconds before each retry.
    failed_save: what to do if all retries fail: "stop", or "continue" until the next checkpoint. A
      failed last checkpoint always stops the run.
  """

  skipped_steps: int = 10
  retries: int = 3
  retry_seconds: float = 10.0
  failed_save: str = "stop"

  def __post_init__(self):
    check_at_least(self, skipped_steps=0, retries=0)
    check_within(self, retry_seconds=(0, 86_400))
    check_one_of(self, failed_save=("stop", "continue"))


@dataclasses.dataclass(frozen=True)
class ProfileSettings:
  """A profile of some steps for TensorBoard.

  Attributes:
    at_step: first step of the profile; 0: no profile.
    steps: number of steps in the profile.
  """

  at_step: int = 0
  steps: int = 5

  def __post_init__(self):
    check_at_least(self, at_step=0, steps=1)


@dataclasses.dataclass(frozen=True)
class Running:
  """The fields of a configuration that belong to no section.

  Attributes:
    task: "adaptation" or "depth" ("depth_anything" has a configuration of its own).
    seed: random seed of the run, 0 or more.
    num_steps: number of steps of the whole run.
    log_every: steps between console lines and scalars.
    evaluate_every: steps between evaluations; the last step is evaluated, too.
    checkpoint_every: steps between checkpoints; the last step has one, too.
    draw_every: steps between pictures of a training batch, in `pictures/` and in TensorBoard; 0: no
      pictures. The first one compiles another function.
    initial_weights: file that a new run starts from, PyTorch or safetensors (docs/weights.md); in
      the depth stage one per network; "" for random weights.
    keep_best: number of checkpoints kept for their score, in addition to the newest.
    keep_newest: number of newest checkpoints kept; a damaged one is skipped on resuming.
    faults: what a run does when something fails.
    profile: profile of some steps.
  """

  task: str = "adaptation"
  seed: int = 0
  num_steps: int = 250_000
  log_every: int = free(50)
  evaluate_every: int = free(5_000)
  checkpoint_every: int = free(5_000)
  draw_every: int = free(5_000)
  initial_weights: Any = free("")
  keep_best: int = free(1)
  keep_newest: int = free(2)
  faults: Faults = free(Faults())
  profile: ProfileSettings = free(ProfileSettings())

  def __post_init__(self):
    check_at_least(
      self,
      seed=0,
      num_steps=1,
      log_every=1,
      evaluate_every=1,
      checkpoint_every=1,
      draw_every=0,
      keep_best=0,
      keep_newest=1,
    )
    if self.seed >= 2**63:
      raise ValueError(f"seed is {self.seed}, expected less than 2^63")


@dataclasses.dataclass(frozen=True)
class Compute:
  """How the numbers are computed, and where they are stored.

  Attributes:
    matmul_precision: precision of float32 matrix products and convolutions: "default", the default
      of the device (TF32 on GPUs, bfloat16 on TPUs), "high" or "highest" (float32).
    rematerialize: whether the backward pass recomputes blocks instead of storing their activations,
      which takes less memory and more time.
    shard_state: whether optimiser state and teacher are split over the devices instead of
      replicated.
  """

  matmul_precision: str = "default"
  rematerialize: bool = free(False)
  shard_state: bool = free(False)

  def __post_init__(self):
    check_one_of(self, matmul_precision=("default", "high", "highest"))


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
  """Evaluation settings shared by all tasks.

  Attributes:
    checkpoint: "latest" or "best", the checkpoint that every mode reads.
    min_depth: least depth that is measured, and lower bound of predictions, metres.
    max_depth: largest depth that is measured, and upper bound of predictions, metres.
    median_scaling: when each frame's prediction is scaled to the median of the true depth:
      "always", "never", or "video", if depth was learned from video alone, which has no scale.
    max_frames: number of frames used, spread over the validation set; 0: all.
    pictures: number of frames in the contact sheet.
  """

  free: ClassVar[bool] = True

  checkpoint: str = "latest"
  min_depth: float = 0.001
  max_depth: float = 80.0
  median_scaling: str = "video"
  max_frames: int = 0
  pictures: int = 6

  def __post_init__(self):
    check_one_of(self, checkpoint=("latest", "best"), median_scaling=("always", "never", "video"))
    check_at_least(self, max_frames=0, pictures=0)
    check_depth_range(self)


def check_depth_range(part) -> None:
  """Raises ValueError unless 0 < min_depth < max_depth."""
  if not 0 < part.min_depth < part.max_depth:
    raise ValueError(
      f"min_depth is {part.min_depth} and max_depth {part.max_depth}, expected "
      "0 < min_depth < max_depth"
    )
