"""One frame from its files to what a record holds: read, check, map, resize, compress.

Resizing follows the released loaders bit for bit, and happens before any crop, so the prepared
pixels are the same for ever. Everything here is NumPy and Pillow: the processes that run it start
fast and never load TensorFlow.
"""

import dataclasses
import struct
from collections.abc import Callable

import numpy as np
import scipy.io
from PIL import Image

from corda_jax import labels
from data_pipelines import inverse_depth
from data_pipelines.frames import Frame, missing_file
from data_pipelines.record_encodings import pack


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


@dataclasses.dataclass(frozen=True)
class DepthRecipe:
  """How a data set's depth files become inverse depth at working resolution.

  Attributes:
    read: path → the file's values, H W.
    encode: the file's values → inverse depth, float32 of the same shape.
    resize: (inverse depth, (height, width) of the frame's label, (height, width) wanted) → inverse
      depth of the wanted size.
    any_size: whether the file may differ in size from the image.
  """

  read: Callable[[str], np.ndarray]
  encode: Callable[[np.ndarray], np.ndarray]
  resize: Callable[[np.ndarray, tuple[int, int], tuple[int, int]], np.ndarray]
  any_size: bool


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the frames of a split are prepared.

  Attributes:
    size: (height, width) of the record, pixels.
    image_filter: Pillow filter that resizes the image.
    label_table: uint8[256], the data set's label id → training id.
    resize_label: False keeps the label at the size of its file.
    depth: used where a frame has a depth file.
  """

  size: tuple[int, int]
  image_filter: Image.Resampling
  label_table: np.ndarray
  resize_label: bool
  depth: DepthRecipe | None


@dataclasses.dataclass(frozen=True)
class PreparedFrame:
  """Contents of a record, packed by `record_encodings.pack`.

  Attributes:
    image: RGB, uint8 H W 3.
    label: training ids, uint8 H W 1.
    inverse_depth: float32 H W.
  """

  image: bytes
  label: bytes
  inverse_depth: bytes


def prepare_frame(frame: Frame, recipe: Recipe) -> PreparedFrame | BadFrameError:
  """Reads, checks and compresses one frame; returns the error of a frame that cannot be used."""
  try:
    image, label, depth = load_frame(frame, recipe)
  except BadFrameError as error:
    return error
  return PreparedFrame(pack(image), pack(label[..., np.newaxis]), pack(depth))


def load_frame(frame: Frame, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Image uint8 H W 3, training ids uint8 H W, and inverse depth float32 H W of one frame.

  Without a depth file the inverse depth is 1 everywhere.

  Raises:
    BadFrameError: a file is missing, cannot be decoded, or does not fit the others.
  """
  absent = missing_file(frame)
  if absent is not None:
    raise BadFrameError(absent, "file is missing")
  height, width = recipe.size

  image = _decode(read_rgb, frame.image)
  ids = _decode(read_label_ids, frame.label)
  if ids.shape != (image.height, image.width):
    raise BadFrameError(
      frame.label,
      f"label is {_by(ids.shape)} but its image is {image.width}x{image.height}",
    )
  image = np.asarray(image.resize((width, height), recipe.image_filter))
  label = recipe.label_table[ids]
  if recipe.resize_label:
    label = np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))

  if frame.depth is None or recipe.depth is None:
    return image, label, np.full(recipe.size, inverse_depth.NO_DEPTH, np.float32)
  values = _decode(recipe.depth.read, frame.depth)
  if values.shape != ids.shape and not recipe.depth.any_size:
    raise BadFrameError(
      frame.depth, f"depth is {_by(values.shape)} but its image is {_by(ids.shape)}"
    )
  depth = recipe.depth.resize(recipe.depth.encode(values), ids.shape, recipe.size)
  return image, label, depth


def _by(shape: tuple[int, ...]) -> str:
  """Width x height, as image viewers say it."""
  return "x".join(str(size) for size in shape[::-1])


