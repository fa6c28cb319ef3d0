"""Reads the files of a frame: images, labels, depth, calibration.

Everything here is NumPy, Pillow, OpenCV and SciPy: the processes that run it start fast and never
load TensorFlow. Locations are those of archives.py.
"""

import dataclasses
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import scipy.io
from PIL import Image, UnidentifiedImageError

from corda_jax import labels
from corda_jax.images import ImageError, read_image
from data_pipelines.archives import open_file

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors arrive as exceptions


class BadFrameError(Exception):
  """A file of a frame cannot be used.

  Attributes:
    path: the file.
    reason: what is wrong with it, in a few words.
  """

  def __init__(self, path: str, reason: str):
    """Keeps both."""
    super().__init__(path, reason)  # what the error is unpickled from in another process
    self.path = path
    self.reason = reason

  def __str__(self) -> str:
    """Path and reason."""
    return f"{self.path}: {self.reason}"


def decode(read: Callable[[str], Any], path: str) -> Any:
  """Reads a file, and turns whatever goes wrong into one kind of error.

  Raises:
    BadFrameError: the file cannot be read or decoded.
  """
  try:
    return read(path)
  except BadFrameError:
    raise
  except MemoryError as error:
    raise BadFrameError(
      path, "needs more memory than there is: its header may be damaged"
    ) from error
  except UnidentifiedImageError as error:  # whose text has an address in memory
    raise BadFrameError(path, "cannot be decoded: it is no image that Pillow knows") from error
  except PermissionError as error:
    raise BadFrameError(path, "cannot be read: permission denied") from error
  except Exception as error:  # on broken files Pillow and SciPy raise whatever comes
    reason = " ".join(str(error).split()) or type(error).__name__
    raise BadFrameError(path, f"cannot be decoded: {reason}") from error


def read_rgb(path: str) -> Image.Image:
  """An image as 8-bit RGB, turned upright where its EXIF orientation says so.

  Raises:
    BadFrameError: it cannot be read.
  """
  try:
    with open_file(path) as file:
      return Image.fromarray(read_image(file).rgb)
  except ImageError as error:
    raise BadFrameError(path, str(error)) from error


def read_label_ids(path: str) -> np.ndarray:
  """Label ids of a PNG, uint8 H W.

  One 8-bit channel (grey, or the indices of a palette), or 16-bit channels of which the first is
  the class, as SYNTHIA stores them.

  Raises:
    BadFrameError: an 8-bit colour picture, or an id above 255.
  """
  ids, bits = read_first_channel(path)
  if bits == 16 and ids.max(initial=0) > labels.IGNORE:
    raise BadFrameError(path, f"label id {ids.max()} is out of range, expected 0..{labels.IGNORE}")
  return ids.astype(np.uint8)


def read_label_colors(path: str) -> np.ndarray:
  """Colours of a label PNG as numbers 65536 R + 256 G + B, uint32 H W.

  Raises:
    BadFrameError: the file is not a PNG, or has more than 8 bits a channel.
  """
  with open_file(path) as file, Image.open(file) as image:
    if image.format != "PNG" or image.mode.startswith("I"):
      raise BadFrameError(
        path, f"is {image.format} of mode {image.mode}, expected a PNG of 8-bit colours"
      )
    rgb = np.asarray(image.convert("RGB")).astype(np.uint32)
  return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]


def read_depth_png(path: str) -> np.ndarray:
  """Values of a 16-bit PNG, uint16 H W; of several channels the first.

  Raises:
    BadFrameError: the file has other than 16 bits a channel.
  """
  values, bits = read_first_channel(path)
  if bits != 16:
    raise BadFrameError(path, f"depth has {bits} bits a pixel, expected 16")
  return values


def read_depth_mat(path: str) -> np.ndarray:
  """`depth_map` of a MATLAB file, floats H W, metres.

  Raises:
    BadFrameError: there is no such matrix, or it is not numbers.
  """
  with open_file(path) as file:
    contents = scipy.io.loadmat(file)
  if "depth_map" not in contents:
    raise BadFrameError(path, "has no matrix 'depth_map'")
  depth = contents["depth_map"]
  if depth.ndim != 2 or not np.issubdtype(depth.dtype, np.floating):
    raise BadFrameError(path, f"depth_map is {depth.dtype}{depth.shape}, expected floats H W")
  if np.isnan(depth).any():
    raise BadFrameError(path, "depth_map holds NaN")
  return depth


def read_depth_npy(path: str) -> np.ndarray:
  """An array of NumPy, H W; real numbers.

  Raises:
    BadFrameError: it has other axes or is not numbers.
  """
  with open_file(path) as file:
    depth = np.load(file, allow_pickle=False)
  real = np.issubdtype(depth.dtype, np.floating) or np.issubdtype(depth.dtype, np.integer)
  if depth.ndim != 2 or not real:
    raise BadFrameError(path, f"depth is {depth.dtype}{depth.shape}, expected real numbers H W")
  return depth


