"""Optimisers with the release's parameter groups, as optax transformations."""

import abc
import dataclasses
import re
from collections.abc import Callable

import jax.numpy as jnp
import optax

from corda_jax.configuration import check_at_least, check_within
from corda_jax.training.parameter_groups import (
  ParameterGroup,
  decay_groups,
  decay_layers,
  path_name,
  repeated_sgd,
  scale_groups,
)

_AFFINE = re.compile(r"norm\d*/(scale|bias)$")


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
    decay_encoder_norms: whether the weight decay acts on scales and biases of the encoders'
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
    of_encoder = name.startswith(("encoder/", "depth_encoder/"))
    undecayed = not self.decay_encoder_norms and of_encoder
    factor = 0.0 if undecayed and _AFFINE.search(name) else 1.0
    return group._replace(weight_decay_factor=factor)

  def _transformation(self, schedule, group):
    return optax.chain(
      optax.scale_by_adam(b1=self.momentum, b2=self.beta2),
      decay_groups(group, self.weight_decay),
      scale_groups(group),
      *(() if self.layer_decay == 1 else (decay_layers(self.layer_decay),)),
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
      scale_groups(group),
      optax.scale_by_learning_rate(self.schedule()),
    )
