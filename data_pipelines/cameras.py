"""Calibration of a frame's camera: reading its files, scaling it to another image size."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.archives import open_file
from data_pipelines.readers import BadFrameError

# Intrinsics of another image size put the principal point off the centre by this share of the size,
# along both axes by nearly the same factor. A crop moves it along one, or by different factors.
_OFF_CENTER, _SAME_FACTOR = 0.15, 1.15
_SHORTEST, _LONGEST = 0.1, 50.0  # focal lengths, in widths and heights of the image
_FARTHEST = 20.0  # metres between two cameras


@dataclasses.dataclass(frozen=True)
class Camera:
  """Calibration of a frame's camera, at the size of its file.

  The centre of the first pixel is at 0; so an image W pixels wide has its middle at (W - 1) / 2.

  Attributes:
    focal: (x, y), pixels.
    center: (x, y) of the principal point, pixels.
    baseline: distance to the right camera, metres.
  """

  focal: tuple[float, float]
  center: tuple[float, float]
  baseline: float

  def fault(self, size: tuple[int, int]) -> str | None:
    """Why this cannot be the camera of images of `size` (width, height) pixels, or None."""
    at = [(c + 0.5) / s for c, s in zip(self.center, size, strict=True)]
    focal = [f / s for f, s in zip(self.focal, size, strict=True)]
    inside = min(at) >= 0 and max(at) <= 1
    resized = min(abs(a - 0.5) for a in at) > _OFF_CENTER and max(at) < _SAME_FACTOR * min(at)
    if not inside or resized or min(focal) < _SHORTEST or max(focal) > _LONGEST:
      numbers = ", ".join(f"{number:g}" for number in (*self.focal, *self.center))
      return (
        f"fx, fy, cx, cy are {numbers}, which does not fit images of {size[0]}x{size[1]}; "
        "expected pixels of that size"
      )
    if self.baseline > _FARTHEST:
      return f"the baseline is {self.baseline:g}, expected metres, {_FARTHEST:g} at most"
    return None

  def intrinsics(self, scale: tuple[float, float]) -> np.ndarray:
    """float32[4]: fx, fy, cx, cy after an image is resized by (x, y) factors.

    Resizing keeps the images' outer edges, half a pixel from the first centres.
    """
    center = ((c + 0.5) * s - 0.5 for c, s in zip(self.center, scale, strict=True))
    focal = (f * s for f, s in zip(self.focal, scale, strict=True))
    return np.array([*focal, *center], np.float32)


def read_camera(path: str, *, image: str, right: str | None = None) -> Camera:
  """The calibration of a frame: Cityscapes' JSON, or one of KITTI's text files.

  KITTI's files have the projection matrices of several cameras: `P0` to `P3` in `calib.txt`,
  `P_rect_00` to `P_rect_03` in `calib_cam_to_cam.txt`. The cameras are those that the folders of
  the images name, as in `image_2` or `image_03`; without such folders 0 and 1.

  Args:
    path: location of the calibration file.
    image: location of the frame's image; its path names the camera.
    right: location of the right image; "": KITTI's next camera; None: no baseline is needed.

  Raises:
    BadFrameError: a number is missing or impossible.
  """
  if path.lower().endswith(".txt"):
    left = _kitti_number(image, 0)
    cameras = [left] if right is None else [left, _kitti_number(right, left + 1)]
    numbers = _read_kitti_camera(path, cameras)
  else:
    numbers = _read_cityscapes_camera(path, stereo=right is not None)
  if not all(map(math.isfinite, numbers)) or min(numbers[:2]) <= 0:
    raise BadFrameError(path, "focal lengths must be positive, and all numbers finite")
  fx, fy, cx, cy, baseline = numbers
  if right is not None and baseline <= 0:
    raise BadFrameError(path, f"the baseline must be positive, got {baseline:g}")
  return Camera((fx, fy), (cx, cy), max(baseline, 0.0))


def _read_cityscapes_camera(path: str, *, stereo: bool) -> tuple[float, ...]:
  with open_file(path) as file:
    values = json.load(file)
  try:
    inside = [_number(values["intrinsic"][key]) for key in ("fx", "fy", "u0", "v0")]
    return *inside, _number(values["extrinsic"]["baseline"]) if stereo else 0.0
  except (KeyError, TypeError, ValueError) as error:
    expected = "intrinsic fx, fy, u0, v0" + ", extrinsic baseline" * stereo
    raise BadFrameError(path, f"lacks one of the numbers {expected}") from error


def _number(value: Any) -> float:
  """A number of JSON; refuses strings and booleans, which Python would also convert."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError(f"got {value!r}, expected a number")
  return float(value)


def _kitti_number(image: str, default: int) -> int:
  """Number of the camera, from the last folder such as `image_2`."""
  found = re.findall(r"image_0?(\d)(?=[/\\])", image)
  return int(found[-1]) if found else default


def _read_kitti_camera(path: str, cameras: Sequence[int]) -> tuple[float, ...]:
  """fx, fy, cx, cy of the first camera, and the distance to the last one."""
  with open_file(path) as file:
    lines = file.read().decode(errors="replace").splitlines()
  entries = dict(line.split(":", 1) for line in lines if ":" in line)
  matrices = []
  for number in cameras:
    names = (f"P{number}", f"P_rect_{number:02d}")
    text = next((entries[name] for name in names if name in entries), "")
    try:
      matrices.append(np.array([float(value) for value in text.split()]).reshape(3, 4))
    except ValueError as error:
      raise BadFrameError(path, f"lacks the 12 numbers of {' or '.join(names)}") from error
  p, other = matrices[0], matrices[-1]
  # P = K [I | t]: the last column is fx times minus the camera's place along x.
  return p[0, 0], p[1, 1], p[0, 2], p[1, 2], float((p[0, 3] - other[0, 3]) / p[0, 0])
