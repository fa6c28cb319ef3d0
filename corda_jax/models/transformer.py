"""What the transformer encoders share: attention, linear layers, stochastic depth, stacked blocks.

Blocks of one shape are scanned: their parameters are stacked along a first axis, and the time to
compile does not grow with their number.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from corda_jax.models.layers import Dtype, accumulation_dtype
from corda_jax.models.operations import channel_product
from corda_jax.typing import Array, Bool, Float

# What cuDNN's flash attention takes: types, and channels of a head.
_FLASH_TYPES = (jnp.bfloat16, jnp.float16)
_FLASH_MULTIPLE, _FLASH_MOST = 8, 128


def attention(
  query: Float[Array, "b n heads d"],
  key: Float[Array, "b m heads d"],
  value: Float[Array, "b m heads d"],
) -> Float[Array, "b n heads d"]:
  """softmax(query key^T / sqrt(d)) value, of each head (Vaswani et al., NIPS 2017).

  On a GPU, 16-bit numbers take cuDNN's flash kernel.
  """
  if query.dtype == jnp.float64:  # the library's softmax is float32
    logits = jnp.einsum("bnhd,bmhd->bhnm", query, key) / np.sqrt(query.shape[-1])
    return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(logits), value)
  width = query.shape[-1]
  flash = query.dtype in _FLASH_TYPES and width % _FLASH_MULTIPLE == 0 and width <= _FLASH_MOST
  flash = flash and jax.default_backend() == "gpu"
  return jax.nn.dot_product_attention(query, key, value, implementation="cudnn" if flash else None)


class Linear(nn.Module):
  """A matrix product with bias.

  Attributes:
    features: channels out.
    biased: which of several equal parts of the outputs have a bias, (True, False, True) in DINOv3,
      whose keys have none; None: all.
    dtype: dtype of the computation; None: that of the input.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the matrix, [in, out].
  """

  features: int
  biased: tuple[bool, ...] | None = None
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  # PyTorch cuts at -2 and 2, not at two deviations: not at all.
  kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., C] to [..., features]."""
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, shape[1:], self.param_dtype)
    if self.biased is not None:
      mask = np.repeat(self.biased, self.features // len(self.biased))
      bias = jnp.where(mask, bias, 0)
    dtype = self.dtype or x.dtype
    return channel_product(x.astype(dtype), kernel.astype(dtype)) + bias.astype(dtype)


def drop_rates(last: float, blocks: int) -> np.ndarray:
  """Stochastic depth's rate of each block, [blocks]: it rises linearly from 0 to `last`."""
  return np.linspace(0, last, blocks)


def sample_branches(key: jax.Array, batch: int, rates: np.ndarray) -> Bool[Array, "b blocks 2"]:
  """Which residual branches stochastic depth keeps (Huang et al., ECCV 2016).

  Args:
    key: PRNG key.
    batch: images B.
    rates: [blocks], probabilities 0..1 that a branch is dropped.

  Returns:
    For each image and block: whether it keeps the first branch (attention) and the second.
  """
  drawn = jax.random.uniform(key, (batch, len(rates), 2))
  return drawn >= rates[:, None]


def branch_factors(
  kept: Bool[Array, "b blocks 2"] | None, rates: np.ndarray, dtype: Dtype
) -> Float[Array, "blocks 2 b"] | None:
  """Factor of each residual branch: 1 / (1 - rate) where it is kept, else 0; None: all are kept.

  Of at least float32, whatever the `dtype` of the branches.
  """
  if kept is None:
    return None
  factors = jnp.asarray(1 / (1 - rates), accumulation_dtype(dtype))[:, None]
  return jnp.where(kept, factors, 0).transpose(1, 2, 0)


def add_branch(x: jax.Array, y: jax.Array, factor: jax.Array | None) -> jax.Array:
  """`x + factor * y`, [B, …] each, with a factor for each image, [B]."""
  if factor is None:
    return x + y
  factor = factor.reshape(-1, *(1,) * (y.ndim - 1))
  return x + (factor * y.astype(factor.dtype)).astype(y.dtype)


def scanned(
  block: type[nn.Module], length: int, *, shared: int = 0, rematerialize: bool
) -> Callable[..., nn.Module]:
  """A module of several blocks of one shape.

  Args:
    block: class of a block: `(x, factors, *others) → (x, output)`. `factors` are its two of
      `branch_factors`, or None.
    length: number of blocks.
    shared: number of `others`, which all blocks read.
    rematerialize: whether blocks are computed again in the backward pass, to save memory.

  Returns:
    The class of a module from x, the factors of all blocks, and others, to x and the outputs of all
    blocks, stacked.
  """
  # A compiler would read a block's own parameters out of all of them wherever they are used, number
  # by number.
  one: Any = nn.map_variables(
    block, "params", jax.lax.optimization_barrier, lambda params: params, init=True
  )
  if rematerialize:
    one = nn.remat(one, prevent_cse=False)
  return nn.scan(
    one,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=(0, *(nn.broadcast,) * shared),
    length=length,
  )
