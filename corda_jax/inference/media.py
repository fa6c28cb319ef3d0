"""What `--mode=predict` reads and writes: images, folders of them, and their maps."""

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

JOURNAL, RESULTS = "predicted.jsonl", "results.json"  # in the folder of the output
_LONGEST_NAME = 255  # bytes of a file's name
_AHEAD = 4  # results that are made before they are asked for
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")


class BadImageError(Exception):
  """An image that cannot be predicted, and why."""


@dataclasses.dataclass(frozen=True)
class ImageFile:
  """One image to predict.

  Attributes:
    name: path of its maps below the folder of the output, without suffix.
    path: of the file.
    fault: why it cannot be predicted, if that is known before it is read; else "".
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

  Hidden files and folders are passed over, links to folders are followed. What is below `output` is
  not among them: an earlier run has written it. Other files are left out, and counted in a note.

  Raises:
    UserError: there is none, or a folder cannot be listed.
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
      reason = f"whose images are in the folder of the output, {output}: set prediction.output"
    raise UserError(f"prediction.input is {path}, {reason}")
  if left:
    print(f"note: left out in {path}: {left}")
  return found


def _files_below(path: Path) -> list[Path]:
  """All files that are not hidden, in the order of their names."""

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
  """Why a file cannot be predicted, as far as that shows without reading it."""
  if not file.exists():
    return f"is a link to {os.readlink(file)}, which does not exist"
  if not file.is_file():  # a pipe would be waited for
    return "is no regular file"
  longest = max(len(os.fsencode(f"{file.stem}_{kind}.png.partial")) for kind in KINDS)
  return "has a name too long for its maps: rename it" if longest > _LONGEST_NAME else ""


def _left_out(others: Mapping[str, int]) -> str:
  """Files of other suffixes, counted, and what to do about them."""
  parts = [", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))]
  if any(suffix in VIDEO_SUFFIXES for suffix in others):
    parts.append("name each video by itself")
  if any(suffix in HEIC_SUFFIXES for suffix in others):
    parts.append(CONVERT_HEIC)
  return "; ".join(parts)


def check_output(folder: Path, path: Path) -> None:
  """Refuses a folder that holds predictions of another input, or somebody's files of their names.

  Args:
    folder: of the output.
    path: the input.

  Raises:
    UserError: it does.
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
  """Whether the name of a file is that of a video."""
  return path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES


def resized_shape(image: np.ndarray, height: int) -> tuple[int, int]:
  """(height, width) of an image [H, W, 3] brought to a height, its width in proportion."""
  return height, max(1, round(image.shape[1] * height / image.shape[0]))


def resized(image: np.ndarray, height: int, resampling: str) -> np.ndarray:
  """An image [H, W, 3] brought to a height, its width in proportion, as preparation does it."""
  from PIL import Image

  if height == image.shape[0]:
    return image
  _, width = resized_shape(image, height)
  resample = Image.Resampling[resampling.upper()]
  return np.asarray(Image.fromarray(image).resize((width, height), resample))


def write_png(path: Path, values: np.ndarray, palette: np.ndarray | None = None) -> None:
  """Writes a PNG, whole or not at all.

  Args:
    path: of the file; its folder is made.
    values: uint8 RGB [H, W, 3], or [H, W] of uint8 or uint16.
    palette: uint8[256, 3], the colours that viewers show uint8 [H, W] in.
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
  """Blends classes over an image.

  Args:
    image: uint8 RGB [H, W, 3].
    labels: [H, W], places in `palette`.
    palette: uint8[256, 3].
    opacity: of the colours, 0..1.
  """
  colors = palette[labels].astype(np.float32)
  return np.rint(image + opacity * (colors - image)).astype(np.uint8)


def label_ids(names: Sequence[str], known: dict[str, int], expected: str) -> np.ndarray:
  """Table from training ids to the values of a label file.

  Args:
    names: of the classes, in the order of their training ids.
    known: class name → label id of Cityscapes.
    expected: "train" or "cityscapes".

  Returns:
    uint8[len(names)].

  Raises:
    UserError: a class has no such id.
  """
  if expected == "train":
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
  """By which a file is known to be the same; that it cannot be read is noticed later."""
  try:
    status = path.stat()
  except OSError:
    return []
  return [status.st_size, status.st_mtime_ns]


def in_order(
  pool: concurrent.futures.Executor, function: Callable[[Any], Any], values: Iterable[Any]
) -> Iterator[tuple[Any, concurrent.futures.Future]]:
  """Pairs of each value and the future of its result, a few of them begun ahead."""
  begun: collections.deque = collections.deque()
  for value in values:
    begun.append((value, pool.submit(function, value)))
    if len(begun) > _AHEAD:
      yield begun.popleft()
  yield from begun
