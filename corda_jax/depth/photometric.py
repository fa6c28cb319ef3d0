"""Photometric losses: how well a depth explains one view of a scene by others.

Source: Monodepth2 (Godard et al., ICCV 2019, arXiv 1806.01260). Images are 0..1.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from corda_jax.configuration import check_at_least, check_one_of, check_within
from corda_jax.depth.camera import disparity_to_depth, synthesize_view
from corda_jax.resize import resize_centered
from corda_jax.typing import Array, Float, Key

_SSIM_SHARE = 0.85
_C1, _C2 = 0.01**2, 0.03**2
_SMALL = 1e-7  # as released


@dataclasses.dataclass(frozen=True)
class PhotometricOptions:
  """Fields that the depth stage and depth learned in the adaptation step share.

  Attributes:
    smoothness_weight: weight of the smoothness within the loss.
    automask: views that may explain a pixel better unwarped, which then does not count (what moves
      with the camera, what has no texture): "all", as published, those that are "temporal", or
      "none".
    ignored_bottom: share of the rows, from below, that the own car's hood takes.
    over_views: how the errors of several views are joined: "minimum", as published, or "mean".
  """

  smoothness_weight: float = 1e-3
  automask: str = "all"
  ignored_bottom: float = 0.0
  over_views: str = "minimum"

  def __post_init__(self):
    check_at_least(self, smoothness_weight=0)
    check_one_of(self, automask=("all", "temporal", "none"), over_views=("minimum", "mean"))
    check_within(self, ignored_bottom=(0, 0.9))


def ssim_loss(x: Float[Array, "b h w c"], y: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
  """Structural dissimilarity of 3x3 windows: clip((1 - SSIM) / 2, 0, 1), borders reflected.

  Args:
    x: images, at least 2x2 pixels.
    y: images to compare them with.
  """
  shape, channels = x.shape, x.shape[3]
  # Columns and channels as one axis: loops over three channels alone would be short ones.
  x, y = (z.reshape(*shape[:2], -1) for z in (x, y))

  def mean(z):
    return _three(_three(z, axis=1, step=1), axis=2, step=channels) / 9

  mean_x, mean_y = mean(x), mean(y)
  variance_x = mean(x * x) - mean_x * mean_x
  variance_y = mean(y * y) - mean_y * mean_y
  covariance = mean(x * y) - mean_x * mean_y
  numerator = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
  denominator = (mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2)
  return jnp.clip((1 - numerator / denominator) / 2, 0, 1).reshape(shape)


def _three(x: Array, *, axis: int, step: int) -> Array:
  """Sums of each value and its neighbours, `step` before and behind it; borders reflected."""
  size = x.shape[axis]

  def part(array, start, length):
    return jax.lax.slice_in_dim(array, start, start + length, axis=axis)

  # What a reflection puts before the first value is the second one.
  padded = jnp.concatenate([part(x, step, step), x, part(x, size - 2 * step, step)], axis)
  return sum(part(padded, i * step, size) for i in range(3))


def reprojection_error(
  prediction: Float[Array, "b h w c"], target: Float[Array, "b h w c"]
) -> Float[Array, "b h w"]:
  """0.85 SSIM loss + 0.15 absolute difference, means over the channels; 0..1.

  Args:
    prediction: the target as made from another view, 0..1.
    target: images, 0..1.
  """
  difference = jnp.abs(target - prediction).mean(-1)
  return _SSIM_SHARE * ssim_loss(prediction, target).mean(-1) + (1 - _SSIM_SHARE) * difference


def smoothness(
  disparity: Float[Array, "b h w"],
  image: Float[Array, "b h w c"],
  weight: Float[Array, "b h w"] | None = None,
) -> Float[Array, ""]:
  """Mean gradient of a disparity, damped where the image has edges.

  Args:
    disparity: [B, H, W].
    image: [B, H, W, C].
    weight: [B, H, W], 0 where the disparity does not count, else 1; None: all counts.

  Returns:
    A scalar: over x and over y, the mean of `|d disparity| exp(-mean_c |d image|)`, added. Of the
    differences those count whose two pixels do.
  """
  total = jnp.zeros((), disparity.dtype)
  for axis in (1, 2):
    edges = jnp.abs(jnp.diff(image, axis=axis)).mean(-1)
    steps = jnp.abs(jnp.diff(disparity, axis=axis)) * jnp.exp(-edges)
    if weight is None:
      total += steps.mean()
    else:
      size = weight.shape[axis]
      first, second = (jax.lax.slice_in_dim(weight, i, size - 1 + i, axis=axis) for i in (0, 1))
      total += (steps * first * second).sum() / jnp.maximum((first * second).sum(), 1)
  return total


def normalized(
  disparity: Float[Array, "b h w"], weight: Float[Array, "b h w"] | None = None
) -> Float[Array, "b h w"]:
  """Disparities [B, H, W] over their mean in each image: smoothness must not reward shrinking.

  Args:
    disparity: [B, H, W], at least 0.
    weight: [B, H, W], 0 or 1: what the mean is over; None: all.
  """
  if weight is None:
    mean = disparity.mean((1, 2), keepdims=True)
  else:
    count = jnp.maximum(weight.sum((1, 2), keepdims=True), 1)
    mean = (disparity * weight).sum((1, 2), keepdims=True) / count
    mean = jnp.where(mean > 0, mean, 1)  # an image none of whose pixels counts
  return disparity / (mean + _SMALL)


class Views(NamedTuple):
  """An image, the views that explain it, and how they were taken.

  Attributes:
    target: the image whose depth is needed, 0..1.
    sources: other views, 0..1.
    transforms: from the target's camera to each view's.
    intrinsics: (fx, fy, cx, cy) of all, pixels.
    temporal: for each view, whether it is of another time; static.
  """

  target: Float[Array, "b h w c"]
  sources: Float[Array, "n b h w c"]
  transforms: Float[Array, "n b 4 4"]
  intrinsics: Float[Array, "b 4"]
  temporal: tuple[bool, ...]


def identity_error(
  views: Views, which: str, key: Key[Array, ""] | None, *, over_views: str = "minimum"
) -> Float[Array, "b h w"] | None:
  """Error of each view as it is, not warped; least where nothing moves between the views.

  Args:
    views: N of them.
    which: the views that are compared: "all", as published, those that are "temporal", or "none".
    key: PRNG key of noise of 1e-5 that breaks ties; None for no noise.
    over_views: as in `reprojection_minimum`: both are joined in the same way, as released.

  Returns:
    Error joined over these views; None without any.
  """
  if which not in ("all", "temporal", "none"):
    raise ValueError(f"automask is {which!r}, expected 'all', 'temporal' or 'none'")
  number = len(views.sources)
  chosen = {"all": [True] * number, "temporal": views.temporal, "none": [False] * number}[which]
  if not any(chosen):
    return None
  sources = jnp.stack([source for source, kept in zip(views.sources, chosen, strict=True) if kept])
  error = jax.vmap(reprojection_error, (0, None))(sources, views.target)
  if key is not None:
    error += 1e-5 * jax.random.normal(key, error.shape, error.dtype)
  return _joined(error, over_views)


def _joined(errors: Float[Array, "n b h w"], over_views: str) -> Float[Array, "b h w"]:
  """Errors of views as one."""
  if over_views not in ("minimum", "mean"):
    raise ValueError(f"over_views is {over_views!r}, expected 'minimum' or 'mean'")
  return errors.min(0) if over_views == "minimum" else errors.mean(0)


def reprojection_minimum(
  depth: Float[Array, "b h w"], views: Views, *, over_views: str = "minimum"
) -> tuple[Float[Array, "b h w"], Float[Array, "n b h w c"]]:
  """Error of the view that explains each pixel best, given its depth.

  The minimum passes over views in which the pixel is hidden or outside.

  Args:
    depth: depth of the target, in the unit of the transforms.
    views: N of them.
    over_views: "minimum", as published, or "mean", as before it.

  Returns:
    Error, 0..1; the views as the target's camera should see them.
  """
  warped = jax.vmap(synthesize_view, (0, None, None, 0))(
    views.sources, depth, views.intrinsics, views.transforms
  )
  errors = jax.vmap(reprojection_error, (0, None))(warped, views.target)
  return _joined(errors, over_views), warped


def counted_rows(
  shape: tuple[int, int, int], ignored_bottom: float, dtype: Any
) -> Float[Array, "b h w"]:
  """Weights of pixels: 0 in the share `ignored_bottom` of rows from below, else 1.

  Args:
    shape: (B, H, W).
    ignored_bottom: 0..1.
    dtype: dtype of the weights.
  """
  last = shape[1] - round(ignored_bottom * shape[1])
  return jnp.broadcast_to((jnp.arange(shape[1]) < last).astype(dtype)[:, None], shape)


def whole_windows(weight: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
  """Of pixels that count, those whose windows of SSIM hold no pixel that does not.

  Args:
    weight: 0 or 1. The result is 0 also beside zeros: a window reaches one pixel further.
  """
  sums = _three(_three(weight, axis=1, step=1), axis=2, step=1)
  return (sums > 8.5).astype(weight.dtype)


def photometric_loss(
  disparities: Sequence[Float[Array, "b _ _ 1"]],
  views: Views,
  config: Any,
  *,
  pyramid: Sequence[Float[Array, "b _ _ c"]] | None = None,
  key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Any]]:
  """The loss of a depth network: its disparities of several scales, all judged at full size.

  Args:
    disparities: disparities of scale s, [B, H / 2^s, W / 2^s, 1], 0..1.
    views: the image and the views that explain it.
    config: `PhotometricOptions` with `min_depth` and `max_depth`, in the unit of the transforms.
    pyramid: the image at every scale, for the smoothness; None: made by means of 2x2 pixels.
    key: PRNG key of the noise of `identity_error`.

  Returns:
    The mean over the scales; and "losses" [S] of each scale, and of the finest "depth" [B, H, W],
    "automask" bool[B, H, W] (True: counts) and "warped" [N, B, H, W, C]; "automasks"
    bool[S, B, H, W] and "depths" [S, B, H, W] of all.
  """
  size = views.target.shape[1:3]
  pyramid = pyramid or image_pyramid(views.target, len(disparities))
  still = identity_error(views, config.automask, key, over_views=config.over_views)
  rows = counted_rows(views.target.shape[:3], config.ignored_bottom, views.target.dtype)
  weight = whole_windows(rows)
  losses, automasks, depths, warped = [], [], [], None
  for scale, (disparity, image) in enumerate(zip(disparities, pyramid, strict=True)):
    full = disparity if scale == 0 else resize_centered(disparity, size)
    depth = disparity_to_depth(full[..., 0], min_depth=config.min_depth, max_depth=config.max_depth)
    error, made = reprojection_minimum(depth, views, over_views=config.over_views)
    automask = jnp.ones(error.shape, bool) if still is None else error < still
    if still is not None:
      error = jnp.where(automask, error, still)
    smooth = config.smoothness_weight / 2**scale
    error = (error * weight).sum() / weight.sum()
    losses.append(error + smooth * smoothness(normalized(disparity[..., 0]), image))
    automasks.append(automask & (weight > 0))
    depths.append(depth)
    warped = made if warped is None else warped
  losses = jnp.stack(losses)
  return losses.mean(), {
    "losses": losses,
    "depth": depths[0],
    "automask": automasks[0],
    "warped": warped,
    "automasks": jnp.stack(automasks),
    "depths": jnp.stack(depths),
  }


def image_pyramid(image: Float[Array, "b h w c"], scales: int) -> list[Float[Array, "b _ _ c"]]:
  """An image and its halves, each pixel the mean of 2x2; H, W multiples of 2^(S-1)."""
  images = [image]
  for _ in range(scales - 1):
    batch, height, width, channels = images[-1].shape
    blocks = images[-1].reshape(batch, height // 2, 2, width // 2, 2, channels)
    images.append(blocks.mean((2, 4)))
  return images
