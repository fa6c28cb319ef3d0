"""Groups of parameters, as transformations of their updates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class ParameterGroup(NamedTuple):
  """How one parameter is updated.

  Attributes:
    learning_rate_factor: factor of the schedule's learning rate; 0 freezes the parameter.
    updates: number of full momentum updates per step.
    weight_decay_factor: factor of the weight decay.
  """

  learning_rate_factor: float
  updates: int = 1
  weight_decay_factor: float = 1.0


def path_name(path: tuple[Any, ...]) -> str:
  """Slash-separated name of a leaf of a parameter tree."""
  return "/".join(str(key.key) for key in path)


def scale_groups(group: Callable[[Any], ParameterGroup]) -> optax.GradientTransformation:
  """Scales each update by the learning rate of its group."""

  def scale(updates, _):
    return jax.tree_util.tree_map_with_path(
      lambda path, update: group(path).learning_rate_factor * update, updates
    )

  return optax.stateless(scale)


def decay_groups(
  group: Callable[[Any], ParameterGroup], weight_decay: float
) -> optax.GradientTransformation:
  """Adds each parameter times the weight decay of its group."""

  def decay(updates, params):
    return jax.tree_util.tree_map_with_path(
      lambda path, update, param: update + weight_decay * group(path).weight_decay_factor * param,
      updates,
      params,
    )

  return optax.stateless(decay)


def decay_layers(factor: float) -> optax.GradientTransformation:
  """Scales updates of a Vision Transformer's blocks by their distance from the last one."""

  def scale(updates, _):
    depth = jax.tree.leaves(updates["encoder"]["blocks"])[0].shape[0]

    def scaled(path, update):
      name = path_name(path)
      if not name.startswith("encoder/") or name.startswith("encoder/norm/"):
        return update
      if not name.startswith("encoder/blocks/"):
        return factor**depth * update
      of_blocks = factor ** jnp.arange(depth - 1, -1, -1, dtype=update.dtype)
      return update * of_blocks.reshape(-1, *(1,) * (update.ndim - 1))

    return jax.tree_util.tree_map_with_path(scaled, updates)

  return optax.stateless(scale)


def repeated_sgd(
  schedule: optax.Schedule,
  group: Callable[[Any], ParameterGroup],
  *,
  momentum: float,
  weight_decay: float,
) -> optax.GradientTransformation:
  """SGD with momentum, coupled weight decay, and several updates of a parameter per step.

  The release lists an encoder parameter once for each module that encloses it, and PyTorch's SGD
  then makes one full momentum update for each listing, with the same gradient and the weight decay
  recomputed. With one update of every parameter it is the published optimiser.

  Args:
    schedule: updates made so far → learning rate.
    group: path of a parameter → its group.
    momentum: share of the velocity that an update keeps.
    weight_decay: factor of the parameter that is added to the gradient.
  """

  def init(params):
    return {"count": jnp.zeros((), jnp.int32), "velocity": jax.tree.map(jnp.zeros_like, params)}

  def update(gradients, state, params):
    rate = schedule(state["count"])

    def update_leaf(path, gradient, velocity, param):
      factor, updates, decay_factor = group(path)
      value = param
      for _ in range(updates):
        velocity = momentum * velocity + (gradient + weight_decay * decay_factor * value)
        value = value - (rate * factor).astype(value.dtype) * velocity
      return value - param, velocity

    pairs = jax.tree_util.tree_map_with_path(update_leaf, gradients, state["velocity"], params)
    updates, velocity = jax.tree.transpose(
      jax.tree.structure(params), jax.tree.structure((0, 0)), pairs
    )
    return updates, {"count": state["count"] + 1, "velocity": velocity}

  return optax.GradientTransformation(init, update)
