"""Array types of signatures, `Float[Array, "b h w c"]`, from jaxtyping; checked in tests.

Modules that run without JAX import what they need from jaxtyping, with `np.ndarray`.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Integer, Key, Shaped, UInt8

Array = jax.Array | np.ndarray  # numerical functions take both and return the former
Dim = Any  # size of an axis: an integer, or symbolic in a program exported for any size

__all__ = ["Array", "Bool", "Dim", "Float", "Integer", "Key", "Shaped", "UInt8"]
