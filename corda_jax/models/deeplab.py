"""The dilated classifier of DeepLab v2, and the plain network made of encoder and classifier."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.models.layers import Dtype, accumulation_dtype
from corda_jax.models.operations import channel_product
from corda_jax.models.resnet import ResNet


class DilatedClassifier(nn.Module):
  """Sum of parallel 3x3 convolutions with bias, one a dilation (Chen et al., TPAMI 2018).

  Few channels leave it, so it runs as one matrix product to (dilations x 9 x features) channels
  whose results are shifted and added: several times faster than the convolutions on a CPU.

  Attributes:
    features: channels out.
    dilations: one branch each. Published: (6, 12, 18, 24); the release sums the first two alone.
    dtype: of the computation.
    param_dtype: of the parameters.
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


class DeepLab(nn.Module):
  """Encoder and classifier, no depth: the network of DACS and of source-only training.

  Attributes:
    encoder: the residual encoder.
    num_classes: semantic classes.
    classifier_dilations: branches of the classifier.
    dtype: of the computation.
    param_dtype: of the parameters.
    head_init: initialiser of the classifier's kernels.
  """

  encoder: ResNet
  num_classes: int = 19
  classifier_dilations: Sequence[int] = (6, 12)
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  head_init: nn.initializers.Initializer = nn.initializers.normal(0.01)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    """Maps normalised images [B, H, W, 3] to {"S": logits [B, h, w, num_classes]}."""
    features = self.encoder(x, train=train)
    logits = DilatedClassifier(
      self.num_classes,
      self.classifier_dilations,
      self.dtype,
      self.param_dtype,
      self.head_init,
      name="final_S",
    )(features)
    return {"S": logits}
