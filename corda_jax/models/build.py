"""From configuration to network, and from uint8 images to its input."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.errors import UserError
from corda_jax.models.corda import Corda
from corda_jax.models.deeplab import DeepLab
from corda_jax.models.monodepth import DepthNetwork, PoseNetwork
from corda_jax.models.resnet import ResNet

_INITIALIZERS = {
  "normal_0.01": nn.initializers.normal(0.01),  # as released, before pretrained weights are loaded
  "he_normal": nn.initializers.he_normal(),  # for training from scratch
}


def _initializer(config: Any, field: str) -> nn.initializers.Initializer:
  name = config[field]
  if name not in _INITIALIZERS:
    raise UserError(f"model.{field} is {name!r}, wanted one of {sorted(_INITIALIZERS)}")
  return _INITIALIZERS[name]


def build_model(config: Any, num_classes: int, *, rematerialize: bool = False) -> nn.Module:
  """Builds the network that `config` (the `model` part of a configuration) describes.

  Args:
    config: its parts and sizes.
    num_classes: semantic classes.
    rematerialize: whether blocks are computed again in the backward pass, to save memory.

  Raises:
    UserError: a name in it is unknown.
  """
  types = _types(config)
  common = {
    "encoder": _encoder(config, config.encoder, rematerialize),
    "num_classes": num_classes,
    "classifier_dilations": tuple(config.classifier_dilations),
    "head_init": _initializer(config, "head_init"),
    **types,
  }
  if config.name == "deeplab":
    return DeepLab(**common)
  if config.name == "corda":
    return Corda(
      task_width=config.task_width,
      initial_semantics_from=config.initial_semantics_from,
      depth=config.depth,
      correlation=config.correlation,
      initial_inverse_depth=config.initial_inverse_depth,
      kernel_init=_initializer(config, "kernel_init"),
      **common,
    )
  raise UserError(f"model.name is {config.name!r}, wanted 'corda' or 'deeplab'")


def has_depth_heads(config: Any) -> bool:
  """Whether the network that `config` (the `model` part of a configuration) describes has them."""
  return config.name == "corda" and config.depth


def output_stride(encoder: Any) -> int:
  """Pixels of the image from one prediction to the next, of the `encoder` of a configuration."""
  stride = encoder.stem_stride * (2 if encoder.stem_pool else 1)
  return stride * math.prod(encoder.strides)


def build_depth_networks(
  config: Any, *, rematerialize: bool = False
) -> tuple[DepthNetwork, PoseNetwork]:
  """Builds the networks of self-supervised depth.

  `kernel_init` is that of the encoders. The decoders' kernels start as released, with PyTorch's
  default.

  Args:
    config: `dtype`, `param_dtype`, `kernel_init`, `batch_norm_group`, `encoder` and `pose_encoder`
      (fields of `ResNet`), `decoder_widths`, `initial_disparity`, `pose_decoder_width`.
    rematerialize: whether the encoders' blocks are computed again in the backward pass.

  Raises:
    UserError: a name in it is unknown.
  """
  types = _types(config)
  depth = DepthNetwork(
    _encoder(config, config.encoder, rematerialize),
    widths=tuple(config.decoder_widths),
    initial_disparity=config.initial_disparity,
    **types,
  )
  return depth, build_pose_network(config, rematerialize=rematerialize)


def build_pose_network(config: Any, *, rematerialize: bool = False) -> PoseNetwork:
  """Builds the pose network: `pose_encoder` and `pose_decoder_width` of `build_depth_networks`.

  Raises:
    UserError: a name in it is unknown.
  """
  encoder = _encoder(config, config.pose_encoder, rematerialize)
  return PoseNetwork(encoder, decoder_width=config.pose_decoder_width, **_types(config))


def _types(config: Any) -> dict[str, Any]:
  return {"dtype": jnp.dtype(config.dtype), "param_dtype": jnp.dtype(config.param_dtype)}


def _encoder(config: Any, fields: Mapping[str, Any], rematerialize: bool) -> ResNet:
  return ResNet(
    rematerialize=rematerialize,
    batch_norm_group=config.batch_norm_group,
    kernel_init=_initializer(config, "kernel_init"),
    **{name: _frozen(value) for name, value in fields.items()},
    **_types(config),
  )


def _frozen(value: Any) -> Any:
  return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


@dataclasses.dataclass(frozen=True)
class Normalization:
  """How uint8 images become network input: (x - mean) / std, channels in the network's order.

  Attributes:
    mean: 0..255, in the network's channel order.
    std: divisor of each channel, in the same order.
    bgr: whether the network wants blue first. The released weights do.
  """

  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  bgr: bool

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> "Normalization":
    """Reads `model.normalization`."""
    return cls(tuple(config["mean"]), tuple(config["std"]), config["bgr"])

  def normalize(self, images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """Maps uint8 RGB [..., 3] to network input of `dtype`."""
    if self.bgr:
      images = images[..., ::-1]
    mean, std = jnp.asarray(self.mean, dtype), jnp.asarray(self.std, dtype)
    return (images.astype(dtype) - mean) / std

  def to_unit_range(self, x: jax.Array) -> jax.Array:
    """Maps network input to 0..1, in the network's channel order."""
    mean, std = jnp.asarray(self.mean, x.dtype), jnp.asarray(self.std, x.dtype)
    return (x * std + mean) / 255

  def from_unit_range(self, x: jax.Array) -> jax.Array:
    """Inverse of `to_unit_range`."""
    mean, std = jnp.asarray(self.mean, x.dtype), jnp.asarray(self.std, x.dtype)
    return (x * 255 - mean) / std
