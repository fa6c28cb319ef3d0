"""Vision Transformers of DINOv2 (Oquab et al., 2023) and DINOv3 (Siméoni et al., 2025).

Registers: Darcet et al., "Vision Transformers Need Registers", ICLR 2024.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from corda_jax.configuration import (
  check_above,
  check_at_least,
  check_one_of,
  check_within,
  given,
)
from corda_jax.models.encoders.positions import resample_positions, rotary_angles
from corda_jax.models.encoders.vision_block import VisionBlock
from corda_jax.models.layers import Dtype, LayerNorm, PatchConvolution, accumulation_dtype
from corda_jax.models.transformer import (
  branch_factors,
  drop_rates,
  sample_branches,
  scanned,
)
from corda_jax.resize import resize_centered
from corda_jax.typing import Array, Bool, Float

# Width, blocks, heads, and the blocks that segmentation reads.
_SIZES = {
  "S": (384, 12, 6, (2, 5, 8, 11)),
  "B": (768, 12, 12, (2, 5, 8, 11)),
  "L": (1024, 24, 16, (4, 11, 17, 23)),
  "g": (1536, 40, 24, (9, 19, 29, 39)),
}
_SLOWEST_PERIOD = 100.0  # of the rotary positions

_token_init = nn.initializers.normal(0.02)


class Tokens(NamedTuple):
  """Tokens of a Vision Transformer: the class, the registers, and then the patches by rows.

  Attributes:
    embedded: [B, N, C], what the first block reads.
    blocks: [B, N, C] each, what leaves the blocks.
    normalized: the same after the network's last normalisation.
  """

  embedded: jax.Array
  blocks: list[jax.Array]
  normalized: list[jax.Array]


class VisionTransformer(nn.Module):
  """A plain Vision Transformer; `dinov2` and `dinov3` give the released ones.

  Attributes:
    width: channels.
    depth: blocks.
    heads: attention heads.
    patch: side of the patches in pixels.
    mlp: feed-forward networks: "gelu", or "swiglu" as in DINOv2's g.
    mlp_ratio: channels inside of them, as a multiple of the width; of "swiglu" two thirds of it,
      rounded up to a multiple of 8.
    registers: tokens beside those of the class and the patches.
    positions: "offset", a table resampled as DINOv2 does without registers: cubic, a = -0.75, to
      0.1 patches more than there are; "size", as Hugging Face does, without these; "antialias", as
      with registers: cubic, a = -0.5, antialiased; or "rotary", none but angles by which queries
      and keys of the patches are rotated, as in DINOv3.
    position_grid: patches along a side of the table.
    key_bias: whether keys have a bias; DINOv3's have none.
    norm_epsilon: of the normalisations. DINOv2: 1e-6; DINOv3: 1e-5.
    levels: blocks, counted from 0, whose outputs are the features; the last block comes last.
    image_scale: images are resized to the patches that fit into this multiple of their size.
      VFM-UDA: 1.1, which makes 1024 pixels 1120, and 512 pixels 560.
    drop_path: rate of stochastic depth of the last block; it rises linearly from 0 at the first.
    rematerialize: whether blocks are computed again in the backward pass, to save memory.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
  """

  width: int = 768
  depth: int = 12
  heads: int = 12
  patch: int = 14
  mlp: str = "gelu"
  mlp_ratio: int = 4
  registers: int = 0
  positions: str = "offset"
  position_grid: int = 37
  key_bias: bool = True
  norm_epsilon: float = 1e-6
  levels: Sequence[int] = (2, 5, 8, 11)
  image_scale: float = 1.0
  drop_path: float = 0.0
  rematerialize: bool = given(False)
  dtype: Dtype | None = given(None)
  param_dtype: Dtype = given(jnp.float32)

  def __post_init__(self):
    check_at_least(
      self, width=1, depth=1, heads=1, patch=1, mlp_ratio=1, registers=0, position_grid=1
    )
    check_one_of(self, mlp=("gelu", "swiglu"), positions=("offset", "size", "antialias", "rotary"))
    check_above(self, norm_epsilon=0, image_scale=0)
    check_within(self, drop_path=(0, 0.99))
    multiple = self.heads * (4 if self.positions == "rotary" else 1)
    if self.width % multiple:
      raise ValueError(f"width is {self.width}, expected a multiple of {multiple}")
    levels = tuple(self.levels)
    if list(levels) != sorted(set(levels)) or levels[:1] < (0,) or levels[-1:] != (self.depth - 1,):
      raise ValueError(
        f"levels is {levels}, expected rising numbers of blocks of which the last is "
        f"{self.depth - 1}"
      )
    super().__post_init__()

  @property
  def level_strides(self) -> tuple[int, ...]:
    """Stride of each of `features`, in pixels of the resized image."""
    return (self.patch,) * len(self.levels)

  def sample_kept(self, key: jax.Array, batch: int) -> dict[str, Bool[Array, "b blocks 2"]]:
    """Samples what a pass in training keeps, for `features`.

    Args:
      key: PRNG key.
      batch: images B.
    """
    if not self.drop_path:
      return {}
    return {"branches": sample_branches(key, batch, drop_rates(self.drop_path, self.depth))}

  def features(
    self,
    x: Float[Array, "b height width c"],
    *,
    train: bool,
    kept: Mapping[str, jax.Array] | None = None,
  ) -> list[jax.Array]:
    """The patches' tokens of the blocks `levels`, after the last normalisation, as maps.

    Args:
      x: normalised images.
      train: not read: nothing is normalised by batches.
      kept: result of `sample_kept`, and "patches", bool[B, h, w]: False where the embedding of a
        patch is replaced by the mask token; None keeps everything.

    Returns:
      [B, h, w, C] each, h = floor(image_scale H / patch), w = floor(image_scale W / patch), each at
      least 1.
    """
    del train
    height, width = self.grid(x.shape[1:3])
    tokens = self.tokens(x, tuple(self.levels), kept).normalized
    return [t[:, 1 + self.registers :].reshape(x.shape[0], height, width, -1) for t in tokens]

  def grid(self, size: tuple[int, int]) -> tuple[int, int]:
    """Patches along both axes of images of `size` pixels."""
    return tuple(max(1, int(self.image_scale * n // self.patch)) for n in size)

  @nn.compact
  def tokens(
    self,
    x: Float[Array, "b height width c"],
    blocks: Sequence[int],
    kept: Mapping[str, jax.Array] | None = None,
  ) -> Tokens:
    """Tokens before the first block and after some.

    Args:
      x: normalised images.
      blocks: which ones, counted from 0.
      kept: as for `features`.
    """
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    kept = kept or {}
    grid = self.grid(x.shape[1:3])
    if (size := tuple(self.patch * n for n in grid)) != x.shape[1:3]:
      x = resize_centered(x, size)
    x = embedded = self._embed(x, kept.get("patches"), types)
    rates = drop_rates(self.drop_path, self.depth)
    angles = None
    if self.positions == "rotary":  # at least float32, as released
      wide = accumulation_dtype(x.dtype)
      angles = jnp.asarray(rotary_angles(self.periods(), grid), wide)
    several = tuple(blocks) != (self.depth - 1,)
    stack = scanned(VisionBlock, self.depth, shared=1, rematerialize=self.rematerialize)
    x, every = stack(
      self.heads,
      self._hidden(),
      self.mlp,
      self.key_bias,
      self.norm_epsilon,
      several,
      name="blocks",
      **types,
    )(x, branch_factors(kept.get("branches"), rates, x.dtype), angles)
    found = [every[block] for block in blocks] if several else [x]
    norm = LayerNorm(self.norm_epsilon, name="norm", **types)
    return Tokens(embedded, found, [norm(each) for each in found])

  @nn.nowrap
  def periods(self) -> np.ndarray:
    """Periods of the rotary positions, float64[width / heads / 4]."""
    count = self.width // self.heads // 4
    return _SLOWEST_PERIOD ** (np.arange(count) / count)

  def _hidden(self) -> int:
    if self.mlp == "gelu":
      return self.mlp_ratio * self.width
    return -(-(self.mlp_ratio * self.width * 2 // 3) // 8) * 8

  def _embed(self, x, seen, types) -> jax.Array:
    """Tokens [B, N, C] of images that patches fill; `seen` as "patches" of `features`."""

    def token(name, count):
      value = self.param(name, _token_init, (1, count, self.width), self.param_dtype)
      return value.astype(dtype)

    dtype, batch = self.dtype or x.dtype, x.shape[0]
    x = PatchConvolution(
      self.width, self.patch, kernel_init=_token_init, name="patch_embed", **types
    )(x)
    grid = x.shape[1:3]
    x = x.reshape(batch, -1, self.width)
    mask = self.param("mask_token", nn.initializers.zeros, (1, self.width), self.param_dtype)
    if seen is not None:
      x = jnp.where(seen.reshape(batch, -1, 1), x, mask.astype(dtype))
    x = jnp.concatenate([jnp.broadcast_to(token("cls_token", 1), (batch, 1, self.width)), x], 1)
    if self.positions != "rotary":
      table = self.param(
        "pos_embed", _token_init, (1, 1 + self.position_grid**2, self.width), self.param_dtype
      )
      if grid != (self.position_grid, self.position_grid):
        table = resample_positions(table, grid, self.positions)
      x = x + table.astype(dtype)
    if self.registers:
      registers = jnp.broadcast_to(
        token("register_tokens", self.registers), (batch, self.registers, self.width)
      )
      x = jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)
    return x


def dinov2(size: str, *, registers: bool = False) -> VisionTransformer:
  """DINOv2's encoder of a size, "S", "B", "L" or "g", with or without registers."""
  width, depth, heads, levels = _SIZES[size]
  return VisionTransformer(
    width=width,
    depth=depth,
    heads=heads,
    levels=levels,
    mlp="swiglu" if size == "g" else "gelu",
    registers=4 if registers else 0,
    positions="antialias" if registers else "offset",
  )


def dinov3(size: str) -> VisionTransformer:
  """DINOv3's encoder of a size, "S", "B" or "L"."""
  width, depth, heads, levels = _SIZES[size]
  return VisionTransformer(
    width=width,
    depth=depth,
    heads=heads,
    levels=levels,
    patch=16,
    registers=4,
    positions="rotary",
    key_bias=False,
    norm_epsilon=1e-5,
  )
