"""Depth as an input: a second encoder sees it, and the features of both are fused level by level.

After MICDrop (Yang et al., ECCV 2024, arXiv 2408.16478), whose code and details are not public: how
features are fused, and which ones are hidden when, is this project's choice.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.configuration import check_at_least, check_one_of, check_within
from corda_jax.models.corda import Corda, Levels, for_domains, sample_kept
from corda_jax.models.encoders.base import Encoder
from corda_jax.models.encoders.resnet import ResNet
from corda_jax.models.layers import Convolution
from corda_jax.models.operations import hide_blocks
from corda_jax.typing import Array, Float

_SCALE = 3.0  # of logarithms of inverse depth, which are 0 to 5.5


class DepthGuided(Corda):
  """CorDA's network, whose decoders read fused features of image and depth.

  Images have a fourth channel, that of `with_depth`. In training, complementary dropout hides the
  features of the image in some blocks, and those of the depth in all others, on all levels alike,
  so that each has to do without the other; elsewhere nothing is hidden. This holds for every pass
  of the student, and never for the teacher.

  Attributes:
    depth_encoder: sees the depth; its levels have the strides of those of `encoder`.
    fusion: what is added to the image's feature: "sum", a 1x1 convolution of the depth's; or
      "gated", that times the sigmoid of a 1x1 convolution of both.
    dropout: share of the images of which features are hidden.
    dropout_block: side of the blocks, in pixels.
    image_dropout: share of their blocks in which the image's features are hidden, on average.
  """

  depth_encoder: Encoder = ResNet(
    stage_sizes=(2, 2, 2, 2), block="basic", expansion=1, trainable_affine=True
  )
  fusion: str = "gated"
  dropout: float = 0.5
  dropout_block: int = 64
  image_dropout: float = 0.5

  def __post_init__(self):
    check_one_of(self, fusion=("sum", "gated"))
    check_within(self, dropout=(0, 1), image_dropout=(0, 1))
    check_at_least(self, dropout_block=1)
    if tuple(self.depth_encoder.level_strides) != tuple(self.encoder.level_strides):
      raise ValueError(
        f"depth_encoder has levels of the strides {self.depth_encoder.level_strides}, expected "
        f"those of the image's encoder, {self.encoder.level_strides}"
      )
    if getattr(self.depth_encoder, "image_scale", 1) != getattr(self.encoder, "image_scale", 1):
      raise ValueError(
        f"depth_encoder.image_scale is {getattr(self.depth_encoder, 'image_scale', 1)}, expected "
        f"that of the image's encoder, {getattr(self.encoder, 'image_scale', 1)}"
      )
    if not getattr(self.depth_encoder, "trainable_affine", True):
      raise ValueError(
        "depth_encoder.trainable_affine is False, but nothing of it is pretrained: set it to True"
      )
    super().__post_init__()

  @property
  def input_channels(self) -> int:
    """As in the base class: colours, and depth."""
    return 4

  def for_domains(self, domains: int) -> "DepthGuided":
    """As in the base class."""
    return (
      super().for_domains(domains).clone(depth_encoder=for_domains(self.depth_encoder, domains))
    )

  @nn.nowrap
  def sample(self, key: jax.Array, shape: tuple[int, int, int]) -> dict[str, Any]:
    """As in the base class; and "depth_encoder", and "image_seen", bool[B, h, w] of the blocks, and
    "depth_seen", the others, but both True for images of which nothing is hidden.
    """
    draws = super().sample(key, shape)
    of_encoder, of_blocks, of_images = jax.random.split(jax.random.fold_in(key, 1), 3)
    draws |= sample_kept(of_encoder, "depth_encoder", self.depth_encoder, shape[0])
    if self.dropout:
      grid = (max(1, round(n / self.dropout_block)) for n in shape[1:])
      seen = jax.random.uniform(of_blocks, (shape[0], *grid)) >= self.image_dropout
      whole = jax.random.uniform(of_images, (shape[0], 1, 1)) >= self.dropout
      draws |= {"image_seen": seen | whole, "depth_seen": ~seen | whole}
    return draws

  def levels(self, x: jax.Array, draws: Mapping[str, Any], *, train: bool) -> Levels:
    """As in the base class; what decoders read is fused.

    Raises:
      ValueError: the images have no depth.
    """
    if x.shape[-1] != self.input_channels:
      raise ValueError(f"images have {x.shape[-1]} channels, expected colours and depth, 4")
    found = super().levels(x[..., :3], draws, train=train).encoder
    kept = {"kept": draws["depth_encoder"]} if "depth_encoder" in draws else {}
    depth = self.depth_encoder.features(x[..., 3:], train=train, **kept)
    fused = []
    for level, (y, z) in enumerate(zip(found, depth, strict=True)):
      if "image_seen" in draws:
        y, z = hide_blocks(y, draws["image_seen"]), hide_blocks(z, draws["depth_seen"])
      fused.append(self._fuse(y, z, f"fusion{level}"))
    return Levels(found, fused)

  def _fuse(self, image: jax.Array, depth: jax.Array, name: str) -> jax.Array:
    def convolution(part, x):
      return Convolution(
        image.shape[-1],
        use_bias=True,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        kernel_init=self.kernel_init,
        name=f"{name}_{part}",
      )(x)

    found = convolution("depth", depth)
    if self.fusion == "gated":
      found *= nn.sigmoid(convolution("gate", jnp.concatenate([image, depth], axis=-1)))
    return image + found


def with_depth(
  x: Float[Array, "b h w 3"], inverse_depth: Float[Array, "b h w"]
) -> Float[Array, "b h w 4"]:
  """Network inputs with the depth as their fourth channel.

  Args:
    x: network inputs.
    inverse_depth: Y, 1 or more; 1 is "no depth".

  Returns:
    The fourth channel is log(Y) / 3: 0 for "no depth", 0.9 for 40 m, 1.8 for 2.5 m.
  """
  depth = jnp.log(jnp.maximum(inverse_depth, 1)) / _SCALE
  return jnp.concatenate([x, depth[..., None].astype(x.dtype)], axis=-1)


def seen_inverse_depth(x: Float[Array, "b h w 4"]) -> Float[Array, "b h w"]:
  """Inverse depth Y of network inputs made by `with_depth`, 1 where there was none."""
  return jnp.exp(_SCALE * x[..., 3])


def sees_depth(model: nn.Module) -> bool:
  """Whether the images of a network have the channel of the depth."""
  return getattr(model, "input_channels", 3) > 3


def network_input(
  model: nn.Module, x: Float[Array, "b h w 3"], inverse_depth: Float[Array, "b h w"] | None
) -> Float[Array, "b h w c"]:
  """Normalised images `x` as a network takes them: with the depth where it sees it.

  Raises:
    ValueError: it sees depth, and there is none.
  """
  if not sees_depth(model):
    return x
  if inverse_depth is None:
    raise ValueError("the network sees depth, but the batch has no inverse_depth")
  return with_depth(x, inverse_depth)
