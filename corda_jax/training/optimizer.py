"""Optimisers with the release's parameter groups, as optax transformations."""

import abc
import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from corda_jax.configuration import check_at_least, check_within

_AFFINE = re.compile(r"norm\d*/(scale|bias)$")


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


@dataclasses.dataclass(frozen=True)
class Warmup:
  """First steps in which the learning rate rises linearly.

  Attributes:
    steps: number of these steps; 0: none.
    start: the factor of the learning rate at the first of them.
    with_decay: whether the rate also falls meanwhile, by the product of both, as in DAFormer; or
      rises to its full value and then jumps to what the schedule says, as in VFM-UDA.
  """

  steps: int = 0
  start: float = 1e-6
  with_decay: bool = True

  def __post_init__(self):
    check_at_least(self, steps=0)
    check_within(self, start=(0, 1))

  def applied(self, schedule: optax.Schedule, peak: float) -> optax.Schedule:
    """The schedule with these first steps; `peak` is its full value."""
    if not self.steps:
      return schedule

    last = self.steps if self.with_decay else max(self.steps - 1, 1)

    def warmed(count):
      rise = 1 - (1 - count / last) * (1 - self.start)
      rising = rise * (schedule(count) if self.with_decay else peak)
      return jnp.where(count < self.steps, rising, schedule(count))

    return warmed


@dataclasses.dataclass(frozen=True)
class EncoderUpdates:
  """Momentum updates per step that `SGD` makes of the encoder's parameters; in the paper all 1.

  Attributes:
    stem: updates of the first convolution and its normalisation.
    residual: updates of the residual blocks.
    projection: updates of the shortcuts of the blocks.
  """

  stem: int = 1
  residual: int = 3
  projection: int = 4

  def __post_init__(self):
    check_at_least(self, stem=1, residual=1, projection=1)


@dataclasses.dataclass(frozen=True)
class Polynomial(abc.ABC):
  """Base of `SGD` and `AdamW`: groups, and a learning rate that falls to zero.

  Attributes:
    learning_rate: initial learning rate of the encoder.
    head_learning_rate_factor: factor of it for all other parameters.
    schedule_power: the rate is multiplied by (1 - step / num_steps) ** schedule_power.
    momentum: share of the velocity that an update keeps; in AdamW, of the first moment.
    weight_decay: weight decay; coupled in SGD, decoupled in AdamW.
    warmup: first steps in which the rate rises.
  """

  learning_rate: float = 2.5e-4
  head_learning_rate_factor: float = 10.0
  schedule_power: float = 0.9
  momentum: float = 0.9
  weight_decay: float = 5e-4
  warmup: Warmup = Warmup()

  def __post_init__(self):
    check_at_least(
      self, learning_rate=0, head_learning_rate_factor=0, schedule_power=0, weight_decay=0
    )
    check_within(self, momentum=(0, 1))

  def schedule(self, num_steps: int) -> optax.Schedule:
    """Updates made so far → learning rate of the encoder."""
    falling = optax.polynomial_schedule(
      init_value=self.learning_rate,
      end_value=0.0,
      power=self.schedule_power,
      transition_steps=num_steps,
    )
    return self.warmup.applied(falling, self.learning_rate)

  def rates(self, num_steps: int) -> Callable[[int], dict[str, float]]:
    """Updates made so far → learning rates of the next by the names of their curves."""
    schedule = self.schedule(num_steps)

    def rates(count):
      rate = float(schedule(count))
      return {
        "learning_rate/encoder": rate,
        "learning_rate/heads": rate * self.head_learning_rate_factor,
      }

    return rates

  def group(self, name: str, *, freeze_encoder_affine: bool) -> ParameterGroup:
    """The group of a parameter.

    Args:
      name: slash-separated path, such as "encoder/stage1_block0/conv1/kernel".
      freeze_encoder_affine: whether scales and biases of the encoder's normalisations are frozen.
    """
    if not name.startswith("encoder/"):
      return ParameterGroup(self.head_learning_rate_factor)
    if freeze_encoder_affine and _AFFINE.search(name):
      return ParameterGroup(0.0, 0)
    return ParameterGroup(1.0, self._updates(name))

  def _updates(self, name: str) -> int:
    return 1

  def build(self, num_steps: int, *, freeze_encoder_affine: bool) -> optax.GradientTransformation:
    """The optimiser.

    Args:
      num_steps: steps after which the learning rate reaches zero.
      freeze_encoder_affine: whether scales and biases of the encoder's normalisations are frozen.
    """
    polynomial = self.schedule(num_steps)

    def schedule(count):
      # The widest float enabled: runs in float64 are compared with reference values.
      return polynomial(count.astype(jnp.result_type(float)))

    def group(path):
      return self.group(path_name(path), freeze_encoder_affine=freeze_encoder_affine)

    return self._transformation(schedule, group)

  @abc.abstractmethod
  def _transformation(self, schedule, group) -> optax.GradientTransformation:
    """From the schedule, step → learning rate, and the group of each parameter's path."""


