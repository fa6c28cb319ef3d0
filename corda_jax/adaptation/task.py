"""The adaptation as a task: from a configuration to its step, its evaluation and its pictures."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from corda_jax import checks
from corda_jax.adaptation.evaluate import Evaluator
from corda_jax.adaptation.pictures import step_maps
from corda_jax.adaptation.scores import format_scores
from corda_jax.adaptation.step import AdaptationStep, Maps
from corda_jax.adaptation.terms.feature_distance import FeatureDistance
from corda_jax.configuration import build
from corda_jax.labels import ClassList
from corda_jax.models.build import build_common, build_network
from corda_jax.models.depth_guided import sees_depth
from corda_jax.models.normalization import Normalization
from corda_jax.pretrained.initial_pose import read_initial_pose, with_initial_pose
from corda_jax.pretrained.torch_checkpoints import initial_state, read_initial_weights
from corda_jax.training.optimizer import Polynomial
from corda_jax.training.sharding import batch_sharded, make_mesh, replicated, shardings_of
from corda_jax.training.state import TrainState
from corda_jax.training.task import (
  Batches,
  Evaluation,
  HostBatch,
  Need,
  Task,
  build_sections,
)
from corda_jax.visualize import contact_sheet, training_sheet

_DRAWN_PAIRS = 4


@dataclasses.dataclass(frozen=True)
class AdaptationTask(Task):
  """Adaptation from a labelled source to an unlabelled target.

  Attributes:
    config: the whole configuration.
    mesh: devices, along the batch axis.
    classes: what the network distinguishes.
    step: the pure step and its parts.
    rates: learning rates of the optimiser.
  """

  config: Any
  mesh: Mesh
  classes: ClassList
  step: AdaptationStep
  rates: Polynomial

  modes: ClassVar = (
    *("prepare", "train", "evaluate", "predict", "export", "report"),
    *("import_torch", "export_torch"),
  )
  domains: ClassVar = ("source", "target")
  sections: ClassVar = (
    *("data", "model", "teacher", "mixing", "terms", "optimizer"),
    *("compute", "evaluation", "prediction"),
  )
  read_by: ClassVar = {
    "evaluate": ("model.", "data.classes.", "terms."),
    "predict": ("model.", "data.classes.", "data.target.height"),
    "export": ("model.", "data.classes.", "data.target.height"),
    "export_torch": ("model.", "data.classes."),
  }
  shown: ClassVar = (
    ("loss", "total", ".3f"),
    ("source CE", "ce_src", ".3f"),
    ("mixed CE", "ce_mix", ".3f"),
    ("masked CE", "ce_masked", ".3f"),
    ("confident", "confident_fraction", ".0%"),
  )

  @classmethod
  def from_config(cls, config: Any, mesh: Mesh | None = None) -> "AdaptationTask":
    """Builds everything; on all devices unless a mesh is given.

    Raises:
      UserError: a value of the configuration cannot work.
    """
    parts = build_sections(config, cls.sections)
    mesh = mesh or make_mesh()
    classes = ClassList.from_config(config.data.classes)
    options = {"rematerialize": config.compute.rematerialize}
    model, common = build_network(config.model, len(classes), **options), build_common(config.model)
    shared = {"class_names": tuple(classes.names), **common.shared(**options)}
    terms = {
      name: build(section, f"terms.{name}", **shared) for name, section in config.terms.items()
    }
    optimizer = parts["optimizer"]
    step = AdaptationStep(
      model,
      optimizer.build(
        config.num_steps,
        freeze_encoder_affine=not getattr(model.encoder, "trainable_affine", True),
      ),
      common.normalization,
      len(classes),
      terms,
      teacher=parts["teacher"],
      mixing=parts["mixing"],
      views={domain: tuple(config.data[domain].views) for domain in cls.domains},
      one_student_pass=config.compute.one_student_pass,
      gradient_sharding=replicated(mesh),
    )
    checks.check_adaptation(config, step, classes)
    return cls(config, mesh, classes, step, optimizer)

  @property
  def model(self) -> nn.Module:
    """The network."""
    return self.step.model

  @property
  def normalization(self) -> Normalization:
    """From uint8 images to network input."""
    return self.step.normalization

  @property
  def has_depth_heads(self) -> bool:
    """Whether the network predicts depth."""
    return self.model.depth

  @property
  def stride(self) -> int:
    """Stride of the encoder's last level, in pixels."""
    return self.model.encoder.level_strides[-1]

  @property
  def evaluated_network(self) -> str:
    """As in the base class."""
    return self.config.evaluation.network

  def check_training(self) -> None:
    """Raises UserError where the data sets lack what training learns from."""
    checks.check_training_data(self.config, self.step)

  def needs(self, mode: str) -> list[Need]:
    """As in the base class."""
    seen = sees_depth(self.model)
    measured = self.has_depth_heads and self.config.data.target.depth != "none"
    contents = ("image", "label", *("inverse_depth",) * (measured or seen))
    needs = [Need("target", "validation", contents, measured=seen)]
    if mode == "evaluate":
      return needs
    trained = []
    for domain in self.domains:
      files = self.has_depth_heads and "files" in self.step.depth_from(domain)
      filtered = self.step.mixing.depth_filter.kind != "none"
      contents = ("image", "label", *("inverse_depth",) * (files or seen or filtered))
      trained.append(Need(domain, self.config.data[domain].splits[0], contents))
    return trained + needs

  def pictured(self, mode: str) -> Need:
    """As in the base class."""
    return self.needs(mode)[-1]

  def check_initial(self) -> None:
    """As in the base class."""
    read_initial_pose(self)
    if self.config.initial_weights:
      read_initial_weights(self)

  def fresh_state(self) -> TrainState:
    """As in the base class."""
    random = not self.config.initial_weights
    if random and any(isinstance(term, FeatureDistance) for term in self.step.terms.values()):
      print(
        "warning: terms.feature_distance keeps the features of random weights, which know no "
        "things: set initial_weights to a file of ImageNet's"
      )
    return with_initial_pose(self, initial_state(self))

  def batch_inputs(self, batch: HostBatch) -> dict[str, np.ndarray]:
    """As in the base class."""
    names = ["source_image", "source_label", "source_inverse_depth"]
    names += ["target_image", "target_inverse_depth", *self.step.teacher.batch_names]
    for term in self.step.terms.values():
      names += term.batch_names(self.step)
    return {name: batch[name] for name in names}

  def learning_rates(self) -> Callable[[int], dict[str, float]]:
    """As in the base class."""
    return self.rates.rates(self.config.num_steps)

  def make_maps(self) -> Callable[..., Maps]:
    """The pure maps(state, batch, key) of what a step sees, not compiled."""
    return self.at_precision(functools.partial(step_maps, self.step))

  @functools.cached_property
  def evaluator(self) -> Evaluator:
    """Compiles once for each size of labels."""
    return Evaluator(self)

  def evaluate(self, state: TrainState, batches: Batches) -> Evaluation:
    """As in the base class."""
    result = self.evaluator.score(state, batches())
    curves = {"target/miou": result["miou"]}
    curves |= {f"iou/{name}": value for name, value in result["iou"].items() if value is not None}
    if "depth" in result:
      curves |= {f"target/depth_{name}": result["depth"][name] for name in ("abs_rel", "rmse")}
    line = f"target mIoU {result['miou']:.1f} %"
    return Evaluation(result, result["miou"], curves, line, format_scores(result))

  def draw_evaluation(self, state: TrainState, batches: Batches, *, path: Path, title: str) -> None:
    """As in the base class."""
    pictures = self.evaluator.pictures(state, batches(), self.config.evaluation.pictures)
    if jax.process_index() == 0:
      contact_sheet(pictures, title, path, self.classes)

  def draw_training(
    self, state: TrainState, batch: Any, key: jax.Array, *, path: Path, title: str
  ) -> None:
    """As in the base class: the first pairs of the batch."""
    names = ("source_image", "source_label", "target_image")
    made = self._maps(state, batch, key) | self._gather({name: batch[name] for name in names})
    if jax.process_index() == 0:
      pictures = {name: np.asarray(value)[:_DRAWN_PAIRS] for name, value in made.items()}
      training_sheet(pictures, title, path, self.classes)

  @functools.cached_property
  def _maps(self) -> Callable[..., Mapping[str, jax.Array]]:
    everywhere, split = replicated(self.mesh), batch_sharded(self.mesh)
    shardings = shardings_of(self.state_shapes)
    return jax.jit(
      self.make_maps(), in_shardings=(shardings, split, everywhere), out_shardings=everywhere
    )

  @functools.cached_property
  def _gather(self) -> Callable[..., Any]:
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(self.mesh))
