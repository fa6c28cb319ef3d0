"""Pinhole cameras: from depth to points, to pixels of another view, and to its colours there.

Camera axes: x right, y down, z forward. Intrinsics are (fx, fy, cx, cy) in pixels; the centre of
the first pixel is at (0, 0). A transform is a 4x4 matrix that takes points in the axes of the
camera whose depth is known to those of the view that is sampled. Lengths have any one unit.
"""

import jax
import jax.numpy as jnp

from corda_jax.typing import Array, Float

_SMALL = 1e-7  # as released: keeps a rotation by nothing, and a point at depth 0, finite


def disparity_to_depth(
  disparity: Float[Array, "*pixels"], *, min_depth: float, max_depth: float
) -> Float[Array, "*pixels"]:
  """Depth of a depth network's output: 1 / (1/max + (1/min - 1/max) disparity).

  Source: Monodepth2 (Godard et al., ICCV 2019), section 4.

  Args:
    disparity: sigmoid output, any shape, 0..1.
    min_depth: depth at 1.
    max_depth: depth at 0.
  """
  return 1 / (1 / max_depth + (1 / min_depth - 1 / max_depth) * disparity)


def rotation_matrix(axis_angle: Float[Array, "b 3"]) -> Float[Array, "b 3 3"]:
  """Rotations about an axis by its length (Rodrigues).

  Args:
    axis_angle: [B, 3], radians.

  Returns:
    [B, 3, 3].
  """
  square = jnp.square(axis_angle).sum(-1)
  # The root's gradient is infinite at 0, and would make NaN of a camera that does not turn.
  still = square == 0
  angle = jnp.where(still, 0, jnp.sqrt(jnp.where(still, 1, square)))
  axis = axis_angle / (angle + _SMALL)[:, None]
  x, y, z = axis[:, 0], axis[:, 1], axis[:, 2]
  zero = jnp.zeros_like(x)
  cross = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
  outer = axis[:, :, None] * axis[:, None, :]
  cosine, sine = jnp.cos(angle)[:, None, None], jnp.sin(angle)[:, None, None]
  return cosine * jnp.eye(3, dtype=axis.dtype) + sine * cross + (1 - cosine) * outer


def pose_matrix(
  axis_angle: Float[Array, "b 3"], translation: Float[Array, "b 3"], *, invert: bool
) -> Float[Array, "b 4 4"]:
  """Transform of a predicted motion: p → R p + t, or back.

  Args:
    axis_angle: [B, 3], radians.
    translation: [B, 3].
    invert: False: to the later of the two frames from the earlier. True: to the earlier one.

  Returns:
    [B, 4, 4].
  """
  rotation = rotation_matrix(axis_angle)
  if invert:
    rotation = rotation.swapaxes(1, 2)
    translation = -jnp.einsum(
      "bij,bj->bi", rotation, translation, precision=jax.lax.Precision.HIGHEST
    )
  return _transform(rotation, translation)


def stereo_matrix(baseline: Float[Array, " b"]) -> Float[Array, "b 4 4"]:
  """Transform to the right camera of a rectified pair.

  Args:
    baseline: [B], distance of the right camera; negative if it is to the left, as in a mirrored
      pair.

  Returns:
    [B, 4, 4]: p → p - (baseline, 0, 0).
  """
  zero = jnp.zeros_like(baseline)
  identity = jnp.broadcast_to(jnp.eye(3, dtype=baseline.dtype), (len(baseline), 3, 3))
  return _transform(identity, jnp.stack([-baseline, zero, zero], -1))


def _transform(rotation: Array, translation: Array) -> Array:
  upper = jnp.concatenate([rotation, translation[:, :, None]], 2)
  last = jnp.broadcast_to(jnp.array([0, 0, 0, 1], upper.dtype), (len(upper), 1, 4))
  return jnp.concatenate([upper, last], 1)


def reproject(
  depth: Float[Array, "b h w"], intrinsics: Float[Array, "b 4"], transform: Float[Array, "b 4 4"]
) -> Float[Array, "b h w 2"]:
  """Where another view sees the points of a depth map.

  Args:
    depth: [B, H, W], along the optical axis.
    intrinsics: [B, 4], of both views.
    transform: [B, 4, 4].

  Returns:
    [B, H, W, 2], (x, y) in pixels of the other view; points behind it have arbitrary values.
  """
  height, width = depth.shape[1:]
  fx, fy, cx, cy = (intrinsics[:, i, None, None].astype(depth.dtype) for i in range(4))
  x = (jnp.arange(width, dtype=depth.dtype) - cx) / fx * depth
  y = (jnp.arange(height, dtype=depth.dtype)[:, None] - cy) / fy * depth
  rows = transform[:, :3, :, None, None].astype(depth.dtype)
  x, y, z = (
    rows[:, i, 0] * x + rows[:, i, 1] * y + rows[:, i, 2] * depth + rows[:, i, 3] for i in range(3)
  )
  # As released, the principal point is added before the division.
  z_safe = z + _SMALL
  return jnp.stack([(fx * x + cx * z) / z_safe, (fy * y + cy * z) / z_safe], -1)


def sample_bilinear(
  images: Float[Array, "b h w c"], pixels: Float[Array, "b height width 2"]
) -> Float[Array, "b height width c"]:
  """Colours between pixels; beyond the border, those of the border.

  Equals PyTorch's `grid_sample` with aligned corners and border padding. On a CPU its gradient
  takes a fifth of the time of that of `jax.scipy.ndimage.map_coordinates`, which checks bounds.

  Args:
    images: [B, H, W, C].
    pixels: [B, h, w, 2], (x, y).

  Returns:
    [B, h, w, C].
  """
  height, width, channels = images.shape[1:]

  def split(position, size):
    # Clipped, a position has no gradient: moving on along the border changes nothing.
    position = jnp.clip(position, 0, size - 1)
    low = jnp.clip(jnp.floor(jax.lax.stop_gradient(position)), 0, max(size - 2, 0))
    return low.astype(jnp.int32), position - low

  left, right_share = split(pixels[..., 0], width)
  top, bottom_share = split(pixels[..., 1], height)
  index = top * width + left
  # An axis of one pixel has no neighbour, and its share is 0.
  right, below = int(width > 1), width * int(height > 1)

  def sample(channel):
    flat = channel.reshape(len(images), height * width)

    def read(offset):
      return jax.vmap(lambda row, i: row.at[i].get(mode="promise_in_bounds"))(flat, index + offset)

    upper_left, lower_left = read(0), read(below)
    upper = upper_left + (read(right) - upper_left) * right_share
    lower = lower_left + (read(below + right) - lower_left) * right_share
    return upper + (lower - upper) * bottom_share

  # Channel by channel: the compiler fuses reading and blending of one into one loop.
  return jnp.stack([sample(images[..., channel]) for channel in range(channels)], -1)


def synthesize_view(
  source: Float[Array, "b h w c"],
  depth: Float[Array, "b h w"],
  intrinsics: Float[Array, "b 4"],
  transform: Float[Array, "b 4 4"],
) -> Float[Array, "b h w c"]:
  """The image that a camera should see, from another view and the camera's depth.

  Args:
    source: [B, H, W, C], the other view.
    depth: [B, H, W].
    intrinsics: [B, 4].
    transform: [B, 4, 4], from the camera to the other view.

  Returns:
    [B, H, W, C].
  """
  return sample_bilinear(source, reproject(depth, intrinsics, transform))
