"""SGD with the release's parameter groups, as one optax transformation."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

_AFFINE = re.compile(r"norm\d*/(scale|bias)$")


class ParameterGroup(NamedTuple):
  """How one parameter is updated.

  Attributes:
    learning_rate_factor: multiple of the schedule's learning rate; 0 freezes the parameter.
    updates: full momentum updates a step.
  """

  learning_rate_factor: float
  updates: int


def path_name(path: tuple[Any, ...]) -> str:
  """Slash-separated name of a leaf of a parameter tree."""
  return "/".join(str(key.key) for key in path)


def parameter_group(name: str, config: Any, freeze_encoder_affine: bool) -> ParameterGroup:
  """The group of the parameter `name`.

  Args:
    name: slash-separated path, such as "encoder/stage1_block0/conv1/kernel".
    config: the `optimizer` part of a configuration.
    freeze_encoder_affine: whether the scales and biases of the encoder's normalisations stay.
  """
  if not name.startswith("encoder/"):
    return ParameterGroup(config.head_learning_rate_factor, 1)
  if freeze_encoder_affine and _AFFINE.search(name):
    return ParameterGroup(0.0, 0)
  updates = config.encoder_updates_per_step
  if "/stem_" in name:
    return ParameterGroup(1.0, updates.stem)
  if "/projection_" in name:
    return ParameterGroup(1.0, updates.projection)
  return ParameterGroup(1.0, updates.residual)


def build_optimizer(
  config: Any, *, num_steps: int, freeze_encoder_affine: bool
) -> optax.GradientTransformation:
  """SGD with momentum, coupled weight decay and a polynomial schedule.

  The release lists an encoder parameter once for each module that encloses it, and PyTorch's SGD
  then makes one full momentum update for each listing, with the same gradient and the weight decay
  computed anew. `encoder_updates_per_step` repeats that; all ones is the published optimiser.

  Args:
    config: the `optimizer` part of a configuration.
    num_steps: steps after which the learning rate reaches zero.
    freeze_encoder_affine: whether the scales and biases of the encoder's normalisations stay.
  """
  schedule = optax.polynomial_schedule(
    init_value=config.learning_rate,
    end_value=0.0,
    power=config.schedule_power,
    transition_steps=num_steps,
  )

  def init(params):
    return {"count": jnp.zeros((), jnp.int32), "momentum": jax.tree.map(jnp.zeros_like, params)}

  def update(gradients, state, params):
    rate = schedule(state["count"].astype(jnp.result_type(float)))

    def update_leaf(path, gradient, momentum, param):
      group = parameter_group(path_name(path), config, freeze_encoder_affine)
      value = param
      for _ in range(group.updates):
        decayed = gradient + config.weight_decay * value
        momentum = config.momentum * momentum + decayed
        value = value - (rate * group.learning_rate_factor).astype(value.dtype) * momentum
      return value - param, momentum

    pairs = jax.tree_util.tree_map_with_path(update_leaf, gradients, state["momentum"], params)
    updates, momentum = jax.tree.transpose(
      jax.tree.structure(params), jax.tree.structure((0, 0)), pairs
    )
    return updates, {"count": state["count"] + 1, "momentum": momentum}

  return optax.GradientTransformation(init, update)
