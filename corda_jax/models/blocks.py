"""Residual blocks (He et al., CVPR 2016), and what networks predict by."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.models.layers import BatchNorm, Convolution, Dtype
from corda_jax.models.operations import rectified_sum


class _Block(nn.Module):
  """What residual blocks share.

  Attributes:
    features: channels out.
    stride: stride of one convolution and of the projection.
    dilation: dilation of the 3x3 convolutions.
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

  def _convolve(self, x: jax.Array, features: int, name: str, **options: int) -> jax.Array:
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    return Convolution(features, name=name, kernel_init=self.kernel_init, **types, **options)(x)

  def _normalize(self, x: jax.Array, name: str, train: bool) -> jax.Array:
    return BatchNorm(
      name=name,
      trainable=self.trainable_affine,
      group=self.batch_norm_group,
      domains=self.batch_norm_domains,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )(x, train=train)

  def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
    if not self.project:
      return x
    x = self._convolve(x, self.features, "projection_conv", stride=self.stride)
    return self._normalize(x, "projection_norm", train)


class Bottleneck(_Block):
  """1x1 → 3x3 → 1x1 with a shortcut. Fields of all blocks: `_Block`.

  Attributes:
    width: channels of the 3x3.
    stride_on: the convolution with the stride: "conv1", the first 1x1, as in DeepLab v2, or
      "conv2", the 3x3, as in torchvision.
  """

  width: int = 64
  stride_on: str = "conv1"

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
    first, second = (self.stride, 1) if self.stride_on == "conv1" else (1, self.stride)
    y = self._convolve(x, self.width, "conv1", stride=first)
    y = nn.relu(self._normalize(y, "norm1", train))
    size = {"kernel_size": 3, "dilation": self.dilation}
    y = self._convolve(y, self.width, "conv2", stride=second, **size)
    y = nn.relu(self._normalize(y, "norm2", train))
    y = self._normalize(self._convolve(y, self.features, "conv3"), "norm3", train)
    return rectified_sum(self._shortcut(x, train), y)


class BasicBlock(_Block):
  """3x3 → 3x3 with a shortcut, as in ResNet-18 and ResNet-34; the first has the stride."""

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
    size = {"kernel_size": 3, "dilation": self.dilation}
    y = self._convolve(x, self.features, "conv1", stride=self.stride, **size)
    y = nn.relu(self._normalize(y, "norm1", train))
    y = self._normalize(self._convolve(y, self.features, "conv2", **size), "norm2", train)
    return rectified_sum(self._shortcut(x, train), y)


def prediction(channels: int, *, initial: float = 0.0, **fields: Any) -> Convolution:
  """A 1x1 convolution that predicts: what leaves is at least float32.

  Args:
    channels: channels out.
    initial: mean prediction of fresh weights.
    **fields: other fields of `Convolution`.
  """
  fields = {"use_bias": True, "bias_init": nn.initializers.constant(initial)} | fields
  return Convolution(channels, predicts=True, **fields)


def rematerialized(block: type[nn.Module], enabled: bool) -> type[nn.Module]:
  """The block, rematerialised in the backward pass if `enabled`.

  Only its input is stored, the rest is computed again. The results are the same.
  """
  # Of the arguments of __call__, itself among them, `train` is no array.
  return nn.remat(block, static_argnums=(2,)) if enabled else block
