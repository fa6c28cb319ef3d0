"""How predictions of the depth heads are read as distances.

The heads predict inverse depth Y = 655.36 / (metres + 0.01), of which 1 means "no depth", and may
predict anything, also below 1. What needs a positive depth reads 1 + softplus(Y - 1). That is Y
itself but for the farthest depths: 10.0001 at 10 (66 m), 1.69 at 1 (387 m), and towards 1 (655 m)
below.
"""

import jax
import jax.numpy as jnp

from corda_jax.depth.inverse_depth import NO_DEPTH, to_metres
from corda_jax.typing import Array, Float

_NEAREST = 0.1  # metres; heads may predict less, where no photometric loss can follow them


def positive(head: Float[Array, "*pixels"]) -> Float[Array, "*pixels"]:
  """A head's prediction as inverse depth above 1; see the module."""
  return NO_DEPTH + jax.nn.softplus(head - NO_DEPTH)


def head_to_metres(head: Float[Array, "*pixels"]) -> Float[Array, "*pixels"]:
  """Distance along the optical axis that a head predicts, 0.1 to 655.35 metres."""
  return jnp.maximum(to_metres(positive(head)), _NEAREST)
