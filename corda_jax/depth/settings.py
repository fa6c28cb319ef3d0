"""Settings of the depth stage that belong to no part of its step."""

import dataclasses
from typing import ClassVar

from corda_jax.configuration import check_one_of
from corda_jax.training.settings import EvaluationSettings


@dataclasses.dataclass(frozen=True)
class DepthEvaluation(EvaluationSettings):
  """How depth is measured, or, where there is no truth, the photometric loss.

  Attributes:
    split: "validation", or "train", where there is no other.
  """

  split: str = "validation"
  pictures: int = 4

  def __post_init__(self):
    super().__post_init__()
    check_one_of(self, split=("validation", "train"))


@dataclasses.dataclass(frozen=True)
class LabelDepth:
  """What --mode=label_depth writes.

  Attributes:
    folder: where the files go; "": the data set's own folder.
    splits: splits of the data set.
    encoding: "sigmoid", as released: the network's output times 65535; or "metric": the inverse
      depth of simulators and stereo, Y = 655.36 / (metres + 0.01), as 256 (Y - 1).
  """

  free: ClassVar[bool] = True

  folder: str = ""
  splits: tuple[str, ...] = ("train", "validation")
  encoding: str = "sigmoid"

  def __post_init__(self):
    check_one_of(self, encoding=("sigmoid", "metric"))
