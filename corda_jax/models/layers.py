"""Convolution and batch normalisation as the released networks use them, on NHWC arrays."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.models.depthwise import depthwise_convolve
from corda_jax.models.operations import channel_product, convolve
from corda_jax.typing import Array, Float

Dtype = Any


def accumulation_dtype(dtype: Dtype) -> Dtype:
  """The type of statistics, losses and other sums over values of `dtype`: at least float32."""
  return jnp.float64 if dtype == jnp.float64 else jnp.float32


# Of the kernels of a convolution in PyTorch that nobody initialised: uniform within
# 1 / sqrt(fan-in). Their biases are drawn from the same range there, and are zero here.
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Convolution(nn.Module):
  """A square convolution with PyTorch's symmetric padding, dilation (kernel_size - 1) / 2.

  A 1x1 kernel is applied as a matrix product: the same arithmetic, and on a CPU, whose backward
  convolutions are slow, more than twice as fast in a whole training step.

  Attributes:
    features: channels out.
    kernel_size: side of the kernel, odd, in pixels.
    stride: step in pixels.
    dilation: distance of the kernel's taps in pixels.
    use_bias: whether a bias is added.
    reflect: whether the image is continued by its mirror image, edge pixels not repeated, and not
      by zeros.
    dtype: dtype of the computation; None: that of the input.
    predicts: whether what leaves are predictions, which are at least float32: a 1x1 kernel alone.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernel, [kernel_size, kernel_size, in, out].
    bias_init: initialiser of the bias.
  """

  features: int
  kernel_size: int = 1
  stride: int = 1
  dilation: int = 1
  use_bias: bool = False
  reflect: bool = False
  predicts: bool = False
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ {self.features}"]:
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
    size = self.kernel_size
    kernel = self.param(
      "kernel", self.kernel_init, (size, size, x.shape[-1], self.features), self.param_dtype
    )
    dtype = self.dtype or x.dtype
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if size == 1:
      wide = accumulation_dtype(dtype) if self.predicts else dtype
      y = channel_product(x[:, :: self.stride, :: self.stride], kernel[0, 0], wide)
    else:
      padding = self.dilation * (size - 1) // 2
      if self.reflect:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), "reflect")
        padding = 0
      y = convolve(x, kernel, stride=self.stride, padding=padding, dilation=self.dilation)
    if self.use_bias:
      bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
      y = y + bias.astype(y.dtype)
    return y


class PatchConvolution(nn.Module):
  """A convolution whose stride is its kernel's side, with bias: one matrix product of patches.

  Rows and columns that do not fill a patch are dropped.

  Attributes:
    features: channels out.
    size: side of the patches, in pixels.
    dtype: dtype of the computation; None: that of the input.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernel, [size, size, in, out].
  """

  features: int
  size: int
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ {self.features}"]:
    """Maps [B, H, W, C] to [B, floor(H / size), floor(W / size), features].

    Raises:
      ValueError: there is no whole patch.
    """
    size, (batch, height, width, channels) = self.size, x.shape
    if isinstance(height, int) and isinstance(width, int) and min(height, width) < size:
      raise ValueError(f"{height}x{width} features hold no patch of {size}x{size}: enlarge images")
    shape = (size, size, channels, self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
    dtype = self.dtype or x.dtype
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].astype(dtype)
    patches = x.reshape(batch, rows, size, columns, size, channels).swapaxes(2, 3)
    patches = patches.reshape(batch, rows, columns, size * size * channels)
    matrix = kernel.astype(dtype).reshape(-1, self.features)
    return channel_product(patches, matrix) + bias.astype(dtype)


class TransposedConvolution(nn.Module):
  """A transposed convolution whose stride is its kernel's side: each pixel gives a patch.

  Attributes:
    features: channels out.
    size: side of the patches, in pixels.
    use_bias: whether a bias is added.
    dtype: dtype of the computation; None: that of the input.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernel, [size, size, in, out].
  """

  features: int
  size: int
  use_bias: bool = False
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ {self.features}"]:
    """Maps [B, H, W, C] to [B, size H, size W, features]."""
    size, (batch, height, width, channels) = self.size, x.shape
    shape = (size, size, channels, self.features)
    kernel = self.param("transposed_kernel", self.kernel_init, shape, self.param_dtype)
    dtype = self.dtype or x.dtype
    matrix = kernel.astype(dtype).transpose(2, 0, 1, 3).reshape(channels, -1)
    y = channel_product(x.astype(dtype), matrix)
    y = y.reshape(batch, height, width, size, size, self.features).swapaxes(2, 3)
    y = y.reshape(batch, size * height, size * width, self.features)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
      y = y + bias.astype(dtype)
    return y


class DepthwiseConvolution(nn.Module):
  """A 3x3 convolution of each channel by itself, zeros around the image.

  Attributes:
    dilation: distance of the kernel's taps in pixels.
    use_bias: whether a bias is added.
    dtype: dtype of the computation; None: that of the input.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernel, [3, 3, 1, channels].
  """

  dilation: int = 1
  use_bias: bool = False
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Maps [B, H, W, C] to the same shape."""
    shape = (3, 3, 1, x.shape[-1])
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    dtype = self.dtype or x.dtype
    y = depthwise_convolve(x.astype(dtype), kernel[:, :, 0].astype(dtype), self.dilation)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.param_dtype)
      y = y + bias.astype(dtype)
    return y


