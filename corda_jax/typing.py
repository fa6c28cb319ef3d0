"""Types of arrays in signatures: `Float[Array, "b h w c"]`, by jaxtyping; checked in tests."""

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Key, UInt8

Array = jax.Array | np.ndarray  # what numerical functions take; they return the former

__all__ = ["Array", "Bool", "Float", "Int", "Integer", "Key", "UInt8"]
