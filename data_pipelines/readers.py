"""Reads the files of a frame: images, label ids, depth, calibration.

Everything here is NumPy, Pillow and SciPy: the processes that run it start fast and never load
TensorFlow. Locations are those of files.py.
"""

import dataclasses
import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from corda_jax import labels
from data_pipelines.files import open_file


class BadFrameError(Exception):
  """A file of a frame cannot be used.

  Attributes:
    path: the file.
    reason: what is wrong with it, in a few words.
  """

  def __init__(self, path: str, reason: str):
    """See the class."""
    super().__init__(path, reason)  # what the error is made from again in another process
    self.path = path
    self.reason = reason

  def __str__(self) -> str:
    """Path and reason."""
    return f"{self.path}: {self.reason}"


def decode(read: Callable[[str], Any], path: str) -> Any:
  """What `read` makes of a file, and every trouble with it as one kind of error.

  Raises:
    BadFrameError: the file cannot be read or decoded.
  """
  try:
    return read(path)
  except BadFrameError:
    raise
  except MemoryError as error:
    raise BadFrameError(
      path, "wants more memory than there is: its header may be damaged"
    ) from error
  except PermissionError as error:
    raise BadFrameError(path, "cannot be read: permission denied") from error
  except Exception as error:  # on broken files Pillow and SciPy raise whatever comes
    reason = " ".join(str(error).split()) or type(error).__name__
    raise BadFrameError(path, f"cannot be decoded: {reason}") from error


def read_rgb(path: str) -> Image.Image:
  """An image as 8-bit RGB."""
  with open_file(path) as file, Image.open(file) as image:
    if image.mode.startswith(("I", "F")):
      # Pillow would cut its values off at 255.
      raise BadFrameError(path, f"is a picture of mode {image.mode}, wanted 8 bits a channel")
    return image.convert("RGB")


def read_label_ids(path: str) -> np.ndarray:
  """Label ids of a PNG, uint8 H W.

  One 8-bit channel (grey, or the indices of a palette), or 16-bit channels of which the first is
  the class, as SYNTHIA stores them.

  Raises:
    BadFrameError: an 8-bit colour picture, or an id above 255.
  """
  ids, bits = read_first_channel(path)
  if bits == 16 and ids.max(initial=0) > labels.IGNORE:
    raise BadFrameError(path, f"label id {ids.max()} is out of range, wanted 0..{labels.IGNORE}")
  return ids.astype(np.uint8)


def read_depth_png(path: str) -> np.ndarray:
  """Values of a 16-bit PNG, uint16 H W; of several channels the first.

  Raises:
    BadFrameError: the file has other than 16 bits a channel.
  """
  values, bits = read_first_channel(path)
  if bits != 16:
    raise BadFrameError(path, f"depth has {bits} bits a pixel, wanted 16")
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
    raise BadFrameError(path, f"depth_map is {depth.dtype}{depth.shape}, wanted floats H W")
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
    raise BadFrameError(path, f"depth is {depth.dtype}{depth.shape}, wanted real numbers H W")
  return depth


def read_first_channel(path: str) -> tuple[np.ndarray, int]:
  """First channel of a PNG at full precision, and its bits (8 or 16).

  Pillow alone reads 16-bit colour by its high bytes, which would make every SYNTHIA class 0.

  Raises:
    BadFrameError: an 8-bit colour picture.
  """
  with open_file(path) as file:
    contents = file.read()
  with Image.open(io.BytesIO(contents)) as image:
    if image.format != "PNG":
      raise BadFrameError(path, f"is {image.format}, wanted PNG")
    width, height, bits, color, interlace, data = _png_contents(path, contents)
    mode = image.mode
    if mode in ("1", "P"):
      return np.asarray(image), 8
    if mode == "L":
      # Pillow spreads grey values of 2 and 4 bits over 0..255.
      return np.asarray(image) // (255 // (2**bits - 1)), 8
    if mode.startswith("I"):  # one 16-bit channel
      return np.asarray(image).astype(np.uint16), 16
  if bits != 16:
    raise BadFrameError(path, f"is a colour picture ({mode}), wanted one channel")

  def unpack(mode: str, raw: str) -> np.ndarray:
    unpacked = Image.frombytes(mode, (width, height), data, "zip", raw, bool(interlace))
    return np.asarray(unpacked).astype(np.uint16)

  if color == _GREY_WITH_ALPHA:  # four bytes a pixel, taken as they are
    both = unpack("RGBA", "RGBA")
    return both[..., 0] << 8 | both[..., 1], 16
  channels = "RGBA" if color == _COLOR_WITH_ALPHA else "RGB"
  high, low = unpack(channels, f"{channels};16B"), unpack(channels, f"{channels};16L")
  return high[..., 0] << 8 | low[..., 0], 16


