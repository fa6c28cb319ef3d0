"""Finds, reads and writes the images and maps of `--mode=predict`."""

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corda_jax.atomic_io import atomic_write, leads_back
from corda_jax.errors import UserError
from corda_jax.images import (
  CONVERT_HEIC,
  HEIC_SUFFIXES,
  ImageError,
  Picture,
  image_suffixes,
  read_image,
)
from corda_jax.inference.settings import KINDS
from corda_jax.training.run_files import read_json_lines

JOURNAL, RESULTS = "predicted.jsonl", "results.json"  # in the output folder
_LONGEST_NAME = 255  # bytes of a file name
_AHEAD = 4  # results computed ahead of their use
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")


class BadImageError(Exception):
  """An image that cannot be predicted, and why."""


@dataclasses.dataclass(frozen=True)
class ImageFile:
  """One image to predict.

  Attributes:
    name: path of its maps below the output folder, without suffix.
    path: path of the file.
    fault: reason why it cannot be predicted, if known before reading; else "".
  """

  name: str
  path: Path
  fault: str = ""

  def read(self) -> Picture:
    """Reads the image.

    Raises:
      BadImageError: it cannot be predicted.
    """
    if self.fault:
      raise BadImageError(f"{self.path} {self.fault}")
    try:
      with open(self.path, "rb") as file:
        return read_image(file)
    except ImageError as error:
      raise BadImageError(f"{self.path} {error}") from error
    except OSError as error:
      raise BadImageError(f"{self.path} cannot be read: {error.strerror}") from error


def find_images(path: Path, output: Path) -> list[ImageFile]:
  """The image at `path`, or all images below it, in the order of their names.

  Hidden files and folders are skipped, links to folders are followed. Files below `output` are
  skipped, since an earlier run wrote them. Other files are left out and counted in a note.

  Raises:
    UserError: there are no images, or a folder cannot be listed.
  """
  if path.is_file():
    return [ImageFile(path.stem, path, _fault(path))]
  if not path.is_dir():
    raise UserError(
      f"prediction.input is {path}, which does not exist: name an image, a folder of images or a "
      "video"
    )
  found: list[ImageFile] = []
  names: dict[str, Path] = {}
  others: collections.Counter[str] = collections.Counter()
  written = 0
  for file in _files_below(path):
    if output.resolve() in file.resolve().parents:
      written += file.suffix.lower() in image_suffixes()
      continue
    missing_folder = not file.suffix and not file.exists()  # a link, perhaps to another disk
    if file.suffix.lower() not in image_suffixes() and not missing_folder:
      others[file.suffix.lower() or "without suffix"] += 1
      continue
    name = file.relative_to(path).with_suffix("").as_posix()
    fault = _fault(file)
    if names.setdefault(name, file) is not file:  # the first of them keeps the name
      fault = f"would have maps of the same names as {names[name]}: rename one"
    found.append(ImageFile(name, file, fault))
  left = _left_out(others)
  if not found:
    reason = f"a folder without images{f', but with {left}' if left else ''}"
    if written:
      reason = f"whose images are all in the output folder {output}: set prediction.output"
    raise UserError(f"prediction.input is {path}, {reason}")
  if left:
    print(f"note: left out in {path}: {left}")
  return found


