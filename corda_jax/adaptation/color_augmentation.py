"""Colour jitter and Gaussian blur of images that the student sees, on the device.

Semantics follow kornia, which most releases use. Each operation takes the drawn numbers; `draw_*`
draws them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.color_jitter import GREY, color_jitter, draw_jitter
from corda_jax.configuration import check_at_least, check_one_of, check_within
from corda_jax.models.normalization import Normalization
from corda_jax.typing import Array, Float, Key


@dataclasses.dataclass(frozen=True)
class ColorAugmentation:
  """Jitter and blur.

  Attributes:
    decide_for: whether to jitter, and to blur, is decided once a "batch", or for each "image".
    sample_for: whether the order of the jitter and the deviation of the blur are sampled for each
      "image", or once a "batch"; the jitter's factors are each image's own.
    jitter_probability: 0..1.
    jitter_strength: 0..1, a number or those of brightness, contrast, saturation and hue; see
      `draw_jitter`.
    brightness: how jitter changes it, "add" or "multiply", see `color_jitter`.
    blend_with_grey: whether contrast and saturation blend with grey, see `color_jitter`.
    hsv_epsilon: see `color_jitter`.
    blur_probability: 0..1.
    blur_sigma: least and largest standard deviation, pixels.
  """

  decide_for: str = "batch"
  sample_for: str = "image"
  jitter_probability: float = 0.8
  jitter_strength: float | tuple[float, ...] = 0.25
  brightness: str = "add"
  blend_with_grey: bool = False
  hsv_epsilon: float = 0.0
  blur_probability: float = 0.5
  blur_sigma: tuple[float, float] = (0.15, 1.15)

  def __post_init__(self):
    each = ("batch", "image")
    check_one_of(self, decide_for=each, sample_for=each, brightness=("add", "multiply"))
    check_within(self, jitter_probability=(0, 1), blur_probability=(0, 1))
    check_at_least(self, hsv_epsilon=0)
    strength = np.atleast_1d(self.jitter_strength)
    if strength.shape not in ((1,), (4,)) or not ((strength >= 0) & (strength <= 1)).all():
      raise ValueError(
        f"jitter_strength is {self.jitter_strength}, expected one number or four of 0 to 1"
      )
    sigma = self.blur_sigma
    if not (len(sigma) == 2 and 0 < sigma[0] <= sigma[1]):
      raise ValueError(f"blur_sigma is {sigma}, expected (least, largest) above 0")

  def sample(self, keys: Sequence[Key[Array, ""]], batch: int) -> dict[str, Any]:
    """Samples decisions and factors.

    Args:
      keys: four PRNG keys.
      batch: number of images.

    Returns:
      "use_jitter" and "use_blur" bool[] or, decided for each image, bool[B], "jitter" as of
      `draw_jitter`, "blur_sigma" float32[B].
    """
    decisions = (batch,) if self.decide_for == "image" else ()
    return {
      "use_jitter": jax.random.bernoulli(keys[0], self.jitter_probability, decisions),
      "jitter": draw_jitter(
        keys[1], batch, strength=self.jitter_strength, one_order=self.sample_for == "batch"
      ),
      "use_blur": jax.random.bernoulli(keys[2], self.blur_probability, decisions),
      "blur_sigma": jnp.broadcast_to(
        draw_blur(keys[3], 1 if self.sample_for == "batch" else batch, sigma_range=self.blur_sigma),
        (batch,),
      ),
    }

  def augment(
    self, x: Float[Array, "b h w c"], draws: Mapping[str, Any], normalization: Normalization
  ) -> Float[Array, "b h w c"]:
    """Applies the sampled jitter and blur.

    Args:
      x: network inputs; channels after the colours stay as they are.
      draws: random choices of `sample`.
      normalization: between network inputs and colours.
    """

    def jitter(x):
      unit = normalization.to_unit_range(x)
      grey = GREY[::-1] if normalization.bgr else GREY
      changed = color_jitter(
        unit,
        draws["jitter"],
        brightness_mode=self.brightness,
        hsv_epsilon=self.hsv_epsilon,
        grey=grey if self.blend_with_grey else None,
      )
      return normalization.from_unit_range(changed)

    def blur(x):
      return gaussian_blur(x, draws["blur_sigma"])

    x, others = x[..., :3], x[..., 3:]
    if self.jitter_probability:
      x = _apply_where(draws["use_jitter"], jitter, x)
    if self.blur_probability:
      x = _apply_where(draws["use_blur"], blur, x)
    return jnp.concatenate([x, others], axis=-1) if others.shape[-1] else x


def _apply_where(use, function, x):
  if use.ndim == 0:
    return jax.lax.cond(use, function, lambda x: x, x)
  return jnp.where(use[:, None, None, None], function(x), x)


def blur_kernel_size(size: int) -> int:
  """Taps of the blur along an axis of `size` pixels: the odd number near a tenth (released)."""
  tenth = -(-size // 10)
  return int(tenth - 0.5 + tenth % 2)


def draw_blur(
  key: Key[Array, ""], batch: int, *, sigma_range: tuple[float, float]
) -> Float[Array, " batch"]:
  """Draws float32[batch] standard deviations in pixels, uniform in `sigma_range`."""
  return jax.random.uniform(key, (batch,), minval=sigma_range[0], maxval=sigma_range[1])


def gaussian_blur(
  images: Float[Array, "b h w c"], sigma: Float[Array, " b"]
) -> Float[Array, "b h w c"]:
  """Blurs with a truncated Gaussian and a reflected border, as two banded matrix products.

  Args:
    images: [B, H, W, C], any range.
    sigma: [B], standard deviations in pixels, above zero.

  Returns:
    [B, H, W, C].
  """
  rows = _blur_matrix(images.shape[1], sigma.astype(images.dtype))
  columns = _blur_matrix(images.shape[2], sigma.astype(images.dtype))
  highest = jax.lax.Precision.HIGHEST
  images = jnp.einsum("bHh,bhwc->bHwc", rows, images, precision=highest)
  return jnp.einsum("bWw,bhwc->bhWc", columns, images, precision=highest)


def _blur_matrix(size: int, sigma: Float[Array, " b"]) -> Float[Array, "b {size} {size}"]:
  """Row i holds the weights of the pixels that the blurred pixel i gathers.

  A pixel is reached directly and by its mirror images at -j and 2 (size - 1) - j; the border
  pixels 0 and size - 1 are their own mirror images and must not count twice.
  """
  radius = blur_kernel_size(size) // 2
  i, j = jnp.arange(size)[:, None], jnp.arange(size)[None, :]

  def gaussian(distance):
    ratio = distance.astype(sigma.dtype) / sigma[:, None, None]
    return jnp.where(distance <= radius, jnp.exp(-0.5 * ratio**2), 0)

  taps = jnp.abs(jnp.arange(-radius, radius + 1))
  total = gaussian(taps[None, :]).sum((1, 2))
  matrix = gaussian(jnp.abs(i - j))
  matrix += jnp.where(j > 0, gaussian(i + j), 0)
  matrix += jnp.where(j < size - 1, gaussian(2 * (size - 1) - i - j), 0)
  return matrix / total[:, None, None]
