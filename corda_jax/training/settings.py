"""Settings of every run, whatever it trains."""

import dataclasses
from typing import Any, ClassVar

from corda_jax.configuration import check_at_least, check_one_of, check_within, free


@dataclasses.dataclass(frozen=True)
class Faults:
  """What a run does when something fails.

  Attributes:
    skipped_steps: a step whose loss or gradients are not finite is not applied; so many in a row
      end the run (noticed when the curves are next written); 0: never.
    retries: where a checkpoint cannot be written, how often it is tried again.
    retry_seconds: before each try.
    failed_save: what then: "stop", or "continue" until the next is due. The last one always stops.
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
    at_step: its first step; 0: none.
    steps: in a profile.
  """

  at_step: int = 0
  steps: int = 5

  def __post_init__(self):
    check_at_least(self, at_step=0, steps=1)


@dataclasses.dataclass(frozen=True)
class Running:
  """The fields of a configuration that belong to no section.

  Attributes:
    task: "adaptation" or "depth".
    seed: of all that is random, from 0 on.
    num_steps: of the whole run.
    log_every: steps between console lines and scalars.
    evaluate_every: steps; also evaluated after the last step.
    checkpoint_every: steps; also written after the last step.
    draw_every: steps between pictures of what training makes of a batch, in `pictures/` and in
      TensorBoard; 0: none. The first of them compiles one more function.
    initial_weights: a .pth file that a fresh run starts from (docs/weights.md), of the depth stage
      one by each network's name; "": random weights.
    keep_best: checkpoints kept for their score, beside the newest.
    keep_newest: checkpoints kept because they are new; a damaged one is passed over.
    faults: when something fails.
    profile: of some steps.
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
    matmul_precision: of matrix products and convolutions of float32 numbers: "default", what the
      device does by itself (TF32 on GPUs, bfloat16 on TPUs), "high" or "highest" (float32).
    rematerialize: whether blocks are computed again in the backward pass instead of kept: less
      memory, more time.
    shard_state: whether optimiser state and teacher are split over the devices instead of held by
      each.
  """

  matmul_precision: str = "default"
  rematerialize: bool = free(False)
  shard_state: bool = free(False)

  def __post_init__(self):
    check_one_of(self, matmul_precision=("default", "high", "highest"))


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
  """What evaluations of every task have in common.

  Attributes:
    checkpoint: "latest" or "best"; for all modes that read one.
    min_depth: least depth that is measured, and to which predictions are clipped, metres.
    max_depth: largest one, metres.
    median_scaling: whether each frame's prediction is first brought to the median of the true
      depth: "always", "never", or "video", where depth was learned from video alone, which has no
      scale.
    max_frames: frames, spread over the validation set, that are used; 0: all.
    pictures: frames shown in the contact sheet.
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
