"""One frame from its files to what a record holds: read, check, map, resize, compress.

Resizing follows the released loaders bit for bit, and happens before any crop, so the prepared
pixels are the same for ever. Everything here is NumPy and Pillow: the processes that run it start
fast and never load TensorFlow.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from corda_jax import labels
from data_pipelines import inverse_depth
from data_pipelines.files import open_file
from data_pipelines.frames import VIEWS, Frame, missing_file
from data_pipelines.readers import (
  BadFrameError,
  Camera,
  decode,
  read_camera,
  read_label_ids,
  read_rgb,
)
from data_pipelines.record_encodings import pack


@dataclasses.dataclass(frozen=True)
class DepthRecipe:
  """How a data set's depth files become inverse depth at working resolution.

  Attributes:
    read: path → the file's values, H W.
    encode: the file's values → inverse depth, float32 of the same shape.
    resize: (inverse depth, (height, width) of the frame's label, (height, width) wanted) → inverse
      depth of the wanted size.
    any_size: whether the file may differ in size from the image.
    needs_camera: whether `encode` also takes the `focal` length (x, pixels) and `baseline`
      (metres) of the frame's camera.
  """

  read: Callable[[str], np.ndarray]
  encode: Callable[..., np.ndarray]
  resize: Callable[[np.ndarray, tuple[int, int], tuple[int, int]], np.ndarray]
  any_size: bool
  needs_camera: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the frames of a split are prepared.

  Attributes:
    size: (height, width) of the record, pixels.
    image_filter: Pillow filter that resizes the image.
    label_table: uint8[256], the data set's label id → training id.
    resize_label: False keeps the label at the size of its file.
    depth: used where a frame has a depth file.
    label_ids: those that a label may hold; None: any.
    camera: of frames that have no file of it; None: there is none.
  """

  size: tuple[int, int]
  image_filter: Image.Resampling
  label_table: np.ndarray
  resize_label: bool
  depth: DepthRecipe | None
  label_ids: frozenset[int] | None = None
  camera: Camera | None = None


@dataclasses.dataclass(frozen=True)
class PreparedFrame:
  """One frame, as its record holds it, and what the report counts.

  Attributes:
    contents: of the record, all but its name. `image`, images of views (uint8 H W 3), `label`
      (uint8 H W 1) and `inverse_depth` (float32 H W), packed by `record_encodings.pack`;
      `intrinsics` and `baseline`: see `load_camera`.
    label_pixels: pixels of each training id, at 0..255.
    depth_share: share of the pixels that have depth.
  """

  contents: dict[str, Any]
  label_pixels: list[int]
  depth_share: float


def prepare_item(item: tuple[Frame, Recipe]) -> PreparedFrame | BadFrameError:
  """`prepare_frame` of a pair, for maps over many."""
  return prepare_frame(*item)


def prepare_frame(frame: Frame, recipe: Recipe) -> PreparedFrame | BadFrameError:
  """Reads, checks and compresses one frame; returns the error of a frame that cannot be used."""
  try:
    image, label, depth = load_frame(frame, recipe)
    views, camera = load_views(frame, recipe), load_camera(frame, recipe)
  except BadFrameError as error:
    return error
  arrays = {"image": image, "label": label[..., np.newaxis], "inverse_depth": depth, **views}
  return PreparedFrame(
    {key: pack(array) for key, array in arrays.items()} | camera,
    label_pixels=Image.fromarray(label).histogram(),
    depth_share=np.count_nonzero(depth != inverse_depth.NO_DEPTH) / depth.size,
  )


def load_frame(frame: Frame, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Image uint8 H W 3, training ids uint8 H W, and inverse depth float32 H W of one frame.

  Without a label all is ignored; without a depth file the inverse depth is 1 everywhere.

  Raises:
    BadFrameError: a file is missing, cannot be decoded, holds what it must not, or does not fit the
      others.
  """
  absent = missing_file(frame)
  if absent is not None:
    raise BadFrameError(absent, "file is missing")
  height, width = recipe.size

  image = decode(read_rgb, frame.image)
  shape = (image.height, image.width)
  image = np.asarray(image.resize((width, height), recipe.image_filter))
  label = _load_label(frame, recipe, shape)

  if frame.depth is None or recipe.depth is None:
    return image, label, np.full(recipe.size, inverse_depth.NO_DEPTH, np.float32)
  values = decode(recipe.depth.read, frame.depth)
  if values.shape != shape and not recipe.depth.any_size:
    raise BadFrameError(frame.depth, f"depth is {_by(values.shape)} but its image is {_by(shape)}")
  camera = {}
  if recipe.depth.needs_camera:
    calibration: Camera = decode(functools.partial(read_camera, stereo=True), frame.camera)
    camera = {"focal": calibration.focal[0], "baseline": calibration.baseline}
  depth = recipe.depth.resize(recipe.depth.encode(values, **camera), shape, recipe.size)
  return image, label, depth


def _load_label(frame: Frame, recipe: Recipe, shape: tuple[int, int]) -> np.ndarray:
  height, width = recipe.size
  if frame.label is None:
    return np.full(recipe.size, labels.IGNORE, np.uint8)
  ids = decode(read_label_ids, frame.label)
  if ids.shape != shape:
    raise BadFrameError(frame.label, f"label is {_by(ids.shape)} but its image is {_by(shape)}")
  if recipe.label_ids is not None:
    pixels = Image.fromarray(ids).histogram()
    unknown = [i for i, count in enumerate(pixels) if count and i not in recipe.label_ids]
    if unknown:
      raise BadFrameError(
        frame.label,
        f"label id {unknown[0]} is unknown ({pixels[unknown[0]]} pixels), wanted "
        f"{_ranges(recipe.label_ids)}",
      )
  label = recipe.label_table[ids]
  if recipe.resize_label:
    label = np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))
  return label


def load_views(frame: Frame, recipe: Recipe) -> dict[str, np.ndarray]:
  """`VIEW_image` uint8 H W 3 of each view that the frame has, resized like its image.

  Raises:
    BadFrameError: a view cannot be decoded, or differs in size from the image.
  """
  height, width = recipe.size
  views = {}
  for view in VIEWS:
    location = getattr(frame, view)
    if location is None:
      continue
    image, wanted = decode(read_rgb, location), decode(_image_size, frame.image)
    if image.size != wanted:
      raise BadFrameError(
        location, f"image is {_by(image.size[::-1])} but {frame.image} is {_by(wanted[::-1])}"
      )
    views[f"{view}_image"] = np.asarray(image.resize((width, height), recipe.image_filter))
  return views


def load_camera(frame: Frame, recipe: Recipe) -> dict[str, np.ndarray]:
  """`intrinsics` and `baseline` of a frame that has a camera.

  `intrinsics`: float32[4], fx, fy, cx, cy in pixels of the record's images, the centre of the first
  pixel at 0. `baseline`: float32, metres to the right camera; 0 where the frame has no right image.

  Raises:
    BadFrameError: the calibration cannot be read.
  """
  camera = recipe.camera
  if frame.camera is not None:
    read = functools.partial(read_camera, stereo=frame.right is not None)
    camera = decode(read, frame.camera)
  if camera is None:
    return {}
  size = decode(_image_size, frame.image)
  height, width = recipe.size
  return {
    "intrinsics": camera.intrinsics((width / size[0], height / size[1])),
    "baseline": np.float32(camera.baseline if frame.right is not None else 0),
  }


def _image_size(location: str) -> tuple[int, int]:
  """Width and height, without decoding."""
  with open_file(location) as file, Image.open(file) as image:
    return image.size


def _by(shape: tuple[int, ...]) -> str:
  """Width x height, as image viewers say it."""
  return "x".join(str(size) for size in shape[::-1])


def _ranges(ids: frozenset[int]) -> str:
  """Numbers as ranges, for example "0..33, 255"."""
  parts: list[list[int]] = []
  for number in sorted(ids):
    if parts and number == parts[-1][1] + 1:
      parts[-1][1] = number
    else:
      parts.append([number, number])
  return ", ".join(f"{a}..{b}" if a < b else str(a) for a, b in parts)


def resize_bilinear(
  values: np.ndarray, _label_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  """Bilinear without antialiasing, pixel centres at half integers, edges repeated; float32 H W.

  The arithmetic is that of OpenCV's `INTER_LINEAR`: along x, then along y, each as
  a + (b - a) w with one rounding of the product and sum.
  """
  return _interpolate(_interpolate(values.T, size[1]).T, size[0])


def resize_bilinear_with_holes(
  values: np.ndarray, label_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  """Bilinear where all neighbours have depth, else nearest: depth does not blend with no depth."""
  known = (values != inverse_depth.NO_DEPTH).astype(np.float32)
  whole = resize_bilinear(known, label_size, size) == 1
  blended = resize_bilinear(values, label_size, size)
  return np.where(whole, blended, resize_nearest_center(values, label_size, size))


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
