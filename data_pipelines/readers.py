"""Reads the files of a frame: images, labels, depth.

Everything here is NumPy, Pillow, OpenCV and SciPy: the processes that run it start fast and never
load TensorFlow. Locations are those of archives.py.
"""

import io
import re
from collections.abc import Callable
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
    """Stores path and reason."""
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
      path, "needs more memory than is available: its header may be damaged"
    ) from error
  except UnidentifiedImageError as error:  # whose text has an address in memory
    raise BadFrameError(path, "cannot be decoded: Pillow does not know its format") from error
  except PermissionError as error:
    raise BadFrameError(path, "cannot be read: permission denied") from error
  except Exception as error:  # on broken files Pillow and SciPy raise errors of any kind
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
  """Values of a 16-bit PNG, uint16 H W; the first of several channels.

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
    BadFrameError: there is no such matrix, or it does not hold numbers.
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
  """The array of a NumPy file, H W; real numbers.

  Raises:
    BadFrameError: it has other axes or does not hold real numbers.
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
  return values.reshape(height, width)[::-1].astype(np.float32)  # rows are stored from the bottom


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
    image.verify()  # the checksums, which neither library checks when decoding
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
