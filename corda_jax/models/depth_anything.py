"""Depth Anything V2 (Yang et al., NeurIPS 2024, arXiv 2406.09414): DINOv2 and a DPT decoder.

The decoder is that of Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021, without
its readout: the class token is not read.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.configuration import check_at_least, check_whole_numbers, given
from corda_jax.models.encoders.vision_transformer import VisionTransformer, dinov2
from corda_jax.models.layers import (
  Convolution,
  Dtype,
  TransposedConvolution,
  accumulation_dtype,
  torch_uniform,
)
from corda_jax.resize import resize_aligned
from corda_jax.typing import Array, Float

# Channels of the decoder, and of the four levels that it makes of the encoder's blocks.
_SIZES = {
  "S": (64, (48, 96, 192, 384)),
  "B": (128, (96, 192, 384, 768)),
  "L": (256, (256, 512, 1024, 1024)),
}
_HEAD_WIDTH = 32  # channels before the prediction


class DptDecoder(nn.Module):
  """From four levels of one size to a map, by way of four sizes.

  Attributes:
    width: channels.
    level_widths: channels of the levels at 4, 2, 1 and 1/2 times the size of the patches.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
  """

  width: int
  level_widths: Sequence[int]
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, levels: Sequence[jax.Array], size: tuple[int, int]
  ) -> Float[Array, "b height width 1"]:
    """Predicts a map, before its last activation.

    Args:
      levels: four features of the encoder, [B, h, w, C] each, that of the first block first.
      size: (H, W) of the map.

    Returns:
      [B, H, W, 1], at least float32.
    """
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype, "kernel_init": torch_uniform}

    def convolution(name, x, width, kernel_size=3, **options):
      options = {"use_bias": True, **types, **options}
      return Convolution(width, kernel_size, name=name, **options)(x)

    def residual(name, x):
      y = convolution(f"{name}_conv1", nn.relu(x), self.width)
      return x + convolution(f"{name}_conv2", nn.relu(y), self.width)

    found = []
    for index, (x, width) in enumerate(zip(levels, self.level_widths, strict=True)):
      x, name = convolution(f"project{index}", x, width, 1), f"resize{index}"
      if index < 2:
        x = TransposedConvolution(width, (4, 2)[index], use_bias=True, name=name, **types)(x)
      elif index == 3:
        x = convolution(name, x, width, stride=2)
      found.append(convolution(f"level{index + 1}", x, self.width, use_bias=False))
    y = None
    for number in (4, 3, 2, 1):
      x, name = found[number - 1], f"fuse{number}"
      y = x if y is None else y + residual(f"{name}_unit1", x)
      y = residual(f"{name}_unit2", y)
      height, width = x.shape[1:3]
      y = resize_aligned(y, found[number - 2].shape[1:3] if number > 1 else (2 * height, 2 * width))
      y = convolution(f"{name}_out", y, self.width, 1)
    y = resize_aligned(convolution("head1", y, self.width // 2), size)
    y = nn.relu(convolution("head2", y, _HEAD_WIDTH))
    return convolution("head3", y, 1, 1, predicts=True)


class DepthAnything(nn.Module):
  """Depth of single images; `depth_anything` gives the released networks.

  Attributes:
    encoder: whose four levels are read. V2 reads blocks that are spread over the depth, V1 the last
      four.
    width: channels of the decoder.
    level_widths: channels of its four levels.
    max_depth: metres of the farthest depth of a metric network (released: 80 outdoors, 20 indoors);
      0: a relative network, which predicts inverse depth up to scale and shift.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
  """

  encoder: VisionTransformer = dinov2("S")
  width: int = 64
  level_widths: Sequence[int] = (48, 96, 192, 384)
  max_depth: float = 0.0
  dtype: Dtype | None = given(None)
  param_dtype: Dtype = given(jnp.float32)

  def __post_init__(self):
    check_at_least(self, width=2, max_depth=0)
    check_whole_numbers(self, "level_widths")
    for name, count in (
      ("encoder.levels", len(self.encoder.levels)),
      ("level_widths", len(self.level_widths)),
    ):
      if count != 4:
        raise ValueError(f"{name} has {count} numbers, expected four")
    super().__post_init__()

  @property
  def metric(self) -> bool:
    """Whether predictions are metres, and not relative inverse depth."""
    return self.max_depth > 0

  @nn.compact
  def __call__(self, x: Float[Array, "b height width 3"]) -> Float[Array, "b height width"]:
    """Predicts depth.

    Args:
      x: normalised images; H and W are multiples of the encoder's patch.

    Returns:
      [B, H, W], at least float32. A relative network: inverse depth up to scale and shift,
      which images of one camera nearly share; 0 or more, larger is nearer. A metric one: metres, 0
      to `max_depth`.

    Raises:
      ValueError: patches do not fill the image.
    """
    size, patch = x.shape[1:3], self.encoder.patch
    if size[0] % patch or size[1] % patch:
      raise ValueError(f"images of {size[0]}x{size[1]} pixels, expected multiples of {patch}")
    levels = self.encoder.features(x, train=False)
    decoder = DptDecoder(
      self.width, self.level_widths, self.dtype, self.param_dtype, name="depth_head"
    )
    y = decoder(levels, size)[..., 0]
    y = y.astype(accumulation_dtype(y.dtype))
    return self.max_depth * nn.sigmoid(y) if self.metric else nn.relu(y)


def depth_anything(size: str, *, version: int = 2, max_depth: float = 0.0) -> DepthAnything:
  """A released network.

  Args:
    size: "S", "B" or "L".
    version: 1 or 2; the files of both have the same names and shapes.
    max_depth: as in `DepthAnything`.

  Raises:
    ValueError: there is no such size or version.
  """
  if size not in _SIZES or version not in (1, 2):
    raise ValueError(f"got size {size!r} and version {version}, expected S, B or L, and 1 or 2")
  width, level_widths = _SIZES[size]
  encoder = dinov2(size)
  if version == 1:
    encoder = encoder.clone(levels=tuple(range(encoder.depth - 4, encoder.depth)))
  return DepthAnything(encoder, width, level_widths, max_depth)


def input_size(size: tuple[int, int], smallest: int, multiple: int) -> tuple[int, int]:
  """The size at which an image is seen, as released: about its aspect, in whole patches.

  Args:
    size: (H, W) of the image.
    smallest: least pixels of either side. Released: 518.
    multiple: pixels that divide both sides.
  """
  scale = max(smallest / n for n in size)

  def side(n):
    rounded = round(scale * n / multiple) * multiple
    return rounded if rounded >= smallest else math.ceil(scale * n / multiple) * multiple

  return side(size[0]), side(size[1])
