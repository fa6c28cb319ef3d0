"""What a network sees of an image, and for networks that see depth the network that makes it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.estimator import load_depth_estimator
from corda_jax.errors import UserError
from corda_jax.models.depth_guided import network_input, sees_depth
from corda_jax.models.layers import accumulation_dtype

_DEPTH = "depth_network"


def with_depth_network(
  task: AdaptationTask, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], Callable[[Any, jax.Array], jax.Array]]:
  """The variables of a network and of the one that makes depth for it, and a function of them.

  Args:
    task: network and configuration; `prediction` names the depth network.
    variables: variables of the network.

  Returns:
    All variables, and (variables, uint8 RGB images [B, H, W, 3]) → network input.

  Raises:
    UserError: the network sees depth, and no depth network can be loaded.
  """
  options, normalization = task.config.prediction, task.normalization
  wide = accumulation_dtype(jnp.dtype(task.config.model.param_dtype))
  if not sees_depth(task.model):
    return dict(variables), lambda _, images: normalization.normalize(images, wide)
  if not options.depth_weights:
    raise UserError(
      "prediction.depth_weights is '', but the network sees depth: name the run or the file of "
      "weights that made the target's depth files"
    )
  estimator = load_depth_estimator(depth_files_folder(task), options.depth_weights)

  def read(variables, images):
    depth = estimator.inverse_depth(variables[_DEPTH], images)
    return network_input(task.model, normalization.normalize(images, wide), depth.astype(wide))

  return {**variables, _DEPTH: estimator.variables}, read


def depth_files_folder(task: AdaptationTask) -> str:
  """The folder of the depth files as which an image's depth is made."""
  target = task.config.data.target
  return task.config.prediction.depth_files or target.depth_root or target.root


def depth_names(model: nn.Module) -> tuple[str, ...]:
  """The maps that `views.depth_maps` makes of the predictions of a network."""
  if model.depth:
    return ("inverse_depth", "difficulty")
  return ("inverse_depth",) if sees_depth(model) else ()


def network_alone(variables: Mapping[str, Any]) -> dict[str, Any]:
  """The variables without those of the depth network."""
  return {name: value for name, value in variables.items() if name != _DEPTH}
