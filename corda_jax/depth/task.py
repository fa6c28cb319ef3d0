"""The depth stage as a task: from a configuration to its step, its evaluation and its pictures."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh

from corda_jax import checks
from corda_jax.depth.evaluate import DepthEvaluator
from corda_jax.depth.motion import image_names, temporal_views
from corda_jax.depth.scores import format_depth_scores
from corda_jax.depth.step import DepthModels, DepthState, DepthStep
from corda_jax.metrics import DEPTH_ERRORS
from corda_jax.models.build import build_common, build_networks
from corda_jax.models.normalization import Normalization
from corda_jax.pretrained.depth_weights import initial_depth_state, read_initial_depth_weights
from corda_jax.training.optimizer import DepthAdam
from corda_jax.training.sharding import make_mesh
from corda_jax.training.task import Batches, Evaluation, HostBatch, Need, Task, build_sections
from corda_jax.visualize import depth_sheet


@dataclasses.dataclass(frozen=True)
class DepthTask(Task):
  """Depth and pose networks that learn from stereo pairs, video or both.

  Attributes:
    config: the whole configuration.
    mesh: devices, along the batch axis.
    step: the pure step and its parts.
    rates: learning rates of the optimiser.
  """

  config: Any
  mesh: Mesh
  step: DepthStep
  rates: DepthAdam

  modes: ClassVar = ("prepare", "train", "evaluate", "label_depth", "report")
  domains: ClassVar = ("target",)
  sections: ClassVar = (
    *("data", "model", "depth", "optimizer", "compute", "evaluation", "label_depth"),
  )
  read_by: ClassVar = {
    "evaluate": (
      *("model.", "depth.min_depth", "depth.max_depth"),
      *("data.target.views", "depth.metres_per_unit"),  # which the errors depend on
    ),
    # What is labelled may be another data set.
    "label_depth": ("model.", "depth.min_depth", "depth.max_depth"),
  }
  shown: ClassVar = (
    ("loss", "total", ".4f"),
    ("counted", "counted_share", ".0%"),
    ("mean depth in units", "mean_depth", ".2f"),
  )

  @classmethod
  def from_config(
    cls, config: Any, mesh: Mesh | None = None, *, views: Sequence[str] | None = None
  ) -> "DepthTask":
    """Builds everything; on all devices unless a mesh is given.

    Args:
      config: the whole configuration.
      mesh: devices.
      views: that the networks were trained on; None: those of the configuration's data set, which
        may be another one when a trained network labels it.

    Raises:
      UserError: a value of the configuration cannot work.
    """
    parts = build_sections(config, cls.sections)
    views = tuple(config.data.target.views if views is None else views)
    options = {"rematerialize": config.compute.rematerialize}
    depth, pose = build_networks(config.model, ("depth", "pose"), **options)
    step = DepthStep(
      DepthModels(depth, pose if temporal_views(views) else None),
      parts["optimizer"].build(),
      build_common(config.model).normalization,
      parts["depth"],
      views,
    )
    checks.check_depth(config, step)
    return cls(config, mesh or make_mesh(), step, parts["optimizer"])

  @property
  def models(self) -> DepthModels:
    """The networks."""
    return self.step.models

  @property
  def normalization(self) -> Normalization:
    """From uint8 images to network input."""
    return self.step.normalization

  @property
  def views(self) -> tuple[str, ...]:
    """That explain an image: any of "right", "previous", "next"."""
    return self.step.views

  @property
  def stride(self) -> int:
    """What heights and widths of images must be multiples of, pixels."""
    return self.step.stride

  @property
  def has_truth(self) -> bool:
    """Whether the data set has depth to compare with."""
    return self.config.data.target.depth != "none"

  @property
  def evaluated_network(self) -> str:
    """As in the base class."""
    return "depth"

  def check_training(self) -> None:
    """Nothing: what training learns from is checked with the rest."""

  def needs(self, mode: str) -> list[Need]:
    """As in the base class."""
    if mode == "label_depth":
      return [Need("target", split, ("image",)) for split in self.config.label_depth.splits]
    split, trained = self.config.evaluation.split, self.config.data.target.splits[0]
    # Frames that are measured by their true depth need no other views.
    contents = ("image", "inverse_depth" if self.has_truth else "views")
    needs = [Need("target", split, contents, measured=self.has_truth)]
    if mode in ("prepare", "train") and trained != split:
      needs = [Need("target", trained, ("image", "views")), *needs]
    return needs

  def pictured(self, mode: str) -> Need:
    """As in the base class: of training's frames, which have views, if need be."""
    if mode == "train" and self.has_truth:
      contents = ("image", "views", "inverse_depth")
      return Need("target", self.config.data.target.splits[0], contents)
    return self.needs(mode)[-1]

  def check_initial(self) -> None:
    """As in the base class."""
    read_initial_depth_weights(self)

  def fresh_state(self) -> DepthState:
    """As in the base class."""
    return initial_depth_state(self)

  def batch_inputs(self, batch: HostBatch) -> dict[str, np.ndarray]:
    """As in the base class, without the name of the domain."""
    names = (*image_names(self.views), "intrinsics", "baseline")
    return {name: batch[f"target_{name}"] for name in names}

  def learning_rates(self) -> Callable[[int], dict[str, float]]:
    """As in the base class."""
    return self.rates.rates()

  @functools.cached_property
  def evaluator(self) -> DepthEvaluator:
    """Compiles once for each size of frames."""
    return DepthEvaluator(self)

  def evaluate(self, state: DepthState, batches: Batches) -> Evaluation:
    """As in the base class."""
    result = self.evaluator.score(state, batches)
    if "photometric_loss" in result:
      loss = result["photometric_loss"]
      curves, score = {"depth/photometric_loss": loss}, -loss
      line = f"photometric loss {loss:.4f}"
    else:
      curves = {f"depth/{name}": result[name] for name in DEPTH_ERRORS}
      score, baseline = -result["abs_rel"], result["baselines"]["rows"]["abs_rel"]
      line = f"abs rel {result['abs_rel']:.3f} (best constant a row: {baseline:.3f})"
    return Evaluation(result, score, curves, line, format_depth_scores(result))

  def draw_evaluation(self, state: DepthState, batches: Batches, *, path: Path, title: str) -> None:
    """As in the base class."""
    count = self.config.evaluation.pictures
    size = self.config.data.evaluation_batch_size
    frames = itertools.islice(batches(), -(-count // size))
    pictures = self.evaluator.pictures(state, frames)
    if jax.process_index() == 0:
      pictures = {name: value[:count] for name, value in pictures.items()}
      depth_sheet(pictures, self.views, title, path)

  def draw_training(
    self, state: DepthState, batch: Any, key: jax.Array, *, path: Path, title: str
  ) -> None:
    """As in the base class: the batch before it is flipped and its colours are changed."""
    frames = {**batch, "valid": np.ones(len(batch["image"]), bool)}
    pictures = self.evaluator.pictures(state, [frames])
    if jax.process_index() == 0:
      depth_sheet(pictures, self.views, title, path)