def _decode(read: Callable, path: str):
  try:
    return read(path)
  except (BadFrameError, MemoryError):
    raise
  except Exception as error:  # on broken files Pillow and SciPy raise whatever comes
    reason = " ".join(str(error).split()) or type(error).__name__
    raise BadFrameError(path, f"cannot be decoded: {reason}") from error


def read_rgb(path: str) -> Image.Image:
  """An image as 8-bit RGB."""
  with Image.open(path) as image:
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
  contents = scipy.io.loadmat(path)
  if "depth_map" not in contents:
    raise BadFrameError(path, "has no matrix 'depth_map'")
  depth = contents["depth_map"]
  if depth.ndim != 2 or not np.issubdtype(depth.dtype, np.floating):
    raise BadFrameError(path, f"depth_map is {depth.dtype}{depth.shape}, wanted floats H W")
  if np.isnan(depth).any():
    raise BadFrameError(path, "depth_map holds NaN")
  return depth


def read_first_channel(path: str) -> tuple[np.ndarray, int]:
  """First channel of a PNG at full precision, and its bits (8 or 16).

  Pillow alone reads 16-bit colour by its high bytes, which would make every SYNTHIA class 0.

  Raises:
    BadFrameError: an 8-bit colour picture.
  """
  with Image.open(path) as image:
    if image.format != "PNG":
      raise BadFrameError(path, f"is {image.format}, wanted PNG")
    mode = image.mode
    if mode in ("1", "L", "P"):
      return np.asarray(image), 8
    if mode.startswith("I"):  # one 16-bit channel
      return np.asarray(image).astype(np.uint16), 16
  width, height, bits, color, interlace, data = _png_contents(path)
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


def _png_contents(path: str) -> tuple[int, int, int, int, int, bytes]:
  """Width, height, bits, color type, interlace method and compressed data of a PNG file."""
  with open(path, "rb") as file:
    contents = file.read()
  width, height, bits, color, _, _, interlace = struct.unpack_from(">IIBBBBB", contents, 16)
  data, offset = [], 8
  while offset < len(contents):
    (length,) = struct.unpack_from(">I", contents, offset)
    if contents[offset + 4 : offset + 8] == b"IDAT":
      data.append(contents[offset + 8 : offset + 8 + length])
    offset += length + 12
  return width, height, bits, color, interlace, b"".join(data)


def resize_bilinear(
  values: np.ndarray, _label_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  """Bilinear without antialiasing, pixel centres at half integers, edges repeated; float32 H W.

  The arithmetic is that of OpenCV's `INTER_LINEAR`: along x, then along y, each as
  a + (b - a) w with one rounding of the product and sum.
  """
  return _interpolate(_interpolate(values.T, size[1]).T, size[0])


def _interpolate(values: np.ndarray, length: int) -> np.ndarray:
  """Linear interpolation of float32 values along the first axis."""
  last = values.shape[0] - 1
  position = (np.arange(length) + 0.5) * (values.shape[0] / length) - 0.5
  position = np.clip(position, 0, last)
  low = np.floor(position).astype(np.int64)
  weight = (position - low).astype(np.float32)[:, np.newaxis]
  a, b = values[low], values[np.minimum(low + 1, last)]
  # float64 holds the product exactly: one rounding, as a fused multiply-add does it.
  return ((b - a).astype(np.float64) * weight + a).astype(np.float32)


def resize_nearest_corner(
  values: np.ndarray, _label_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  """Nearest as OpenCV's `INTER_NEAREST` takes it: output i reads input floor(i n / m)."""
  for axis, length in enumerate(size):
    step = values.shape[axis] / length
    index = np.minimum((np.arange(length) * step).astype(np.int64), values.shape[axis] - 1)
    values = np.take(values, index, axis)
  return values


def resize_nearest_center(
  values: np.ndarray, label_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  """Nearest as Pillow takes it, the input under the output's centre; float32 H W.

  A file of another size than the label is first brought to the label's, as released.
  """
  values = resize_nearest_corner(values, label_size, label_size)
  resized = Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.NEAREST)
  return np.asarray(resized)
