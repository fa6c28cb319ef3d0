"""What every job builds from a configuration."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from corda_jax.adaptation.joint_depth import JointDepth, uses_files, uses_views
from corda_jax.adaptation.step import AdaptationStep, Maps, Metrics
from corda_jax.depth.motion import temporal_views
from corda_jax.jobs.validate import validate
from corda_jax.labels import ClassList
from corda_jax.models.build import (
  Normalization,
  build_model,
  build_pose_network,
  has_depth_heads,
)
from corda_jax.training.optimizer import build_optimizer
from corda_jax.training.sharding import (
  make_mesh,
  replicated,
)
from corda_jax.training.state import TrainState, create_pose_state, create_train_state
from corda_jax.training.task import Task


@dataclasses.dataclass(frozen=True)
class Experiment(Task):
  """Network, optimiser and mesh of a run.

  Attributes:
    config: the whole configuration.
    classes: what the network tells apart.
    model: the network.
    normalization: from uint8 images to network input.
    optimizer: the optax transformation.
    mesh: devices, along the batch axis.
    joint: the photometric part of the step; None where depth heads learn from files alone.
    step_class: of `step`.
  """

  config: Any
  classes: ClassList
  model: nn.Module
  normalization: Normalization
  optimizer: optax.GradientTransformation
  mesh: Mesh
  joint: JointDepth | None
  step_class: type[AdaptationStep] = AdaptationStep

  @classmethod
  def from_config(cls, config: Any, mesh: Mesh | None = None) -> "Experiment":
    """Builds everything; on all devices unless a mesh is given.

    Raises:
      UserError: a value of the configuration cannot work.
    """
    validate(config)
    classes = ClassList.from_config(config.data.classes)
    return cls(
      config=config,
      classes=classes,
      model=build_model(config.model, len(classes), rematerialize=config.compute.rematerialize),
      normalization=Normalization.from_config(config.model.normalization),
      optimizer=build_optimizer(
        config.optimizer,
        num_steps=config.num_steps,
        freeze_encoder_affine=not config.model.encoder.trainable_affine,
      ),
      mesh=mesh or make_mesh(),
      joint=_joint_depth(config),
    )

  @property
  def has_depth_heads(self) -> bool:
    """Whether the network predicts depth."""
    return has_depth_heads(self.config.model)

  @property
  def evaluated_contents(self) -> tuple[str, ...]:
    """What an evaluation reads of the target's frames."""
    measured = self.has_depth_heads and self.config.data.target.depth != "none"
    return ("image", "label", *(("inverse_depth",) if measured else ()))

  def trained_contents(self, domain: str) -> tuple[str, ...]:
    """What training reads of a domain's frames."""
    files = self.has_depth_heads and uses_files(self.config.method.depth_supervision[domain])
    return ("image", "label", *(("inverse_depth",) if files else ()))

  @property
  def step(self) -> AdaptationStep:
    """The pure step and its parts."""
    return self.step_class(
      self.model,
      self.optimizer,
      self.normalization,
      self.config.method,
      len(self.classes),
      joint=self.joint,
      one_student_pass=self.config.compute.one_student_pass,
      gradient_sharding=replicated(self.mesh),
    )

  def make_maps(self) -> Callable[..., Maps]:
    """The pure maps(state, batch, key) of what a step sees, not compiled."""
    return self.at_precision(self.step.maps)

  def make_losses(self) -> Callable[..., Metrics]:
    """The pure losses(params, state, batch, key) of what a step minimises, not compiled."""
    return self.at_precision(self.step.losses)

  def create_state(self, key: jax.Array) -> TrainState:
    """As in the base class."""
    state = create_train_state(self.model, self.optimizer, key)
    if self.joint is None or self.joint.pose is None:
      return state
    pose_key = jax.random.fold_in(key, 1)  # the other networks' weights do not depend on it
    return state.replace(
      pose=create_pose_state(self.joint.pose, self.joint.pose_optimizer, pose_key)
    )


def _joint_depth(config: Any) -> JointDepth | None:
  """The photometric part of the step, if a domain has such supervision."""
  if not has_depth_heads(config.model):
    return None
  supervision = config.method.depth_supervision
  views = {
    domain: tuple(config.data[domain].views)
    for domain in ("source", "target")
    if uses_views(supervision[domain])
  }
  if not views:
    return None
  if not any(map(temporal_views, views.values())):
    return JointDepth(views, config.method.photometric)
  return JointDepth(
    views,
    config.method.photometric,
    build_pose_network(config.model, rematerialize=config.compute.rematerialize),
    optax.adam(config.method.photometric.pose_learning_rate),
    Normalization.from_config(config.model.pose_normalization),
  )
