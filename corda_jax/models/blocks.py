"""Residual blocks (He et al., CVPR 2016)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.models.layers import BatchNorm, Convolution, Dtype
from corda_jax.models.operations import rectified_sum


class Bottleneck(nn.Module):
  """1x1 → 3x3 → 1x1 with a shortcut.

  Attributes:
    width: channels of the 3x3.
    features: channels out.
    stride: stride of one convolution and of the projection.
    dilation: dilation of the 3x3.
    project: whether the shortcut is a 1x1 convolution with normalisation.
    stride_on: the convolution with the stride: "conv1", the first 1x1, as in DeepLab v2, or
      "conv2", the 3x3, as in torchvision.
    trainable_affine: whether the scales and biases of the normalisations are trained.
    batch_norm_group: images that are normalised together in training; 0: the whole batch.
    batch_norm_domains: domains that a batch takes its images from in turn, each normalised by
      itself in training.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernels.
  """

  width: int
  features: int
  stride: int = 1
  dilation: int = 1
  project: bool = False
  stride_on: str = "conv1"
  trainable_affine: bool = True
  batch_norm_group: int = 0
  batch_norm_domains: int = 1
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
    convolution, normalize = _parts(self, train)
    first, second = (self.stride, 1) if self.stride_on == "conv1" else (1, self.stride)
    y = convolution(self.width, "conv1", stride=first)(x)
    y = nn.relu(normalize(y, "norm1"))
    y = convolution(self.width, "conv2", kernel_size=3, stride=second, dilation=self.dilation)(y)
    y = nn.relu(normalize(y, "norm2"))
    y = convolution(self.features, "conv3")(y)
    y = normalize(y, "norm3")
    if self.project:
      x = convolution(self.features, "projection_conv", stride=self.stride)(x)
      x = normalize(x, "projection_norm")
    return rectified_sum(x, y)


class BasicBlock(nn.Module):
  """3x3 → 3x3 with a shortcut, as in ResNet-18 and ResNet-34.

  Attributes:
    features: channels out.
    stride: stride of the first 3x3 and of the projection.
    dilation: dilation of both 3x3.
    project: whether the shortcut is a 1x1 convolution with normalisation.
    trainable_affine: whether the scales and biases of the normalisations are trained.
    batch_norm_group: images that are normalised together in training; 0: the whole batch.
    batch_norm_domains: domains that a batch takes its images from in turn, each normalised by
      itself in training.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernels.
  """

  features: int
  stride: int = 1
  dilation: int = 1
  project: bool = False
  trainable_affine: bool = True
  batch_norm_group: int = 0
  batch_norm_domains: int = 1
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
    convolution, normalize = _parts(self, train)
    size = {"kernel_size": 3, "dilation": self.dilation}
    y = convolution(self.features, "conv1", stride=self.stride, **size)(x)
    y = nn.relu(normalize(y, "norm1"))
    y = convolution(self.features, "conv2", **size)(y)
    y = normalize(y, "norm2")
    if self.project:
      x = convolution(self.features, "projection_conv", stride=self.stride)(x)
      x = normalize(x, "projection_norm")
    return rectified_sum(x, y)


def rematerialized(block: type[nn.Module], enabled: bool) -> type[nn.Module]:
  """The block, rematerialised in the backward pass if `enabled`.

  Only its input is stored, the rest is computed again. The results are the same.
  """
  # Of the arguments of __call__, itself among them, `train` is no array.
  return nn.remat(block, static_argnums=(2,)) if enabled else block


def _parts(block: Bottleneck | BasicBlock, train: bool) -> tuple[Callable, Callable]:
  """What makes a convolution of a block, and what normalises its output."""
  types = {"dtype": block.dtype, "param_dtype": block.param_dtype}
  norm = {
    "trainable": block.trainable_affine,
    "group": block.batch_norm_group,
    "domains": block.batch_norm_domains,
  }

  def convolution(features, name, **kwargs):
    return Convolution(features, name=name, kernel_init=block.kernel_init, **types, **kwargs)

  def normalize(y, name):
    return BatchNorm(name=name, **norm, **types)(y, train=train)

  return convolution, normalize
