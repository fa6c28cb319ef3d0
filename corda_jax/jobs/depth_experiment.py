"""What every job of the depth stage builds from a configuration."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from corda_jax.depth.motion import temporal_views
from corda_jax.depth.step import DepthModels, DepthState, DepthStep, create_depth_state
from corda_jax.errors import UserError
from corda_jax.jobs.validate import validate_depth
from corda_jax.models.build import Normalization, build_depth_networks
from corda_jax.training.optimizer import build_depth_optimizer
from corda_jax.training.sharding import make_mesh
from corda_jax.training.task import Task


@dataclasses.dataclass(frozen=True)
class DepthExperiment(Task):
  """Networks, optimiser and mesh of a run of the depth stage.

  Attributes:
    config: the whole configuration.
    views: that explain an image: any of "right", "previous", "next".
    models: the networks.
    normalization: from uint8 images to network input.
    optimizer: the optax transformation.
    mesh: devices, along the batch axis.
  """

  config: Any
  views: tuple[str, ...]
  models: DepthModels
  normalization: Normalization
  optimizer: optax.GradientTransformation
  mesh: Mesh

  @classmethod
  def from_config(
    cls, config: Any, mesh: Mesh | None = None, *, views: Sequence[str] | None = None
  ) -> "DepthExperiment":
    """Builds everything; on all devices unless a mesh is given.

    Args:
      config: the whole configuration.
      mesh: devices.
      views: that the networks were trained on; None: those of the configuration's data set, which
        may be another one when a trained network labels it.

    Raises:
      UserError: a value of the configuration cannot work.
    """
    views = tuple(config.data.target.views if views is None else views)
    validate_depth(config, views)
    rematerialize = config.compute.rematerialize
    depth, pose = build_depth_networks(config.model, rematerialize=rematerialize)
    stride = depth.encoder.level_strides[-1]
    if config.data.crop_height % stride or config.data.crop_width % stride:
      raise UserError(
        f"the crop is {config.data.crop_width}x{config.data.crop_height}, and the network wants "
        f"multiples of {stride}: set data.crop_width and data.crop_height to such"
      )
    return cls(
      config=config,
      views=views,
      models=DepthModels(depth, pose if temporal_views(views) else None),
      normalization=Normalization.from_config(config.model.normalization),
      optimizer=build_depth_optimizer(config.optimizer),
      mesh=mesh or make_mesh(),
    )

  @property
  def stride(self) -> int:
    """What heights and widths of images must be multiples of, pixels."""
    return self.models.depth.encoder.level_strides[-1]

  @property
  def step(self) -> DepthStep:
    """The pure step and its parts."""
    return DepthStep(self.models, self.optimizer, self.normalization, self.config.depth, self.views)

  def create_state(self, key: jax.Array) -> DepthState:
    """As in the base class."""
    size = 2 * self.stride  # reflection needs two pixels at the coarsest level
    return create_depth_state(self.models, self.optimizer, key, size)
