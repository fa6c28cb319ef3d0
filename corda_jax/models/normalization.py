"""From uint8 images to the input of a network."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from corda_jax.typing import Array, Float, UInt8


@dataclasses.dataclass(frozen=True)
class Normalization:
  """How uint8 images become network input: (x - mean) / std, channels in the network's order.

  Attributes:
    mean: 0..255, in the network's channel order. The default is the released one.
    std: divisor of each channel, in the same order.
    bgr: whether the network reads blue first. The released weights do.
  """

  mean: tuple[float, float, float] = (104.00698793, 116.66876762, 122.67891434)
  std: tuple[float, float, float] = (1.0, 1.0, 1.0)
  bgr: bool = True

  def __post_init__(self):
    for name in ("mean", "std"):
      numbers = getattr(self, name)
      if len(numbers) != 3 or not all(type(x) in (int, float) for x in numbers):
        raise ValueError(f"{name} is {numbers}, expected three numbers, one a channel")
    if min(self.std) <= 0:
      raise ValueError(f"std is {self.std}, expected numbers above 0")

  def normalize(
    self, images: UInt8[Array, "*pixels 3"], dtype: Any = jnp.float32
  ) -> Float[Array, "*pixels 3"]:
    """Maps RGB images, 0..255, to network input of `dtype`."""
    if self.bgr:
      images = images[..., ::-1]
    mean, std = jnp.asarray(self.mean, dtype), jnp.asarray(self.std, dtype)
    return (images.astype(dtype) - mean) / std

  def to_unit_range(self, x: Float[Array, "*pixels 3"]) -> Float[Array, "*pixels 3"]:
    """Maps network input to 0..1, in the network's channel order."""
    mean, std = jnp.asarray(self.mean, x.dtype), jnp.asarray(self.std, x.dtype)
    return (x * std + mean) / 255

  def from_unit_range(self, x: Float[Array, "*pixels 3"]) -> Float[Array, "*pixels 3"]:
    """Inverse of `to_unit_range`."""
    mean, std = jnp.asarray(self.mean, x.dtype), jnp.asarray(self.std, x.dtype)
    return (x * 255 - mean) / std


# Of torchvision's networks, SegFormer's, DINOv2's and DINOv3's.
IMAGENET = Normalization(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), bgr=False)
# Of Monodepth2's networks: 0.45 and 0.225 of 255.
MONODEPTH = Normalization(mean=(114.75,) * 3, std=(57.375,) * 3, bgr=False)