class LayerNorm(nn.Module):
  """Layer normalisation over channels; unlike Flax's it takes float64 under strict promotion.

  Attributes:
    epsilon: added to the variance.
    dtype: dtype of the output; None: that of the input. Statistics are never below float32.
    param_dtype: dtype of the parameters.
  """

  epsilon: float
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*pixels c"]) -> Float[Array, "*pixels c"]:
    """Normalises [..., C]."""
    shape = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
    dtype, wide = self.dtype or x.dtype, accumulation_dtype(x.dtype)
    x = x.astype(wide)
    centered = x - x.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + self.epsilon)
    return (centered * factor * scale.astype(wide) + bias.astype(wide)).astype(dtype)


class BatchNorm(nn.Module):
  """Batch normalisation with PyTorch's statistics.

  Unlike `flax.linen.BatchNorm`, the running variance is the unbiased one (n - 1), while the batch
  is normalised by the biased one. Under a batch axis that is sharded over devices the statistics
  are those of the whole batch.

  Attributes:
    epsilon: added to the variance.
    momentum: share of a running statistic that a training step keeps.
    trainable: whether scale and bias receive gradients.
    group: consecutive images of a batch that are normalised by their own statistics; the running
      ones take the groups' mean. 0: the whole batch. Where each device holds whole groups, they
      need no messages.
    domains: a batch takes its images in turn from this many domains, each normalised by its own
      statistics. The running ones are updated by one domain after the other.
    dtype: dtype of the output; None: that of the input. Statistics are never below float32.
    param_dtype: dtype of the parameters.
  """

  epsilon: float = 1e-5  # PyTorch's default, as is the momentum; the release sets neither
  momentum: float = 0.9
  trainable: bool = True
  group: int = 0
  domains: int = 1
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
    """Normalises images by the batch (`train`) or by the running statistics.

    Raises:
      ValueError: in training the groups do not divide the batch.
    """
    if not train or self.is_initializing():
      return self._normalize(x, train=train)
    group = self.group or len(x) // self.domains
    if self.domains == 1 and group == len(x):
      return self._normalize(x, train=True)
    if not group or len(x) % (group * self.domains):
      of_domains = f" of each of {self.domains} domains" if self.domains > 1 else ""
      raise ValueError(f"groups of {group} images{of_domains} do not divide a batch of {len(x)}")
    groups = x.reshape(-1, group, self.domains, *x.shape[1:])
    return self._normalize(groups, train=True).reshape(x.shape)

  def _normalize(
    self, x: Float[Array, "*groups h w c"], *, train: bool
  ) -> Float[Array, "*groups h w c"]:
    """Normalises [B, H, W, C], or each domain of each group of [G, B, D, H, W, C] by itself."""
    shape = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
    stats_dtype = accumulation_dtype(self.param_dtype)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, stats_dtype)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape, stats_dtype)
    if not self.trainable:
      scale, bias = jax.lax.stop_gradient((scale, bias))
    dtype = self.dtype or x.dtype
    wide = accumulation_dtype(x.dtype)
    if train:
      values, grouped = x.astype(wide), x.ndim == 6
      pixels = (1, 3, 4) if grouped else (0, 1, 2)
      mean = values.mean(pixels, keepdims=grouped)
      var = jnp.square(values - mean).mean(pixels, keepdims=grouped)
      if not self.is_initializing():
        count = math.prod(x.shape[axis] for axis in pixels)
        unbiased = var * (count / max(count - 1, 1))
        running_mean.value = self._blend(running_mean.value, mean)
        running_var.value = self._blend(running_var.value, unbiased)
    else:
      mean, var = running_mean.value.astype(wide), running_var.value.astype(wide)
    factor = jax.lax.rsqrt(var + self.epsilon) * scale.astype(wide)
    # Not (x - mean) * factor: the difference, made for the variance, would be kept for this.
    return (x.astype(wide) * factor + (bias.astype(wide) - mean * factor)).astype(dtype)

  def _blend(
    self, running: Float[Array, " c"], found: Float[Array, "*groups c"]
  ) -> Float[Array, " c"]:
    found = jax.lax.stop_gradient(found).astype(running.dtype)
    for each in found.reshape(-1, self.domains, *running.shape).mean(0):
      running = self.momentum * running + (1 - self.momentum) * each
    return running
