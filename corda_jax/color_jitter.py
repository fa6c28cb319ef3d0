"""Colour jitter, on the device.

Values are 0..1; unless they blend with grey, which colour each of the three channels is does not
matter to their distribution. Semantics follow kornia 0.4.1, which CorDA's release uses, and 0.5.8,
which DAFormer's does; those of blending torchvision, which VFM-UDA's does.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from corda_jax.typing import Array, Float, Key

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
GREY = (0.2989, 0.587, 0.114)  # shares of red, green and blue, torchvision's


def draw_jitter(
  key: Key[Array, ""], batch: int, *, strength: float | Sequence[float], one_order: bool = False
) -> dict[str, Array]:
  """Draws the factors and the order of `color_jitter`, independently for each image.

  Args:
    key: PRNG key.
    batch: number of images.
    strength: s; brightness, contrast and saturation are U(1 - s, 1 + s), hue is U(-s, s). Four
      numbers: one for each.
    one_order: whether all images share the order.

  Returns:
    "brightness", "contrast", "saturation", "hue": float32[batch]; "order": int32[batch, 4].
  """
  factor_key, order_key = jax.random.split(key)
  factors = jax.random.uniform(factor_key, (4, batch), minval=-1, maxval=1)
  factors *= jnp.broadcast_to(jnp.asarray(strength, factors.dtype), 4)[:, None]
  order = jnp.argsort(jax.random.uniform(order_key, (1 if one_order else batch, 4)), axis=1)
  order = jnp.broadcast_to(order, (batch, 4))
  return {
    "brightness": 1 + factors[0],
    "contrast": 1 + factors[1],
    "saturation": 1 + factors[2],
    "hue": factors[3],
    "order": order.astype(jnp.int32),
  }


def color_jitter(
  images: Float[Array, "b h w 3"],
  draws: Mapping[str, Array],
  *,
  brightness_mode: str = "add",
  hsv_epsilon: float = 0.0,
  grey: Sequence[float] | None = None,
) -> Float[Array, "b h w 3"]:
  """Changes brightness, contrast, saturation and hue, in an order of its own for each image.

  Contrast multiplies. Brightness and contrast clip to 0..1. Saturation scales S and hue turns H by
  factor turns, in HSV. With `grey`, contrast is x f + (1 - f) m with the image's mean grey m, and
  saturation the same with each pixel's grey; both clip.

  Args:
    images: [B, H, W, 3], 0..1.
    draws: random choices of `draw_jitter`; "order" holds 0 brightness, 1 contrast, 2 saturation, 3
      hue.
    brightness_mode: "add" (factor - 1) to every channel, as released; or "multiply" by the factor,
      as later libraries do.
    hsv_epsilon: added to the value that saturation divides by: 0, or 1e-6 in kornia 0.5.8.
    grey: shares of the three channels in grey, such as `GREY`; None: nothing blends with it.

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
    # One conversion serves both operations of HSV.
    h, s, v = _to_hsv(images, hsv_epsilon)
    s = jnp.where(operation[..., 0] == SATURATION, jnp.clip(s * saturation, 0, 1), s)
    h = jnp.where(operation[..., 0] == HUE, h + hue, h)
    turned = saturated = _from_hsv(h, s, v)
    contrasted = images * contrast
    if grey is not None:
      shade = (images * jnp.asarray(grey, images.dtype)).sum(-1, keepdims=True)
      mean = shade.mean((1, 2), keepdims=True)
      contrasted = contrasted + (1 - contrast) * mean
      share = saturation[..., None]
      saturated = jnp.clip(share * images + (1 - share) * shade, 0, 1)
    plain = jnp.clip(jnp.where(operation == BRIGHTNESS, bright, contrasted), 0, 1)
    colored = jnp.where(operation == SATURATION, saturated, turned)
    return jnp.where(operation <= CONTRAST, plain, colored), None

  images, _ = jax.lax.scan(apply, images, draws["order"].T)
  return images


def _to_hsv(images: Array, epsilon: float) -> tuple[Array, Array, Array]:
  """Hue in turns, saturation and value of [..., 3] in 0..1."""
  r, g, b = images[..., 0], images[..., 1], images[..., 2]
  value, low = images.max(-1), images.min(-1)
  chroma = value - low
  safe = jnp.where(chroma > 0, chroma, 1)
  hue = jnp.where(
    value == r, (g - b) / safe, jnp.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
  )
  saturation = jnp.where(value > 0, chroma / jnp.where(value > 0, value + epsilon, 1), 0)
  return (hue / 6) % 1, saturation, value


def _from_hsv(hue: Array, saturation: Array, value: Array) -> Array:
  """Inverse of `_to_hsv` for any real hue: channel n is v - v s clip(min(k, 4 - k), 0, 1)."""
  position = hue * 6

  def channel(n):
    k = (n + position) % 6
    return value - value * saturation * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

  return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)
