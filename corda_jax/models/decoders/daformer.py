"""Decoders that fuse all levels: DAFormer's (Hoyer et al., CVPR 2022) and SegFormer's.

SegFormer: Xie et al., NeurIPS 2021.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.configuration import (
  check_at_least,
  check_one_of,
  check_whole_numbers,
  check_within,
  given,
)
from corda_jax.models.blocks import prediction, rematerialized
from corda_jax.models.layers import (
  BatchNorm,
  Convolution,
  DepthwiseConvolution,
  Dtype,
  torch_uniform,
)
from corda_jax.models.transformer import Linear
from corda_jax.resize import resize_centered

# Of fresh convolutions before normalisations. Fan-out is not divided by groups, as released.
_fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_FUSIONS = ("separable_aspp", "aspp", "convolution", "bottleneck")


class ConvolutionNormRelu(nn.Module):
  """A convolution, batch normalisation, ReLU.

  Attributes:
    features: channels out.
    kernel_size: side of the kernel.
    dilation: distance of the kernel's taps in pixels.
    norm: fields of `BatchNorm`.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
  """

  features: int
  kernel_size: int = 1
  dilation: int = 1
  norm: dict[str, Any] = dataclasses.field(default_factory=dict)
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, features]."""
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = Convolution(
      self.features,
      self.kernel_size,
      dilation=self.dilation,
      kernel_init=_fan_out_normal,
      name="conv",
      **types,
    )(x)
    return nn.relu(BatchNorm(name="norm", **self.norm, **types)(x, train=train))


class SeparableConvolution(nn.Module):
  """A depthwise 3x3 and a 1x1 convolution, each with batch normalisation and ReLU.

  Attributes: as of `ConvolutionNormRelu`.
  """

  features: int
  dilation: int = 1
  norm: dict[str, Any] = dataclasses.field(default_factory=dict)
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, features]."""
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = DepthwiseConvolution(
      self.dilation, kernel_init=_fan_out_normal, name="depthwise_conv", **types
    )(x)
    x = nn.relu(BatchNorm(name="depthwise_norm", **self.norm, **types)(x, train=train))
    return ConvolutionNormRelu(self.features, norm=self.norm, name="pointwise", **types)(
      x, train=train
    )


class AtrousPyramid(nn.Module):
  """ASPP without image pooling: parallel dilated convolutions, joined by a 3x3.

  Attributes:
    features: channels of each branch and out.
    dilations: one branch each; 1 is a 1x1 convolution.
    separable: whether the 3x3 convolutions are separable.
    norm: fields of `BatchNorm`.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
  """

  features: int
  dilations: Sequence[int]
  separable: bool
  norm: dict[str, Any] = dataclasses.field(default_factory=dict)
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, H, W, features]."""
    options = {"norm": self.norm, "dtype": self.dtype, "param_dtype": self.param_dtype}
    branches = []
    for index, dilation in enumerate(self.dilations):
      options["name"] = f"branch{index}"
      if dilation == 1:
        branch = ConvolutionNormRelu(self.features, **options)
      elif self.separable:
        branch = SeparableConvolution(self.features, dilation, **options)
      else:
        branch = ConvolutionNormRelu(self.features, 3, dilation, **options)
      branches.append(branch(x, train=train))
    x = jnp.concatenate(branches, axis=-1)
    options["name"] = "bottleneck"
    return ConvolutionNormRelu(self.features, 3, **options)(x, train=train)


@dataclasses.dataclass(frozen=True)
class FusionDecoder:
  """Brings all levels to one width and to the size of the finest, and fuses them.

  The defaults are DAFormer's; SegFormer's has fusion "convolution" and `coarsest_first`, and widths
  of 256 (with MiT-B0 and B1) or 768.

  Attributes:
    embed_width: channels that each level is brought to.
    width: channels of a task's feature.
    fusion: "separable_aspp", as in DAFormer; "aspp", with full convolutions; "convolution", a 1x1;
      or "bottleneck", where the coarsest level is embedded by a separable ASPP, and the fusion is a
      1x1.
    dilations: branches of an ASPP; 1 is a 1x1 convolution.
    coarsest_first: whether levels are concatenated from the coarsest on.
    dropout: rate at which whole channels of the semantic feature are dropped.
    batch_norm_group: as in the encoder.
    batch_norm_domains: as in the encoder.
    rematerialize: whether an ASPP is computed again in the backward pass, to save memory.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
    head_init: initialiser of the kernels that predict.
  """

  embed_width: int = 256
  width: int = 256
  fusion: str = "separable_aspp"
  dilations: Sequence[int] = (1, 6, 12, 18)
  coarsest_first: bool = False
  dropout: float = 0.1
  batch_norm_group: int = given(0)
  batch_norm_domains: int = given(1)
  rematerialize: bool = given(False)
  dtype: Dtype | None = given(None)
  param_dtype: Dtype = given(jnp.float32)
  head_init: nn.initializers.Initializer = given(nn.initializers.normal(0.01))

  def __post_init__(self):
    check_at_least(self, embed_width=1, width=1)
    check_one_of(self, fusion=_FUSIONS)
    check_whole_numbers(self, "dilations")
    check_within(self, dropout=(0, 0.99))

  def features(self, levels: Sequence[jax.Array], task: str, *, train: bool) -> jax.Array:
    """As in the interface: [B, h, w, width] at the size of the finest level."""
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    norm = {"group": self.batch_norm_group, "domains": self.batch_norm_domains}
    name, size = f"decoder_{task}", levels[0].shape[1:3]
    aspp = rematerialized(AtrousPyramid, self.rematerialize)
    embedded = []
    for index, level in enumerate(levels):
      own = f"{name}_embed{index}"
      if self.fusion == "bottleneck" and index == len(levels) - 1:
        pyramid = aspp(self.embed_width, self.dilations, True, norm=norm, name=own, **types)
        x = pyramid(level, train)
      else:
        x = Linear(self.embed_width, kernel_init=torch_uniform, name=own, **types)(level)
      embedded.append(x if x.shape[1:3] == size else resize_centered(x, size))
    x = jnp.concatenate(embedded[::-1] if self.coarsest_first else embedded, axis=-1)
    own = f"{name}_fuse"
    if "aspp" in self.fusion:
      separable = self.fusion == "separable_aspp"
      return aspp(self.width, self.dilations, separable, norm=norm, name=own, **types)(x, train)
    return ConvolutionNormRelu(self.width, norm=norm, name=own, **types)(x, train=train)

  def predict(self, x: jax.Array, name: str, channels: int, *, initial: float = 0.0) -> jax.Array:
    """As in the interface, by a 1x1 convolution."""
    return prediction(
      channels,
      initial=initial,
      kernel_init=self.head_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)