def read_depth_pfm(path: str) -> np.ndarray:
  """A portable float map of one channel, float32 H W.

  Raises:
    BadFrameError: it has three channels, or the header is damaged.
  """
  with open_file(path) as file:
    contents = file.read()
  header = re.match(rb"Pf\s+(\d+)\s+(\d+)\s+([-+.\deE]+)\s", contents)
  if header is None:
    raise BadFrameError(path, f"begins with {contents[:12]!r}, expected a PFM file of one channel")
  width, height, scale = int(header[1]), int(header[2]), float(header[3])
  order = "<f4" if scale < 0 else ">f4"
  values = np.frombuffer(contents, order, width * height, header.end())
  return values.reshape(height, width)[::-1].astype(np.float32)  # stored from below


def read_first_channel(path: str) -> tuple[np.ndarray, int]:
  """First channel of a PNG at full precision, H W, and its bits (8 or 16).

  Raises:
    BadFrameError: an 8-bit colour picture, or the file is damaged.
  """
  with open_file(path) as file:
    contents = file.read()
  with Image.open(io.BytesIO(contents)) as image:
    if image.format != "PNG":
      raise BadFrameError(path, f"is {image.format}, expected PNG")
    mode = image.mode
    image.verify()  # the checksums, which neither library looks at while it decodes
  bits = contents[24]
  if bits <= 8 and mode not in ("1", "P", "L"):
    raise BadFrameError(path, f"is a colour picture ({mode}), expected one channel")
  if mode in ("1", "P"):
    with Image.open(io.BytesIO(contents)) as image:
      return np.asarray(image), 8
  values = cv2.imdecode(np.frombuffer(contents, np.uint8), cv2.IMREAD_UNCHANGED)
  if values is None:
    raise BadFrameError(path, "is damaged: its pixels cannot be decoded")
  if bits == 16:
    return values if values.ndim == 2 else values[..., 2], 16  # OpenCV puts blue first
  return values // (255 // (2**bits - 1)), 8  # OpenCV spreads few bits over 0..255


# Numbers of another size of image have the principal point off the middle by this share of the
# size, along both axes by nearly the same factor. A crop moves it along one, or by other factors.
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
    """What shows that this is no camera of images (width, height) pixels large, or None."""
    at = [(c + 0.5) / s for c, s in zip(self.center, size, strict=True)]
    focal = [f / s for f, s in zip(self.focal, size, strict=True)]
    inside = min(at) >= 0 and max(at) <= 1
    resized = min(abs(a - 0.5) for a in at) > _OFF_CENTER and max(at) < _SAME_FACTOR * min(at)
    if not inside or resized or min(focal) < _SHORTEST or max(focal) > _LONGEST:
      numbers = ", ".join(f"{number:g}" for number in (*self.focal, *self.center))
      return (
        f"fx, fy, cx, cy are {numbers}, which is no camera of images {size[0]}x{size[1]}; expected "
        "pixels of that size"
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
  """The calibration of a frame: JSON as Cityscapes has it, or one of KITTI's text files.

  KITTI's files have the projection matrices of several cameras: `P0` to `P3` in `calib.txt`,
  `P_rect_00` to `P_rect_03` in `calib_cam_to_cam.txt`. The cameras are those that the folders of
  the images name, as in `image_2` or `image_03`; without such folders 0 and 1.

  Args:
    path: of the file.
    image: of the frame; its path names the camera.
    right: image of the right camera; "": there is one, KITTI's next; None: no baseline is needed.

  Raises:
    BadFrameError: a number is missing, or no camera has it.
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
  """Of JSON; neither a text nor a truth value, which Python would also convert."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError(f"got {value!r}, expected a number")
  return float(value)


def _kitti_number(image: str, default: int) -> int:
  """Of the camera, by the last folder such as `image_2`."""
  found = re.findall(r"image_0?(\d)(?=[/\\])", image)
  return int(found[-1]) if found else default


def _read_kitti_camera(path: str, cameras: Sequence[int]) -> tuple[float, ...]:
  """Numbers of the first camera, and the distance of the second, if there is one."""
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
      raise BadFrameError(path, f"has no 12 numbers of {' or '.join(names)}") from error
  p, other = matrices[0], matrices[-1]
  # P = K [I | t]: the last column is fx times minus the camera's place along x.
  return p[0, 0], p[1, 1], p[0, 2], p[1, 2], float((p[0, 3] - other[0, 3]) / p[0, 0])
