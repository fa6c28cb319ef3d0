"""Array types of signatures, `Float[Array, "b h w c"]`, from jaxtyping; checked in tests."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Key, UInt8

Array = jax.Array | np.ndarray  # numerical functions take both and return the former
Dim = Any  # size of an axis: an integer, or symbolic in a program exported for any size

__all__ = ["Array", "Bool", "Dim", "Float", "Int", "Integer", "Key", "UInt8"]
