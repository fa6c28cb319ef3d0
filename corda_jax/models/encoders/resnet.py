"""Residual encoders, dilated or not (He et al., CVPR 2016; dilation as in DeepLab v2)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.configuration import check_at_least, check_one_of, check_whole_numbers, given
from corda_jax.models.blocks import BasicBlock, Bottleneck, rematerialized
from corda_jax.models.layers import BatchNorm, Convolution, Dtype


class ResNet(nn.Module):
  """A residual encoder.

  The defaults are the released encoder, ResNet-101 at output stride 8, but for `kernel_init`: the
  release draws N(0, 0.01) and then loads pretrained weights. Torchvision's networks have strides
  (1, 2, 2, 2), no dilation, `stride_on` "conv2" and `stem_pool_ceil` False; ResNet-18 has basic
  blocks, (2, 2, 2, 2) of them, and expansion 1.

  Attributes:
    stage_sizes: blocks a stage.
    block: "bottleneck", or "basic", as in ResNet-18 and ResNet-34.
    stride_on: a bottleneck's convolution with the stride: "conv1", the first 1x1, as in DeepLab v2,
      or "conv2", the 3x3, as in torchvision. Basic blocks have it on the first 3x3.
    width: channels of the 3x3 convolutions of the first stage; doubles with each stage.
    expansion: channels out of a bottleneck, as a multiple of its width; 1 with basic blocks.
    stem_kernel: side of the first convolution's kernel, odd.
    stem_stride: its stride.
    stem_pool: whether a 3x3 max pooling of stride 2 follows it.
    stem_pool_ceil: whether the pooled size is rounded up, as in DeepLab v2; torchvision's ResNet
      rounds down.
    strides: stride of each stage.
    dilations: dilation of each stage's 3x3 convolutions.
    trainable_affine: whether the scales and biases of the normalisations are trained. The release
      freezes them.
    batch_norm_group: images that are normalised together in training; 0: the whole batch.
    batch_norm_domains: domains that a batch takes its images from in turn, each normalised by
      itself in training.
    rematerialize: whether blocks are computed again in the backward pass, to save memory.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernels.
  """

  stage_sizes: Sequence[int] = (3, 4, 23, 3)
  block: str = "bottleneck"
  stride_on: str = "conv1"
  width: int = 64
  expansion: int = 4
  stem_kernel: int = 7
  stem_stride: int = 2
  stem_pool: bool = True
  stem_pool_ceil: bool = True
  strides: Sequence[int] = (1, 2, 1, 1)
  dilations: Sequence[int] = (1, 1, 2, 4)
  trainable_affine: bool = False
  batch_norm_group: int = given(0)
  batch_norm_domains: int = given(1)
  rematerialize: bool = given(False)
  dtype: Dtype | None = given(None)
  param_dtype: Dtype = given(jnp.float32)
  kernel_init: nn.initializers.Initializer = given(nn.initializers.he_normal())

  def __post_init__(self):
    check_whole_numbers(self, "stage_sizes", "strides", "dilations")
    if not len(self.stage_sizes) == len(self.strides) == len(self.dilations):
      raise ValueError(
        f"stage_sizes is {self.stage_sizes}, strides {self.strides} and dilations "
        f"{self.dilations}, expected one entry a stage in each"
      )
    check_at_least(self, width=1, expansion=1, stem_kernel=1, stem_stride=1)
    check_one_of(self, block=("bottleneck", "basic"), stride_on=("conv1", "conv2"))
    if self.stem_kernel % 2 == 0:
      raise ValueError(f"stem_kernel is {self.stem_kernel}, expected an odd number")
    if self.block == "basic" and self.expansion != 1:
      raise ValueError(f"expansion is {self.expansion}, but basic blocks have none: set it to 1")
    super().__post_init__()

  @property
  def level_strides(self) -> tuple[int, ...]:
    """Stride of each of `features`, in pixels of the image."""
    strides = [self.stem_stride]
    for stage, stride in enumerate(self.strides):
      pooled = 2 if stage == 0 and self.stem_pool else 1
      strides.append(strides[-1] * pooled * stride)
    return tuple(strides)

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps normalised images [B, H, W, 3] to features [B, h, w, C] at the output stride."""
    return self.features(x, train=train)[-1]

  @nn.compact
  def features(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
    """Features of all levels, of which `level_strides` gives the strides.

    Args:
      x: [B, H, W, C] normalised images; any number of channels.
      train: whether to normalise by the statistics of the batch, and to update the running ones.

    Returns:
      What leaves the stem, before its pooling, and then each stage: [B, h, w, C].
    """
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = Convolution(
      self.width,
      self.stem_kernel,
      self.stem_stride,
      kernel_init=self.kernel_init,
      name="stem_conv",
      **types,
    )(x)
    norm = {
      "trainable": self.trainable_affine,
      "group": self.batch_norm_group,
      "domains": self.batch_norm_domains,
    }
    x = BatchNorm(name="stem_norm", **norm, **types)(x, train=train)
    x = nn.relu(x)
    levels = [x]
    if self.stem_pool:
      x = max_pool(x, ceil=self.stem_pool_ceil)
    stages = zip(self.stage_sizes, self.strides, self.dilations, strict=True)
    for stage, (blocks, stride, dilation) in enumerate(stages):
      for index in range(blocks):
        step = {"stride": stride if index == 0 else 1, "dilation": dilation}
        x = self._block(stage, index, x.shape[-1], **step)(x, train)
      levels.append(x)
    return levels

  def _block(
    self, stage: int, index: int, channels: int, *, stride: int, dilation: int
  ) -> Bottleneck | BasicBlock:
    width = self.width * 2**stage
    features = width * self.expansion
    options = {
      "stride": stride,
      "dilation": dilation,
      "project": stride != 1 or channels != features,
      "trainable_affine": self.trainable_affine,
      "batch_norm_group": self.batch_norm_group,
      "batch_norm_domains": self.batch_norm_domains,
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
      "kernel_init": self.kernel_init,
      "name": f"stage{stage + 1}_block{index}",
    }
    if self.block == "basic":
      return rematerialized(BasicBlock, self.rematerialize)(features, **options)
    bottleneck = rematerialized(Bottleneck, self.rematerialize)
    return bottleneck(features, width=width, stride_on=self.stride_on, **options)


def max_pool(x: jax.Array, *, ceil: bool) -> jax.Array:
  """3x3 max pooling, stride 2, padding 1, sizes rounded as PyTorch's `ceil_mode` says.

  Maps [B, H, W, C] to [B, floor(H / 2) + 1, floor(W / 2) + 1, C], or, rounded down, to
  [B, ceil(H / 2), ceil(W / 2), C].
  """

  def padding(size):
    # Windows start at -1, 1, 3, …; the last one starts inside the image and may reach past it.
    windows = size // 2 + 1 if ceil else (size + 1) // 2
    return 1, 2 * (windows - 1) + 3 - 1 - size

  return nn.max_pool(x, (3, 3), (2, 2), (padding(x.shape[1]), padding(x.shape[2])))
