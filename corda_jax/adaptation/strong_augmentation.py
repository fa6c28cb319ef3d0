"""Colour jitter and Gaussian blur of the mixed images, on the device.

Images are [B, H, W, 3]. Colour operations want and give values in 0..1; which colour each of the
three channels is does not matter to their distribution. Semantics follow kornia 0.4.1, which the
release uses. Each operation takes the drawn numbers; `draw_*` draws them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from corda_jax.configuration import check_one_of, check_within
from corda_jax.models.normalization import Normalization
from corda_jax.typing import Array, Float, Key

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclasses.dataclass(frozen=True)
class StrongAugmentation:
  """Jitter and blur of the mixed images.

  Attributes:
    decide_for: whether to jitter, and to blur, is decided once a "batch", or for each "image".
    jitter_probability: 0..1.
    jitter_strength: 0..1, see `draw_jitter`.
    brightness: how jitter changes it, "add" or "multiply", see `color_jitter`.
    blur_probability: 0..1.
    blur_sigma: least and largest standard deviation, pixels.
  """

  decide_for: str = "batch"
  jitter_probability: float = 0.8
  jitter_strength: float = 0.25
  brightness: str = "add"
  blur_probability: float = 0.5
  blur_sigma: tuple[float, float] = (0.15, 1.15)

  def __post_init__(self):
    check_one_of(self, decide_for=("batch", "image"), brightness=("add", "multiply"))
    share = (0, 1)
    check_within(self, jitter_probability=share, jitter_strength=share, blur_probability=share)
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
      "jitter": draw_jitter(keys[1], batch, strength=self.jitter_strength),
      "use_blur": jax.random.bernoulli(keys[2], self.blur_probability, decisions),
      "blur_sigma": draw_blur(keys[3], batch, sigma_range=self.blur_sigma),
    }

  def augment(
    self, x: Float[Array, "b h w 3"], draws: Mapping[str, Any], normalization: Normalization
  ) -> Float[Array, "b h w 3"]:
    """Applies the sampled jitter and blur.

    Args:
      x: network inputs.
      draws: random choices of `sample`.
      normalization: between network inputs and colours.
    """

    def jitter(x):
      unit = normalization.to_unit_range(x)
      changed = color_jitter(unit, draws["jitter"], brightness_mode=self.brightness)
      return normalization.from_unit_range(changed)

    def blur(x):
      return gaussian_blur(x, draws["blur_sigma"])

    x = _apply_where(draws["use_jitter"], jitter, x)
    return _apply_where(draws["use_blur"], blur, x)


def _apply_where(use, function, x):
  if use.ndim == 0:
    return jax.lax.cond(use, function, lambda x: x, x)
  return jnp.where(use[:, None, None, None], function(x), x)


def draw_jitter(key: Key[Array, ""], batch: int, *, strength: float) -> dict[str, Array]:
  """Draws the factors and the order of `color_jitter`, independently for each image.

  Args:
    key: PRNG key.
    batch: number of images.
    strength: s; brightness, contrast and saturation are U(1 - s, 1 + s), hue is U(-s, s).

  Returns:
    "brightness", "contrast", "saturation", "hue": float32[batch]; "order": int32[batch, 4].
  """
  factor_key, order_key = jax.random.split(key)
  factors = jax.random.uniform(factor_key, (4, batch), minval=-strength, maxval=strength)
  order = jnp.argsort(jax.random.uniform(order_key, (batch, 4)), axis=1)
  return {
    "brightness": 1 + factors[0],
    "contrast": 1 + factors[1],
    "saturation": 1 + factors[2],
    "hue": factors[3],
    "order": order.astype(jnp.int32),
  }


def color_jitter(
  images: Float[Array, "b h w 3"], draws: Mapping[str, Array], *, brightness_mode: str = "add"
) -> Float[Array, "b h w 3"]:
  """Changes brightness, contrast, saturation and hue, in an order of its own for each image.

  Contrast multiplies. Brightness and contrast clip to 0..1. Saturation scales S and hue turns H by
  factor turns, in HSV.

  Args:
    images: [B, H, W, 3], 0..1.
    draws: random choices of `draw_jitter`; "order" holds 0 brightness, 1 contrast, 2 saturation, 3
      hue.
    brightness_mode: "add" (factor - 1) to every channel, as released; or "multiply" by the factor,
      as later libraries do.

  Returns:
    [B, H, W, 3], 0..1.
  """

  def factor(name):
    return draws[name].astype(images.dtype)[:, None, None, None]

  brightness, contrast = factor("brightness"), factor("contrast")
  saturation, hue = factor("saturation")[..., 0], factor("hue")[..., 0]

  def apply(images, operation):
    operation = operation[:, None, None, None]
    bright = images + (brightness - 1) if brightness_mode == "add" else images * brightness
    plain = jnp.clip(jnp.where(operation == BRIGHTNESS, bright, images * contrast), 0, 1)
    # One conversion serves both operations of HSV.
    h, s, v = _to_hsv(images)
    s = jnp.where(operation[..., 0] == SATURATION, jnp.clip(s * saturation, 0, 1), s)
    h = jnp.where(operation[..., 0] == HUE, h + hue, h)
    return jnp.where(operation <= CONTRAST, plain, _from_hsv(h, s, v)), None

  images, _ = jax.lax.scan(apply, images, draws["order"].T)
  return images


def _to_hsv(images: Array) -> tuple[Array, Array, Array]:
  """Hue in turns, saturation and value of [..., 3] in 0..1."""
  r, g, b = images[..., 0], images[..., 1], images[..., 2]
  value, low = images.max(-1), images.min(-1)
  chroma = value - low
  safe = jnp.where(chroma > 0, chroma, 1)
  hue = jnp.where(
    value == r, (g - b) / safe, jnp.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
  )
  saturation = jnp.where(value > 0, chroma / jnp.where(value > 0, value, 1), 0)
  return (hue / 6) % 1, saturation, value


def _from_hsv(hue: Array, saturation: Array, value: Array) -> Array:
  """Inverse of `_to_hsv` for any real hue: channel n is v - v s clip(min(k, 4 - k), 0, 1)."""
  position = hue * 6

  def channel(n):
    k = (n + position) % 6
    return value - value * saturation * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

  return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)


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
    images: [B, H, W, 3], any range.
    sigma: [B], standard deviations in pixels, above zero.

  Returns:
    [B, H, W, 3].
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
