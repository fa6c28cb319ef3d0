"""The decoder of VFM-UDA (Englert et al., CVPR workshops 2024)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.configuration import check_at_least, given
from corda_jax.models.blocks import prediction
from corda_jax.models.layers import (
  Convolution,
  Dtype,
  LayerNorm,
  TransposedConvolution,
  torch_uniform,
)
from corda_jax.models.operations import gelu

_EPSILON = 1e-6  # of the normalisations
# PyTorch takes a transposed kernel's channels out for its fan-in.
_torch_uniform_transposed = nn.initializers.variance_scaling(
  1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2
)


@dataclasses.dataclass(frozen=True)
class LightweightDecoder:
  """Doubles the size of the last level twice, and halves its channels each time.

  Attributes:
    width: channels of a task's feature, and twice as many in between; 0: a quarter of the level's,
      as released.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
  """

  width: int = 0
  dtype: Dtype | None = given(None)
  param_dtype: Dtype = given(jnp.float32)

  def __post_init__(self):
    check_at_least(self, width=0)

  def features(self, levels: Sequence[jax.Array], task: str, *, train: bool) -> jax.Array:
    """As in the interface: [B, 4 h, 4 w, width] of the last level [B, h, w, C]."""
    del train  # nothing is normalised by batches
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x, name = levels[-1], f"decoder_{task}"
    width = self.width or x.shape[-1] // 4
    for index, features in enumerate((2 * width, width)):
      x = TransposedConvolution(
        features, 2, kernel_init=_torch_uniform_transposed, name=f"{name}_up{index}", **types
      )(x)
      x = LayerNorm(_EPSILON, name=f"{name}_norm{index}", **types)(x)
      x = gelu(x) if index == 0 else x
    x = Convolution(width, 3, kernel_init=torch_uniform, name=f"{name}_conv", **types)(x)
    return LayerNorm(_EPSILON, name=f"{name}_norm2", **types)(x)

  def predict(self, x: jax.Array, name: str, channels: int, *, initial: float = 0.0) -> jax.Array:
    """As in the interface, by a 1x1 convolution; that of semantics has no bias, as released."""
    return prediction(
      channels,
      initial=initial,
      use_bias=not name.endswith("_S"),
      kernel_init=nn.initializers.normal(0.1),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)