_GREY_WITH_ALPHA = 4  # color types of the PNG specification
_COLOR_WITH_ALPHA = 6


def _png_contents(path: str, contents: bytes) -> tuple[int, int, int, int, int, bytes]:
  """Width, height, bits, color type, interlace method and compressed data of a PNG file.

  Raises:
    BadFrameError: a chunk is not what its checksum says (Pillow does not look at those of the
      pixels, and would give other ones), or rows are missing (which Pillow makes 0).
  """
  width, height, bits, color, _, _, interlace = struct.unpack_from(">IIBBBBB", contents, 16)
  data, offset = [], len(_PNG_SIGNATURE)
  while offset < len(contents):
    (length,) = struct.unpack_from(">I", contents, offset)
    end = offset + 8 + length
    kind = contents[offset + 4 : offset + 8]
    (checksum,) = struct.unpack_from(">I", contents, end)
    if zlib.crc32(contents[offset + 4 : end]) != checksum:
      raise BadFrameError(path, f"is damaged: the checksum of a chunk {kind!r} differs")
    if kind == b"IDAT":
      data.append(contents[offset + 8 : end])
    if kind == b"IEND":
      break
    offset = end + 4
  compressed = b"".join(data)
  size = _inflated_size(width, height, bits * _CHANNELS.get(color, 1), bool(interlace))
  # No more room is made than the data can fill, whatever the header says.
  found = len(zlib.decompressobj().decompress(compressed, size))
  if found < size:
    raise BadFrameError(
      path, f"is damaged: {width}x{height} pixels take {size} bytes, and {found} are there"
    )
  return width, height, bits, color, interlace, compressed


def _inflated_size(width: int, height: int, bits: int, interlaced: bool) -> int:
  """Bytes of a picture of so many bits a pixel: rows, each with a byte that names its filter."""
  passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
  size = 0
  for left, top, right, down in passes:
    columns, rows = -(-(width - left) // right), -(-(height - top) // down)
    if columns > 0 and rows > 0:
      size += rows * (1 + -(-columns * bits // 8))
  return size


_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
# First column and row of each pass of an interlaced picture, and the steps to the next ones.
_ADAM7 = (
  *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
  *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


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

  def intrinsics(self, scale: tuple[float, float]) -> np.ndarray:
    """float32[4]: fx, fy, cx, cy after an image is resized by (x, y) factors.

    Resizing keeps the images' outer edges, which lie half a pixel from the first centres.
    """
    center = ((c + 0.5) * s - 0.5 for c, s in zip(self.center, scale, strict=True))
    focal = (f * s for f, s in zip(self.focal, scale, strict=True))
    return np.array([*focal, *center], np.float32)


def _number(value: Any) -> float:
  """Of JSON; neither a text nor a truth value, which Python would also make one of."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError(f"got {value!r}, wanted a number")
  return float(value)


def read_camera(path: str, *, stereo: bool) -> Camera:
  """A calibration file of Cityscapes.

  Args:
    path: of the file.
    stereo: whether the baseline is needed; without it is 0 where the file has none.

  Raises:
    BadFrameError: a number is missing, or no camera has it.
  """
  with open_file(path) as file:
    values = json.load(file)
  try:
    inside = [_number(values["intrinsic"][key]) for key in ("fx", "fy", "u0", "v0")]
    baseline = _number(values["extrinsic"]["baseline"]) if stereo else 0.0
  except (KeyError, TypeError, ValueError) as error:
    wanted = "intrinsic fx, fy, u0, v0" + ", extrinsic baseline" * stereo
    raise BadFrameError(path, f"lacks one of the numbers {wanted}") from error
  if not all(map(math.isfinite, (*inside, baseline))) or min(inside[:2]) <= 0:
    raise BadFrameError(path, "focal lengths must be positive, and all numbers finite")
  if stereo and baseline <= 0:
    raise BadFrameError(path, "the baseline must be positive")
  return Camera(tuple(inside[:2]), tuple(inside[2:]), baseline)