def _files_below(path: Path) -> list[Path]:
  """All files below a folder that are not hidden, in the order of their names."""

  def fail(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be listed ({error.strerror}): check its permissions")

  files = []
  for folder, folders, names in os.walk(path, followlinks=True, onerror=fail):
    folders[:] = [
      name for name in folders if not name.startswith(".") and not leads_back(Path(folder, name))
    ]
    files += [Path(folder, name) for name in names if not name.startswith(".")]
  return sorted(files)


def _fault(file: Path) -> str:
  """Reason why a file cannot be predicted, found without reading it, or ""."""
  if not file.exists():
    return f"is a link to {os.readlink(file)}, which does not exist"
  if not file.is_file():  # reading a pipe would block
    return "is no regular file"
  longest = max(len(os.fsencode(f"{file.stem}_{kind}.png.partial")) for kind in KINDS)
  return "has a name too long for its maps: rename it" if longest > _LONGEST_NAME else ""


def _left_out(others: Mapping[str, int]) -> str:
  """Counts of files with other suffixes, and what to do about them."""
  parts = [", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))]
  if any(suffix in VIDEO_SUFFIXES for suffix in others):
    parts.append("name each video by itself")
  if any(suffix in HEIC_SUFFIXES for suffix in others):
    parts.append(CONVERT_HEIC)
  return "; ".join(parts)


def check_output(folder: Path, path: Path) -> None:
  """Checks that a folder has neither predictions of another input nor foreign files of such names.

  Args:
    folder: output folder.
    path: path of the input.

  Raises:
    UserError: it has.
  """
  (header, *_) = read_json_lines(folder / JOURNAL) or [{}]
  before = header.get("input")
  if before is None:
    taken = [
      *folder.glob(RESULTS),
      *(f for each in KINDS for f in folder.glob(f"*_{each}.*")),
    ]
    if not taken:
      return
    reason = f"holds {taken[0].name}, which no prediction of this program wrote"
  elif before == os.fspath(path.resolve()):
    return
  else:
    reason = f"holds the predictions of {before}"
  raise UserError(
    f"{folder} {reason}: set prediction.output to another folder, or move that one away"
  )


def is_video(path: Path) -> bool:
  """Whether a path is a file with the suffix of a video."""
  return path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES


def resized_shape(image: np.ndarray, height: int) -> tuple[int, int]:
  """(height, width) of an image [H, W, 3] resized to a height, with the width in proportion."""
  return height, max(1, round(image.shape[1] * height / image.shape[0]))


def resized(image: np.ndarray, height: int, resampling: str) -> np.ndarray:
  """Resizes an image [H, W, 3] to a height, with the width in proportion, as preparation does."""
  from PIL import Image

  if height == image.shape[0]:
    return image
  _, width = resized_shape(image, height)
  if resampling == "opencv":
    import cv2

    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
  resample = Image.Resampling[resampling.upper()]
  return np.asarray(Image.fromarray(image).resize((width, height), resample))


def write_png(path: Path, values: np.ndarray, palette: np.ndarray | None = None) -> None:
  """Writes a PNG atomically.

  Args:
    path: path of the file; its folder is created.
    values: uint8 RGB [H, W, 3], or [H, W] of uint8 or uint16.
    palette: uint8[256, 3], colours in which viewers show uint8 [H, W].
  """
  from PIL import Image

  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(values)
  if palette is not None:
    image.putpalette(palette.tobytes())
  with atomic_write(path) as partial:
    image.save(partial, format="PNG")


def overlay(
  image: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float
) -> np.ndarray:
  """Blends the colours of labels over an image.

  Args:
    image: uint8 RGB [H, W, 3].
    labels: [H, W], indices into `palette`.
    palette: uint8[256, 3] RGB.
    opacity: opacity of the colours, 0..1.

  Returns:
    uint8 RGB [H, W, 3].
  """
  colors = palette[labels].astype(np.float32)
  return np.rint(image + opacity * (colors - image)).astype(np.uint8)


def label_ids(names: Sequence[str], known: dict[str, int], kind: str) -> np.ndarray:
  """Table from training ids to the values of a label file.

  Args:
    names: names of the classes, in the order of their training ids.
    known: class name → label id of Cityscapes.
    kind: "train" or "cityscapes", the ids to write.

  Returns:
    uint8[len(names)].

  Raises:
    UserError: a class has no Cityscapes id.
  """
  if kind == "train":
    return np.arange(len(names), dtype=np.uint8)
  unknown = [name for name in names if name not in known]
  if unknown:
    raise UserError(
      f"prediction.label_ids is 'cityscapes', but {unknown[0]!r} is no class of Cityscapes: set "
      "'train'"
    )
  return np.array([known[name] for name in names], np.uint8)


def read_png(path: Path) -> np.ndarray:
  """The values of a PNG that `write_png` wrote."""
  from PIL import Image

  with Image.open(path) as image:
    return np.asarray(image)


def stamp(path: Path) -> list[int]:
  """Size and modification time of a file, to detect changes; empty if it cannot be accessed."""
  try:
    status = path.stat()
  except OSError:
    return []
  return [status.st_size, status.st_mtime_ns]


def in_order(
  pool: concurrent.futures.Executor, function: Callable[[Any], Any], values: Iterable[Any]
) -> Iterator[tuple[Any, concurrent.futures.Future]]:
  """Yields each value with the future of its result, in order; a few are submitted ahead."""
  begun: collections.deque = collections.deque()
  for value in values:
    begun.append((value, pool.submit(function, value)))
    if len(begun) > _AHEAD:
      yield begun.popleft()
  yield from begun
