"""Mix Transformers, the encoders of SegFormer (Xie et al., NeurIPS 2021), as released."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.configuration import (
  check_above,
  check_at_least,
  check_whole_numbers,
  check_within,
  given,
)
from corda_jax.models.layers import (
  Convolution,
  DepthwiseConvolution,
  Dtype,
  LayerNorm,
  PatchConvolution,
)
from corda_jax.models.operations import gelu
from corda_jax.models.transformer import (
  Linear,
  add_branch,
  attention,
  branch_factors,
  drop_rates,
  sample_branches,
  scanned,
)
from corda_jax.typing import Array, Bool, Float

# Channels and blocks of the four stages.
_SIZES = {
  "B0": ((32, 64, 160, 256), (2, 2, 2, 2)),
  "B1": ((64, 128, 320, 512), (2, 2, 2, 2)),
  "B2": ((64, 128, 320, 512), (3, 4, 6, 3)),
  "B3": ((64, 128, 320, 512), (3, 4, 18, 3)),
  "B4": ((64, 128, 320, 512), (3, 8, 27, 3)),
  "B5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
_EMBEDDING_EPSILON = 1e-5  # of the normalisations of embeddings and reduced keys

# Of fresh convolutions: normal, of variance 2 / (kernel area x channels out / groups), where
# depthwise ones have a group for each channel.
_fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_depthwise_normal = nn.initializers.normal((2 / 9) ** 0.5)


class MixTransformer(nn.Module):
  """Four stages of attention whose keys and values are reduced; `mix_transformer` gives the sizes.

  Attributes:
    widths: channels of each stage.
    depths: blocks of each stage.
    heads: attention heads of each stage.
    reductions: keys and values of each stage are computed at a size divided by this.
    mlp_ratio: channels inside of the feed-forward networks, as a multiple of the width.
    norm_epsilon: of the normalisations of blocks and stages. Released: 1e-6; Hugging Face: 1e-5.
    drop_path: rate of stochastic depth of the last block; it rises linearly from 0 at the first.
    rematerialize: whether blocks are computed again in the backward pass, to save memory.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
  """

  widths: Sequence[int] = (32, 64, 160, 256)
  depths: Sequence[int] = (2, 2, 2, 2)
  heads: Sequence[int] = (1, 2, 5, 8)
  reductions: Sequence[int] = (8, 4, 2, 1)
  mlp_ratio: int = 4
  norm_epsilon: float = 1e-6
  drop_path: float = 0.1
  rematerialize: bool = given(False)
  dtype: Dtype | None = given(None)
  param_dtype: Dtype = given(jnp.float32)

  def __post_init__(self):
    stages = ("widths", "depths", "heads", "reductions")
    check_whole_numbers(self, *stages)
    if len({len(getattr(self, name)) for name in stages}) > 1:
      values = ", ".join(f"{name} {tuple(getattr(self, name))}" for name in stages)
      raise ValueError(f"widths and others are {values}, expected one entry a stage in each")
    for width, heads in zip(self.widths, self.heads, strict=True):
      if width % heads:
        raise ValueError(f"widths has {width}, expected a multiple of its {heads} heads")
    check_at_least(self, mlp_ratio=1)
    check_above(self, norm_epsilon=0)
    check_within(self, drop_path=(0, 0.99))
    super().__post_init__()

  @property
  def level_strides(self) -> tuple[int, ...]:
    """Stride of each of `features`, in pixels of the image."""
    return tuple(4 * 2**stage for stage in range(len(self.widths)))

  def sample_kept(self, key: jax.Array, batch: int) -> dict[str, Bool[Array, "b blocks 2"]]:
    """Samples what a pass in training keeps, for `features`.

    Args:
      key: PRNG key.
      batch: images B.
    """
    if not self.drop_path:
      return {}
    return {"branches": sample_branches(key, batch, self._drop_rates())}

  def _drop_rates(self):
    return drop_rates(self.drop_path, sum(self.depths))

  @nn.compact
  def features(
    self,
    x: Float[Array, "b height width c"],
    *,
    train: bool,
    kept: dict[str, Bool[Array, "b blocks 2"]] | None = None,
  ) -> list[jax.Array]:
    """Features of all stages, of which `level_strides` gives the strides.

    Args:
      x: normalised images.
      train: not read: nothing is normalised by batches.
      kept: result of `sample_kept`; None keeps everything.

    Returns:
      [B, h, w, C] of each stage, h = ceil(H / stride), w = ceil(W / stride).
    """
    del train
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    dtype = self.dtype or x.dtype
    factors = branch_factors((kept or {}).get("branches"), self._drop_rates(), dtype)
    levels, first = [], 0
    for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
      name = f"stage{stage + 1}"
      kernel, stride = (7, 4) if stage == 0 else (3, 2)
      x = Convolution(
        width,
        kernel,
        stride,
        use_bias=True,
        kernel_init=_fan_out_normal,
        name=f"{name}_embed",
        **types,
      )(x)
      x = LayerNorm(_EMBEDDING_EPSILON, name=f"{name}_embed_norm", **types)(x)
      blocks = scanned(_Block, depth, rematerialize=self.rematerialize)
      own = None if factors is None else factors[first : first + depth]
      x, _ = blocks(
        self.heads[stage],
        self.reductions[stage],
        self.mlp_ratio,
        self.norm_epsilon,
        name=f"{name}_blocks",
        **types,
      )(x, own)
      x = LayerNorm(self.norm_epsilon, name=f"{name}_norm", **types)(x)
      levels.append(x)
      first += depth
    return levels


class _Block(nn.Module):
  """Attention and a feed-forward network, each normalised before and added.

  Attributes:
    heads: attention heads.
    reduction: as in `MixTransformer`.
    mlp_ratio: as in `MixTransformer`.
    norm_epsilon: as in `MixTransformer`.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
  """

  heads: int
  reduction: int
  mlp_ratio: int
  norm_epsilon: float
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, factors: jax.Array | None) -> tuple[jax.Array, None]:
    """Maps [B, h, w, C] to the same shape; `factors` [2, B] of the branches, or None."""
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    of_attention, of_mlp = (None, None) if factors is None else factors
    y = LayerNorm(self.norm_epsilon, name="norm1", **types)(x)
    x = add_branch(x, _Attention(self.heads, self.reduction, name="attn", **types)(y), of_attention)
    y = LayerNorm(self.norm_epsilon, name="norm2", **types)(x)
    return add_branch(x, _MixMlp(self.mlp_ratio, name="mlp", **types)(y), of_mlp), None


class _Attention(nn.Module):
  """Self-attention; keys and values come from the map at a size divided by `reduction`."""

  heads: int
  reduction: int
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, C] to the same shape."""
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    batch, height, width, channels = x.shape
    query = Linear(channels, name="q", **types)(x)
    if self.reduction > 1:
      x = PatchConvolution(
        channels, self.reduction, kernel_init=_fan_out_normal, name="sr", **types
      )(x)
      x = LayerNorm(_EMBEDDING_EPSILON, name="norm", **types)(x)
    key, value = jnp.split(Linear(2 * channels, name="kv", **types)(x), 2, axis=-1)
    size = (self.heads, channels // self.heads)
    query, key, value = (
      part.reshape(batch, math.prod(part.shape[1:3]), *size) for part in (query, key, value)
    )
    y = attention(query, key, value).reshape(batch, height, width, channels)
    return Linear(channels, name="proj", **types)(y)


class _MixMlp(nn.Module):
  """A feed-forward network with a depthwise 3x3 convolution, which also knows where a pixel is."""

  ratio: int
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, C] to the same shape."""
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    channels = x.shape[-1]
    y = Linear(self.ratio * channels, name="fc1", **types)(x)
    options = {"use_bias": True, "kernel_init": _depthwise_normal}
    y = DepthwiseConvolution(name="dwconv", **options, **types)(y)
    return Linear(channels, name="fc2", **types)(gelu(y))


def mix_transformer(size: str) -> MixTransformer:
  """The released encoder of a size, "B0" to "B5"."""
  widths, depths = _SIZES[size]
  return MixTransformer(widths=widths, depths=depths)
