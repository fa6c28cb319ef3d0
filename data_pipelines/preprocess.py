"""One frame from its files to a record: read, check, map, resize, compress.

Resizing follows the released loaders bit for bit, and happens before any crop, so the prepared
pixels never change. Everything here is NumPy, Pillow and OpenCV: the processes that run it start
fast and never load TensorFlow.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from corda_jax import labels
from corda_jax.depth.inverse_depth import NO_DEPTH
from data_pipelines import inverse_depth, resizing
from data_pipelines.cameras import Camera, read_camera
from data_pipelines.frames import VIEWS, Frame, missing_file
from data_pipelines.readers import (
  BadFrameError,
  decode,
  read_depth_png,
  read_label_colors,
  read_label_ids,
  read_rgb,
)
from data_pipelines.tiles import pack


@dataclasses.dataclass(frozen=True)
class LabelIds:
  """Labels as ids.

  Attributes:
    table: uint8[256], the data set's label id → training id.
    known: ids that a label may hold; None: any.
    hint: what to do about an unknown id, for errors.
    of: where the ids come from, for errors.
  """

  table: np.ndarray
  known: frozenset[int] | None = None
  hint: str = ""
  of: str = "folder.label_classes"

  def __call__(self, path: str) -> np.ndarray:
    """Training ids of a file, uint8 H W."""
    return self.table[self.read(path)]

  def read(self, path: str) -> np.ndarray:
    """Label ids of a file, uint8 H W."""
    try:
      ids = read_label_ids(path)
    except BadFrameError as error:
      raise BadFrameError(path, error.reason + self.hint) from error
    if self.known is not None:
      pixels = np.bincount(ids.ravel(), minlength=256)
      unknown = [i for i in np.flatnonzero(pixels) if i not in self.known]
      if unknown:
        raise BadFrameError(
          path,
          f"label id {unknown[0]} is unknown ({pixels[unknown[0]]} pixels), expected "
          f"{_ranges(self.known)}{self.hint}",
        )
    return ids


@dataclasses.dataclass(frozen=True)
class LabelColors:
  """Labels as colours.

  Attributes:
    table: colour, 65536 R + 256 G + B → training id.
    refuse_others: whether an unknown colour is an error; otherwise it is ignored.
    hint: what to do about an unknown colour, for errors.
  """

  table: Mapping[int, int]
  refuse_others: bool
  hint: str = ""

  def __call__(self, path: str) -> np.ndarray:
    """Training ids of a file, uint8 H W."""
    colors = read_label_colors(path)
    found, places = np.unique(colors, return_inverse=True)
    unknown = [color for color in found.tolist() if color not in self.table]
    if unknown and self.refuse_others:
      color, count = unknown[0], np.count_nonzero(colors == unknown[0])
      rgb = (color >> 16, color >> 8 & 255, color & 255)
      raise BadFrameError(path, f"label colour {rgb} is unknown ({count} pixels){self.hint}")
    ids = [self.table.get(color, labels.IGNORE) for color in found.tolist()]
    return np.array(ids, np.uint8)[places].reshape(colors.shape)


@dataclasses.dataclass(frozen=True)
class DepthRecipe:
  """How a data set's depth files become inverse depth at working resolution.

  Attributes:
    read: path → the file's values, H W.
    encode: the file's values → inverse depth, float32 of the same shape.
    resize: (inverse depth, (height, width) of the frame's label, (height, width) of the record) →
      inverse depth at the record's size.
    any_size: whether the file may differ in size from the image.
    needs_camera: whether `encode` also takes the `focal` length (x, pixels of the file) and
      `baseline` (metres) of the frame's camera.
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
    image_filter: Pillow filter that resizes the image; the label is resized by Pillow, too. None:
      both are resized by OpenCV, bilinear without antialiasing and nearest.
    label: path → training ids of a label file, uint8 H W.
    resize_label: False keeps the label at the size of its file.
    depth: recipe for frames that have a depth file.
    camera: camera of frames that have no camera file; None: there is none.
  """

  size: tuple[int, int]
  image_filter: Image.Resampling | None
  label: Callable[[str], np.ndarray]
  resize_label: bool
  depth: DepthRecipe | None
  camera: Camera | None = None


@dataclasses.dataclass(frozen=True)
class PreparedFrame:
  """One frame, as its record holds it, and what the report counts.

  Attributes:
    contents: fields of the record except its name. `image`, images of views (uint8 H W 3), `label`
      (uint8 H W 1) and `inverse_depth` (float32 H W), packed by `tiles.pack`; `intrinsics`
      and `baseline` of the camera, where there is one.
    label_pixels: number of pixels of each training id, 0..255, at the size of the label's file; of
      a frame without a label, those of its image are 255.
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
    picture = _read_image(frame)
    image, label, depth = _load(frame, recipe, picture)
    views = _load_views(frame, recipe, picture.size)
    camera = _load_camera(frame, recipe, picture.size)
  except BadFrameError as error:
    return error
  resized = _resize_label(label, recipe)[..., np.newaxis]
  arrays = {"image": image, "label": resized, "inverse_depth": depth, **views}
  return PreparedFrame(
    {key: pack(array) for key, array in arrays.items()} | camera,
    label_pixels=Image.fromarray(label).histogram(),
    depth_share=np.count_nonzero(depth != NO_DEPTH) / depth.size,
  )


def load_frame(frame: Frame, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Image uint8 H W 3, training ids uint8 H W, and inverse depth float32 H W of one frame.

  Without a label file all pixels are ignored; without a depth file the inverse depth is 1.

  Raises:
    BadFrameError: a file is missing, cannot be decoded, holds invalid values, or does not fit
      the others.
  """
  image, label, depth = _load(frame, recipe, _read_image(frame))
  return image, _resize_label(label, recipe), depth


def _read_image(frame: Frame) -> Image.Image:
  absent = missing_file(frame)
  if absent is not None:
    raise BadFrameError(absent, "file is missing")
  return decode(read_rgb, frame.image)


def _load(
  frame: Frame, recipe: Recipe, picture: Image.Image
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """As `load_frame`, but the label has the size of its file."""
  shape = (picture.height, picture.width)
  image = _resize_image(picture, recipe)
  label = _read_label(frame, recipe, shape)

  if frame.depth is None or recipe.depth is None:
    return image, label, np.full(recipe.size, NO_DEPTH, np.float32)
  values = decode(recipe.depth.read, frame.depth)
  if values.shape != shape and not recipe.depth.any_size:
    raise BadFrameError(frame.depth, f"depth is {_by(values.shape)} but its image is {_by(shape)}")
  options = {}
  if recipe.depth.needs_camera:
    camera = _camera(frame, recipe, frame.right or "", shape[::-1])
    options = {"focal": camera.focal[0] * values.shape[1] / shape[1], "baseline": camera.baseline}
  depth = recipe.depth.resize(recipe.depth.encode(values, **options), shape, recipe.size)
  return image, label, depth


def _read_label(frame: Frame, recipe: Recipe, shape: tuple[int, int]) -> np.ndarray:
  """Training ids of a frame whose image has `shape`, at the size of the file."""
  if frame.label is None:
    return np.full(shape, labels.IGNORE, np.uint8)
  label = decode(recipe.label, frame.label)
  if label.shape != shape:
    raise BadFrameError(frame.label, f"label is {_by(label.shape)} but its image is {_by(shape)}")
  return label


def _resize_image(picture: Image.Image, recipe: Recipe) -> np.ndarray:
  if recipe.image_filter is None:
    image = np.asarray(picture)
    return resizing.resize_bilinear(image, image.shape[:2], recipe.size)
  return np.asarray(picture.resize(recipe.size[::-1], recipe.image_filter))


def _resize_label(label: np.ndarray, recipe: Recipe) -> np.ndarray:
  if not recipe.resize_label:
    return label
  if recipe.image_filter is None:
    return resizing.resize_nearest_corner(label, label.shape, recipe.size)
  resized = Image.fromarray(label).resize(recipe.size[::-1], Image.Resampling.NEAREST)
  return np.asarray(resized)


def _load_views(frame: Frame, recipe: Recipe, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """`VIEW_image` uint8 H W 3 of each view, read at `size`, resized like the frame's image."""
  views = {}
  for view in VIEWS:
    location = getattr(frame, view)
    if location is None:
      continue
    image = decode(read_rgb, location)
    if image.size != size:
      raise BadFrameError(
        location, f"image is {_by(image.size[::-1])} but {frame.image} is {_by(size[::-1])}"
      )
    views[f"{view}_image"] = _resize_image(image, recipe)
  return views


def _load_camera(frame: Frame, recipe: Recipe, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """`intrinsics` and `baseline` of a frame that has a camera.

  `intrinsics`: float32[4], fx, fy, cx, cy in pixels of the record's images, the centre of the first
  pixel at 0. `baseline`: float32, metres to the right camera; 0 where the frame has no right image.
  """
  camera = _camera(frame, recipe, frame.right, size)
  if camera is None:
    return {}
  height, width = recipe.size
  return {
    "intrinsics": camera.intrinsics((width / size[0], height / size[1])),
    "baseline": np.float32(camera.baseline if frame.right is not None else 0),
  }


def _camera(
  frame: Frame, recipe: Recipe, right: str | None, size: tuple[int, int]
) -> Camera | None:
  """The camera of a frame whose image has `size` (width, height) pixels."""
  camera, path, field = recipe.camera, frame.image, "folder.camera: "
  if frame.camera is not None:
    path, field = frame.camera, ""
    camera = decode(lambda path: read_camera(path, image=frame.image, right=right), path)
  if camera is not None and (fault := camera.fault(size)):
    raise BadFrameError(path, field + fault)
  return camera


def _by(shape: tuple[int, ...]) -> str:
  """Width x height, as image viewers show it."""
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


# For files of a depth network, as the release reads those of GTA5.
NETWORK_DISPARITY = DepthRecipe(
  read=read_depth_png,
  encode=inverse_depth.from_disparity,
  resize=resizing.resize_bilinear,
  any_size=True,
)
