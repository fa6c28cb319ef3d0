"""Frames of a data set on disk: which files belong together, and where they are looked for.

A frame is an image, its label and, where the split has any, its depth file. Files are paired by
name; a name that has only one of them still makes a frame, so that the missing one gets reported.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from corda_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Frame:
  """Files of one frame.

  Attributes:
    name: unique in its split, for example "00001" or "aachen_000000_000019".
    image: path of the image.
    label: path of the label ids.
    depth: path of the depth file, or None where the split has none.
  """

  name: str
  image: str
  label: str
  depth: str | None

  def files(self) -> tuple[str, ...]:
    """Paths of all files of the frame."""
    return tuple(path for path in (self.image, self.label, self.depth) if path is not None)


def find_directory(root: str, *candidates: str) -> Path:
  """The first of the candidate folders that exists under the root.

  Raises:
    UserError: the root is missing, or holds none of them.
  """
  if not os.path.isdir(root):
    raise UserError(f"no data set at {root!r}: there is no such folder; set root to where it is")
  for candidate in candidates:
    if (Path(root) / candidate).is_dir():
      return Path(root) / candidate
  wanted = " or ".join(repr(candidate) for candidate in candidates)
  raise UserError(f"{root!r} is not laid out as expected: looked in it for the folder {wanted}")


def list_files(folder: Path, suffix: str, *, cities: bool = False) -> dict[str, str]:
  """Files whose name ends in `suffix`, as name without the suffix → path.

  Args:
    folder: need not exist.
    suffix: for example ".png".
    cities: look one folder deeper; keys are then "CITY/NAME".
  """
  if not folder.is_dir():
    return {}
  if cities:
    return {
      f"{entry.name}/{name}": path
      for entry in os.scandir(folder)
      if entry.is_dir()
      for name, path in list_files(Path(entry.path), suffix).items()
    }
  return {
    entry.name.removesuffix(suffix): entry.path
    for entry in os.scandir(folder)
    if entry.name.endswith(suffix) and not entry.name.startswith(".")
  }


def pair_frames(
  image: tuple[Path, str],
  label: tuple[Path, str],
  depth: tuple[Path, str] | None,
  *,
  cities: bool = False,
) -> list[Frame]:
  """Frames of every name that has an image or a label, in the order of their names.

  Args:
    image: folder and suffix of the images.
    label: folder and suffix of the labels.
    depth: folder and suffix of the depth files; None gives frames without depth.
    cities: whether files lie one folder deeper, by city.
  """
  names = set(list_files(*image, cities=cities)) | set(list_files(*label, cities=cities))

  def path(place: tuple[Path, str], name: str) -> str:
    folder, suffix = place
    return os.path.join(folder, name + suffix)

  return [
    Frame(
      name=os.path.basename(name),
      image=path(image, name),
      label=path(label, name),
      depth=None if depth is None else path(depth, name),
    )
    for name in sorted(names)
  ]


def missing_file(frame: Frame) -> str | None:
  """Path of the first file of the frame that does not exist, or None."""
  return next((path for path in frame.files() if not os.path.isfile(path)), None)


def fingerprint(splits: dict[str, Sequence[Frame]], *, samples: int = 64) -> str:
  """A short text that differs where the files differ, without reading them.

  It covers the names of all frames and the sizes of the files of `samples` frames spread over each
  split, so it is cheap on network disks, and indifferent to where the data set lies.
  """
  digest = hashlib.sha256()
  for split, frames in sorted(splits.items()):
    digest.update(repr((split, [frame.name for frame in frames])).encode())
    for frame in frames[:: max(1, len(frames) // samples)]:
      sizes = [os.path.getsize(path) if os.path.exists(path) else -1 for path in frame.files()]
      digest.update(repr(sizes).encode())
  return digest.hexdigest()[:16]
