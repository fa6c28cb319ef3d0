"""Optimisers with the release's parameter groups, as optax transformations."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from corda_jax.errors import UserError

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
  """The optimiser of a configuration, with a polynomial schedule and parameter groups.

  Args:
    config: the `optimizer` part of a configuration. `name` is "sgd", as released (see
      `repeated_sgd`), or "adamw" for short runs from scratch.
    num_steps: steps after which the learning rate reaches zero.
    freeze_encoder_affine: whether the scales and biases of the encoder's normalisations stay.

  Raises:
    UserError: `name` is unknown, or repeated updates are asked of AdamW.
  """
  polynomial = _polynomial(config, num_steps)

  def schedule(count):
    # In the widest float enabled: float64 runs are compared with reference values.
    return polynomial(count.astype(jnp.result_type(float)))

  def group(path):
    return parameter_group(path_name(path), config, freeze_encoder_affine)

  if config.name == "sgd":
    return repeated_sgd(schedule, group, momentum=config.momentum, weight_decay=config.weight_decay)
  if config.name == "adamw":
    if any(updates != 1 for updates in config.encoder_updates_per_step.values()):
      raise UserError(
        "optimizer.encoder_updates_per_step repeats updates of SGD: set all three to 1 for AdamW, "
        "or optimizer.name=sgd"
      )
    return optax.chain(
      optax.scale_by_adam(b1=config.momentum),
      optax.add_decayed_weights(config.weight_decay),
      _scale_groups(group),
      optax.scale_by_learning_rate(schedule),
    )
  raise UserError(f"optimizer.name is {config.name!r}, wanted 'sgd' or 'adamw'")


def _polynomial(config, num_steps):
  return optax.polynomial_schedule(
    init_value=config.learning_rate,
    end_value=0.0,
    power=config.schedule_power,
    transition_steps=num_steps,
  )


def learning_rates(config: Any, *, num_steps: int) -> Callable[[int], dict[str, float]]:
  """Updates made so far → learning rates of the next by the names of their curves.

  Args:
    config: of `build_optimizer`.
    num_steps: of `build_optimizer`.
  """
  schedule = _polynomial(config, num_steps)

  def rates(count):
    rate = float(schedule(count))
    return {
      "learning_rate/encoder": rate,
      "learning_rate/heads": rate * config.head_learning_rate_factor,
    }

  return rates


def build_depth_optimizer(config: Any) -> optax.GradientTransformation:
  """Adam for the depth and pose networks, with a learning rate that falls in steps.

  Args:
    config: the `optimizer` part of a configuration of the depth stage: `learning_rate`,
      `depth_encoder_learning_rate_factor`, `decay_at` (steps), `decay_factor`, `beta1`, `beta2`.
  """
  schedule = _steps_down(config)

  def group(path):
    encoder = path_name(path).startswith("depth/encoder/")
    return ParameterGroup(config.depth_encoder_learning_rate_factor if encoder else 1.0, 1)

  return optax.chain(
    optax.scale_by_adam(b1=config.beta1, b2=config.beta2),
    _scale_groups(group),
    optax.scale_by_learning_rate(schedule),
  )


def _steps_down(config):
  return optax.piecewise_constant_schedule(
    config.learning_rate, {int(step): config.decay_factor for step in config.decay_at}
  )


def depth_learning_rates(config: Any) -> Callable[[int], dict[str, float]]:
  """`learning_rates` of `build_depth_optimizer`."""
  schedule = _steps_down(config)

  def rates(count):
    rate = float(schedule(count))
    return {
      "learning_rate/depth_encoder": rate * config.depth_encoder_learning_rate_factor,
      "learning_rate/others": rate,
    }

  return rates


def _scale_groups(group: Callable[[Any], ParameterGroup]) -> optax.GradientTransformation:
  def scale(updates, _):
    return jax.tree_util.tree_map_with_path(
      lambda path, update: group(path).learning_rate_factor * update, updates
    )

  return optax.stateless(scale)


def repeated_sgd(
  schedule: optax.Schedule,
  group: Callable[[Any], ParameterGroup],
  *,
  momentum: float,
  weight_decay: float,
) -> optax.GradientTransformation:
  """SGD with momentum and coupled weight decay that may update a parameter several times a step.

  The release lists an encoder parameter once for each module that encloses it, and PyTorch's SGD
  then makes one full momentum update for each listing, with the same gradient and the weight decay
  computed anew. With one update for every parameter it is the published optimiser.

  Args:
    schedule: updates made so far → learning rate.
    group: path of a parameter → its group.
    momentum: share of the velocity that an update keeps.
    weight_decay: times the parameter, added to the gradient.
  """

  def init(params):
    return {"count": jnp.zeros((), jnp.int32), "velocity": jax.tree.map(jnp.zeros_like, params)}

  def update(gradients, state, params):
    rate = schedule(state["count"])

    def update_leaf(path, gradient, velocity, param):
      factor, updates = group(path)
      value = param
      for _ in range(updates):
        velocity = momentum * velocity + (gradient + weight_decay * value)
        value = value - (rate * factor).astype(value.dtype) * velocity
      return value - param, velocity

    pairs = jax.tree_util.tree_map_with_path(update_leaf, gradients, state["velocity"], params)
    updates, velocity = jax.tree.transpose(
      jax.tree.structure(params), jax.tree.structure((0, 0)), pairs
    )
    return updates, {"count": state["count"] + 1, "velocity": velocity}

  return optax.GradientTransformation(init, update)
