"""The dilated classifier of DeepLab v2, and the released decoder that ends in it."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.configuration import check_at_least, check_whole_numbers, given
from corda_jax.models.blocks import Bottleneck, rematerialized
from corda_jax.models.layers import Dtype, accumulation_dtype
from corda_jax.models.operations import channel_product


class DilatedClassifier(nn.Module):
  """Sum of parallel 3x3 convolutions with bias, one a dilation (Chen et al., TPAMI 2018).

  Few channels leave it, so it runs as one matrix product to (dilations x 9 x features) channels
  whose results are shifted and added: several times faster than the convolutions on a CPU.

  Attributes:
    features: channels out.
    dilations: one branch each. Published: (6, 12, 18, 24); the release sums the first two alone.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernels.
    initial_output: what all biases together give at the start.
  """

  features: int
  dilations: Sequence[int] = (6, 12)
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.01)
  initial_output: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] to logits [B, H, W, features], which are at least float32."""
    channels, branches = x.shape[-1], len(self.dilations)
    kernels = [
      self.param(f"kernel{i}", self.kernel_init, (3, 3, channels, self.features), self.param_dtype)
      for i in range(branches)
    ]
    bias_init = nn.initializers.constant(self.initial_output / branches)
    biases = [
      self.param(f"bias{i}", bias_init, (self.features,), self.param_dtype) for i in range(branches)
    ]
    dtype = self.dtype or x.dtype
    taps = jnp.stack([k.reshape(9, channels, self.features) for k in kernels]).astype(dtype)
    matrix = taps.transpose(2, 0, 1, 3).reshape(channels, -1)
    # Split, not indexed: the gradient of a split is one concatenation, that of an index a padding
    # and an addition of the whole array for every tap.
    wide = accumulation_dtype(dtype)
    products = jnp.split(channel_product(x.astype(dtype), matrix, wide), 9 * branches, axis=-1)
    y = sum(biases).astype(wide)
    for index, product in enumerate(products):
      dilation, tap = self.dilations[index // 9], index % 9
      down, right = dilation * (tap // 3 - 1), dilation * (tap % 3 - 1)
      if abs(down) < x.shape[1] and abs(right) < x.shape[2]:
        y = y + _shift(product, down, right)
    return jnp.broadcast_to(y, (*x.shape[:3], self.features))


def _shift(x: jax.Array, down: int, right: int) -> jax.Array:
  """Value at (i, j) of the result: x at (i + down, j + right), zero outside. [B, H, W, C]."""
  padding = ((0, 0, 0), (-down, down, 0), (-right, right, 0), (0, 0, 0))
  return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)


@dataclasses.dataclass(frozen=True)
class DeepLabDecoder:
  """Two bottlenecks a task on the encoder's last level, and dilated classifiers, as released.

  A decoder is called in the scope of the network, which owns the parameters. Every decoder has
  `features` and `predict`.

  Attributes:
    width: channels of the bottlenecks' 3x3 convolutions; a task's feature has 4 times as many
      channels. 0: none, so that tasks read the encoder's last level itself, as in DACS.
    dilations: branches of the classifiers. Published: (6, 12, 18, 24).
    batch_norm_group: as in the encoder.
    batch_norm_domains: as in the encoder.
    rematerialize: as in the encoder.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the bottlenecks' kernels.
    head_init: initialiser of the classifiers' kernels.
  """

  width: int = 64
  dilations: Sequence[int] = (6, 12)
  batch_norm_group: int = given(0)
  batch_norm_domains: int = given(1)
  rematerialize: bool = given(False)
  dtype: Dtype | None = given(None)
  param_dtype: Dtype = given(jnp.float32)
  kernel_init: nn.initializers.Initializer = given(nn.initializers.normal(0.01))
  head_init: nn.initializers.Initializer = given(nn.initializers.normal(0.01))

  def __post_init__(self):
    check_at_least(self, width=0)
    check_whole_numbers(self, "dilations")

  def features(self, levels: Sequence[jax.Array], task: str, *, train: bool) -> jax.Array:
    """The feature of a task.

    Args:
      levels: features of the encoder, [B, h, w, C] each, the coarsest last.
      task: "S" (semantics) or "D" (depth); modules are named by it.
      train: as in the network.

    Returns:
      [B, h, w, C], at the encoder's output stride.
    """
    x = levels[-1]
    bottleneck = rematerialized(Bottleneck, self.rematerialize)
    for block in range(2 if self.width else 0):
      x = bottleneck(
        4 * self.width,
        width=self.width,
        project=block == 0,
        batch_norm_group=self.batch_norm_group,
        batch_norm_domains=self.batch_norm_domains,
        kernel_init=self.kernel_init,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=f"decoder_{task}_block{block}",
      )(x, train)
    return x

  def predict(self, x: jax.Array, name: str, channels: int, *, initial: float = 0.0) -> jax.Array:
    """Predictions from a feature.

    Args:
      x: [B, h, w, C].
      name: name of the module.
      channels: channels of the result.
      initial: what fresh weights predict, but for their kernels.

    Returns:
      [B, h, w, channels], at least float32.
    """
    return DilatedClassifier(
      channels,
      self.dilations,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      kernel_init=self.head_init,
      initial_output=initial,
      name=name,
    )(x)
