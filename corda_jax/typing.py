"""Types of arrays in signatures: `Float[Array, "b h w c"]`, by jaxtyping; checked in tests."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Key, UInt8

Array = jax.Array | np.ndarray  # what numerical functions take; they return the former
Dim = Any  # an axis's size: an integer, or symbolic where a program is exported for any size

__all__ = ["Array", "Bool", "Dim", "Float", "Int", "Integer", "Key", "UInt8"]
