"""The block of Vision Transformers."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.models.encoders.positions import rotate
from corda_jax.models.layers import Dtype, LayerNorm
from corda_jax.models.operations import gelu
from corda_jax.models.transformer import Linear, add_branch, attention


class VisionBlock(nn.Module):
  """Attention and a feed-forward network, each normalised before, scaled and added.

  Attributes:
    heads: attention heads.
    hidden: channels inside of the feed-forward network.
    mlp: as in `VisionTransformer`.
    key_bias: as in `VisionTransformer`.
    norm_epsilon: as in `VisionTransformer`.
    returned: whether the tokens are an output of their own.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
  """

  heads: int
  hidden: int
  mlp: str
  key_bias: bool
  norm_epsilon: float
  returned: bool
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, factors: jax.Array | None, angles: jax.Array | None
  ) -> tuple[jax.Array, jax.Array | None]:
    """One block.

    Args:
      x: tokens [B, N, C].
      factors: [2, B] of the branches; None: 1.
      angles: [patches, C / heads / 2] of the rotary positions; None: there are none.

    Returns:
      Tokens [B, N, C], and the same again if they are `returned`.
    """
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    of_attention, of_mlp = (None, None) if factors is None else factors
    y = self._attend(LayerNorm(self.norm_epsilon, name="norm1", **types)(x), angles, types)
    x = add_branch(x, self._scaled(y, "ls1"), of_attention)
    y = self._mlp(LayerNorm(self.norm_epsilon, name="norm2", **types)(x), types)
    x = add_branch(x, self._scaled(y, "ls2"), of_mlp)
    return x, x if self.returned else None

  def _scaled(self, x, name):
    scale = self.param(name, nn.initializers.ones, x.shape[-1:], self.param_dtype)
    return x * scale.astype(x.dtype)

  def _attend(self, x, angles, types):
    batch, count, channels = x.shape
    biased = None if self.key_bias else (True, False, True)
    x = Linear(3 * channels, biased=biased, name="qkv", **types)(x)
    x = x.reshape(batch, count, 3, self.heads, channels // self.heads)
    query, key, value = (x[:, :, part] for part in range(3))
    if angles is not None:
      query, key = (rotate(part, angles) for part in (query, key))
    y = attention(query, key, value).reshape(batch, count, channels)
    return Linear(channels, name="proj", **types)(y)

  def _mlp(self, x, types):
    if self.mlp == "gelu":
      y = gelu(Linear(self.hidden, name="fc1", **types)(x))
      return Linear(x.shape[-1], name="fc2", **types)(y)
    gate, y = jnp.split(Linear(2 * self.hidden, name="w12", **types)(x), 2, axis=-1)
    return Linear(x.shape[-1], name="w3", **types)(nn.silu(gate) * y)
