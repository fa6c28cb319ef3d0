"""View synthesis and photometric losses of single images, written out with NumPy and SciPy."""

import numpy as np
from scipy import ndimage


def reproject(depth, intrinsics, transform):
  """Pixels [H, W, 2] of another view, by homogeneous coordinates and matrices of the camera."""
  fx, fy, cx, cy = intrinsics
  camera = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
  inverse = np.linalg.inv(camera)
  height, width = depth.shape
  pixels = np.full((height, width, 2), np.nan)
  for y in range(height):
    for x in range(width):
      point = depth[y, x] * (inverse @ [x, y, 1])
      seen = camera @ (transform @ [*point, 1])[:3]
      pixels[y, x] = seen[:2] / seen[2]
  return pixels


def sample(image, pixels):
  """Colours [h, w, C] of an image [H, W, C]."""
  x, y = pixels[..., 0], pixels[..., 1]
  channels = [
    ndimage.map_coordinates(np.asarray(channel, np.float64), [y, x], order=1, mode="nearest")
    for channel in np.moveaxis(image, -1, 0)
  ]
  return np.stack(channels, -1)


def ssim_loss(x, y):
  """Dissimilarity [H, W, C] of two images, by the moments of each window of 3x3."""

  def windows(image):
    image = np.pad(np.asarray(image, np.float64), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    return np.lib.stride_tricks.sliding_window_view(image, (3, 3), (0, 1))

  def mean(values):
    return values.mean((-2, -1))

  x, y = windows(x), windows(y)
  mean_x, mean_y = mean(x), mean(y)
  apart_x, apart_y = x - mean_x[..., None, None], y - mean_y[..., None, None]
  luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
  structure = (2 * mean(apart_x * apart_y) + 9e-4) / (mean(apart_x**2) + mean(apart_y**2) + 9e-4)
  return np.clip((1 - luminance * structure) / 2, 0, 1)


def error(prediction, target):
  """Photometric error [H, W]."""
  absolute = np.abs(np.asarray(prediction, np.float64) - target).mean(-1)
  return 0.85 * ssim_loss(prediction, target).mean(-1) + 0.15 * absolute


def smoothness(disparity, image, weight):
  """Mean steps of a batch of disparities [B, H, W] over its counted pairs of neighbours."""
  total = 0.0
  for dy, dx in ((0, 1), (1, 0)):
    steps, count = 0.0, 0
    _, height, width = disparity.shape
    for b, y, x in np.ndindex(disparity.shape):
      if y + dy >= height or x + dx >= width or not (weight[b, y, x] and weight[b, y + dy, x + dx]):
        continue
      edge = np.abs(image[b, y + dy, x + dx] - image[b, y, x]).mean()
      steps += abs(disparity[b, y + dy, x + dx] - disparity[b, y, x]) * np.exp(-edge)
      count += 1
    total += steps / max(count, 1)
  return total


def data_error(depth, target, sources, transforms, intrinsics, noise=None):
  """Least error [B, H, W] over the views, and over the unwarped ones where there is noise.

  Args:
    depth: [B, H, W].
    target: [B, H, W, C].
    sources: [N, B, H, W, C].
    transforms: [N, B, 4, 4].
    intrinsics: [B, 4].
    noise: [N, B, H, W] of the unwarped ones; None: they do not count.
  """
  errors = []
  for b in range(len(depth)):
    candidates = []
    for n in range(len(sources)):
      pixels = reproject(depth[b], intrinsics[b], transforms[n][b])
      candidates.append(error(sample(sources[n][b], pixels), target[b]))
      if noise is not None:
        candidates.append(error(sources[n][b], target[b]) + noise[n][b])
    errors.append(np.min(candidates, 0))
  return np.array(errors)