@dataclasses.dataclass(frozen=True)
class SGD(Polynomial):
  """SGD as released; see `repeated_sgd`.

  Attributes:
    encoder_updates_per_step: momentum updates per step; the release makes several.
  """

  encoder_updates_per_step: EncoderUpdates = EncoderUpdates()

  def _updates(self, name):
    updates = self.encoder_updates_per_step
    if "/stem_" in name:
      return updates.stem
    return updates.projection if "/projection_" in name else updates.residual

  def _transformation(self, schedule, group):
    return repeated_sgd(schedule, group, momentum=self.momentum, weight_decay=self.weight_decay)


@dataclasses.dataclass(frozen=True)
class AdamW(Polynomial):
  """AdamW, for transformers, and for short runs from scratch, in which it learns faster than SGD.

  With learning rate 6e-5, weight decay 0.01, schedule power 1, `decay_encoder_norms` False and a
  warm-up of 1,500 steps it is DAFormer's.

  Attributes:
    beta2: decay rate of the second moment.
    decay_encoder_norms: whether the weight decay acts on scales and biases of the encoder's
      normalisations, too.
    layer_decay: factor of the learning rate from each block of a Vision Transformer to the one
      before, and from the first block to what embeds the image. VFM-UDA++: 0.9.
  """

  beta2: float = 0.999
  decay_encoder_norms: bool = True
  layer_decay: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    check_within(self, beta2=(0, 1), layer_decay=(0, 1))

  def group(self, name: str, *, freeze_encoder_affine: bool) -> ParameterGroup:
    """As in the base class."""
    group = super().group(name, freeze_encoder_affine=freeze_encoder_affine)
    undecayed = not self.decay_encoder_norms and name.startswith("encoder/")
    factor = 0.0 if undecayed and _AFFINE.search(name) else 1.0
    return group._replace(weight_decay_factor=factor)

  def _transformation(self, schedule, group):
    return optax.chain(
      optax.scale_by_adam(b1=self.momentum, b2=self.beta2),
      _decay_groups(group, self.weight_decay),
      _scale_groups(group),
      *(() if self.layer_decay == 1 else (_decay_layers(self.layer_decay),)),
      optax.scale_by_learning_rate(schedule),
    )


@dataclasses.dataclass(frozen=True)
class DepthAdam:
  """Adam for the depth and pose networks, with a learning rate that falls in steps.

  Attributes:
    learning_rate: initial learning rate.
    depth_encoder_learning_rate_factor: factor of it for the pretrained encoder of the depth
      network.
    decay_at: steps at which the rate falls; released: after 15 of 20 epochs.
    decay_factor: factor of the learning rate at each of these steps.
    beta1: decay rate of the first moment.
    beta2: decay rate of the second moment.
  """

  learning_rate: float = 1e-4
  depth_encoder_learning_rate_factor: float = 0.1
  decay_at: tuple[int, ...] = (262_500,)
  decay_factor: float = 0.1
  beta1: float = 0.9
  beta2: float = 0.999

  def __post_init__(self):
    check_at_least(self, learning_rate=0, depth_encoder_learning_rate_factor=0)
    check_within(self, decay_factor=(0, 1), beta1=(0, 1), beta2=(0, 1))

  def schedule(self) -> optax.Schedule:
    """Updates made so far → learning rate."""
    return optax.piecewise_constant_schedule(
      self.learning_rate, {int(step): self.decay_factor for step in self.decay_at}
    )

  def rates(self) -> Callable[[int], dict[str, float]]:
    """Updates made so far → learning rates of the next by the names of their curves."""
    schedule = self.schedule()

    def rates(count):
      rate = float(schedule(count))
      return {
        "learning_rate/depth_encoder": rate * self.depth_encoder_learning_rate_factor,
        "learning_rate/others": rate,
      }

    return rates

  def build(self) -> optax.GradientTransformation:
    """The optimiser of {"depth": parameters} and, with video, {"pose": parameters}."""

    def group(path):
      encoder = path_name(path).startswith("depth/encoder/")
      return ParameterGroup(self.depth_encoder_learning_rate_factor if encoder else 1.0)

    return optax.chain(
      optax.scale_by_adam(b1=self.beta1, b2=self.beta2),
      _scale_groups(group),
      optax.scale_by_learning_rate(self.schedule()),
    )


def path_name(path: tuple[Any, ...]) -> str:
  """Slash-separated name of a leaf of a parameter tree."""
  return "/".join(str(key.key) for key in path)


def _scale_groups(group: Callable[[Any], ParameterGroup]) -> optax.GradientTransformation:
  def scale(updates, _):
    return jax.tree_util.tree_map_with_path(
      lambda path, update: group(path).learning_rate_factor * update, updates
    )

  return optax.stateless(scale)


def _decay_groups(
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


def _decay_layers(factor: float) -> optax.GradientTransformation:
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
