"""Pinhole camera: pixels to rays, points to pixels.

World axes: x right, y forward along the street, z up, in metres; the road surface is z = 0.
Camera axes: x right, y down, z forward along the optical axis. Pixel (row i, column j) has its
centre at image coordinates (u, v) = (j, i), as in the camera files of Cityscapes.
"""

import dataclasses

import numpy as np

NEAR = 0.3  # metres; nothing closer to the image plane is seen


@dataclasses.dataclass(frozen=True)
class Camera:
  """A camera with square pixels and no distortion.

  Attributes:
    height: rows of the image.
    width: columns of the image.
    focal: focal length in pixels, the same along rows and columns.
    center: (u0, v0), the principal point in pixels.
    rotation: float64[3, 3], camera to world; its columns are the camera's axes in the world.
    position: float64[3], the centre of projection in the world, in metres.
  """

  height: int
  width: int
  focal: float
  center: tuple[float, float]
  rotation: np.ndarray
  position: np.ndarray

  def rays(self) -> np.ndarray:
    """float32[3, H * W] in camera axes, with third component 1: the ray's parameter is z-depth."""
    u = (np.arange(self.width) - self.center[0]) / self.focal
    v = (np.arange(self.height) - self.center[1]) / self.focal
    rays = np.ones((3, self.height, self.width), np.float32)
    rays[0] = u
    rays[1] = v[:, None]
    return rays.reshape(3, -1)

  def to_camera(self, points: np.ndarray) -> np.ndarray:
    """World points [..., 3] → camera axes [..., 3]."""
    return (points - self.position) @ self.rotation

  def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World points [..., 3] → pixel coordinates (u, v) [..., 2] and z-depth [...] in metres."""
    local = self.to_camera(points)
    depth = local[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
      pixels = local[..., :2] / depth[..., None] * self.focal + np.asarray(self.center)
    return pixels, depth

  def right_of(self, baseline: float) -> "Camera":
    """The rectified right view: the same camera, moved along its own x axis by `baseline` metres.

    A point at depth z has u_left - u_right = focal * baseline / z.
    """
    return dataclasses.replace(self, position=self.position + baseline * self.rotation[:, 0])


def rotation_of(*, yaw: float, pitch: float) -> np.ndarray:
  """Camera-to-world rotation [3, 3].

  Args:
    yaw: radians to the right of the street's direction.
    pitch: radians below the horizon.
  """
  right = np.array([np.cos(yaw), -np.sin(yaw), 0.0])
  forward = np.array([np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), -np.sin(pitch)])
  return np.stack([right, np.cross(forward, right), forward], axis=1)
