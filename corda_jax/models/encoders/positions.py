"""Positions of a Vision Transformer's patches: tables for any size, and rotations."""

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.resize import cubic_weights, interpolate
from corda_jax.typing import Array, Float

_OFFSET = 0.1  # patches; see `VisionTransformer.positions`


def resample_positions(
  table: Float[Array, "1 n c"], grid: tuple[int, int], rule: str
) -> Float[Array, "1 m c"]:
  """A table of positions for another number of patches.

  Args:
    table: that of the class token, and those of a square of patches by rows.
    grid: patches along both axes.
    rule: "offset", "size" or "antialias", as `VisionTransformer.positions`.
  """
  side, channels = round((table.shape[1] - 1) ** 0.5), table.shape[2]
  patches = table[:, 1:].reshape(1, side, side, channels)
  if rule == "antialias":
    patches = jax.image.resize(patches, (1, *grid, channels), "cubic", antialias=True)
  else:
    more = _OFFSET if rule == "offset" else 0.0
    rows, columns = (
      jnp.asarray(cubic_weights(side, n, step=side / (n + more)), table.dtype) for n in grid
    )
    patches = interpolate(patches, rows, columns)
  return jnp.concatenate([table[:, :1], patches.reshape(1, -1, channels)], axis=1)


def rotary_angles(periods: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
  """Angles of the rotary positions in radians: float64[patches by rows, 2 periods]."""
  y, x = (2 * (np.arange(n) + 0.5) / n - 1 for n in grid)
  centers = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2, 1)
  return (2 * np.pi * centers / periods).reshape(len(centers), -1)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
  """Rotates the last tokens of [B, N, heads, d], those of the patches, by [patches, d / 2]."""
  others = x.shape[1] - len(angles)
  rest, x = x[:, :others], x[:, others:]
  first, second = jnp.split(x.astype(angles.dtype), 2, axis=-1)
  cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return jnp.concatenate([rest, rotated.astype(x.dtype)], axis=1)
