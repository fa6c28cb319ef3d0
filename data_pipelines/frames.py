"""Frames of a data set: which files belong together.

A frame is an image and the other files of its split that belong to it. Files are paired by name; a
name with only an image or only a label still makes a frame, so that the missing file is reported.
"""

import dataclasses
import hashlib
import os
import re
import types
from collections.abc import Iterable, Mapping, Sequence

from corda_jax.errors import UserError
from corda_jax.images import CONVERT_HEIC, HEIC_SUFFIXES, image_suffixes
from data_pipelines.archives import DataFiles, file_size
from data_pipelines.patterns import Pattern

VIEWS = ("right", "previous", "next")  # images of a frame beside its own


@dataclasses.dataclass(frozen=True)
class Frame:
  """Files of one frame, by location (see archives.py); None: the split has none.

  Attributes:
    name: unique in its split, for example "00001" or "aachen_000000_000019".
    image: the image.
    label: label ids.
    depth: depth file.
    right: image of the right camera.
    previous: image of an earlier time.
    next: image of a later time.
    camera: calibration.
  """

  name: str
  image: str
  label: str | None = None
  depth: str | None = None
  right: str | None = None
  previous: str | None = None
  next: str | None = None
  camera: str | None = None

  def files(self) -> tuple[str, ...]:
    """Locations of all files of the frame."""
    values = (getattr(self, field.name) for field in dataclasses.fields(self)[1:])
    return tuple(location for location in values if location is not None)


@dataclasses.dataclass(frozen=True)
class FoundFrames:
  """Frames of a data set.

  Attributes:
    splits: split → its frames.
    ends: split → number of frames that are left out because the previous or next one is
      missing, at the ends of clips.
    notes: (split, file, what is unusual) of files that are left out.
  """

  splits: dict[str, list[Frame]]
  ends: dict[str, int] = dataclasses.field(default_factory=dict)
  notes: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)


def match_frames(
  patterns: Mapping[str, Sequence[Pattern]],
  trees: Mapping[str, DataFiles],
  fields: Mapping[str, str] = types.MappingProxyType({}),
) -> tuple[list[Frame], list[tuple[str, str]]]:
  """Frames of every name that has an image or a label, in the order of their names.

  A label whose name extends that of an image, such as `00001_labelTrainIds.png`, is another form of
  the image's label, written by other tools; it makes no frame.

  Args:
    patterns: attribute of `Frame` → patterns of its files; the first with a match counts.
    trees: attribute of `Frame` → the tree of its files.
    fields: attribute of `Frame` → field of the configuration, for error messages.

  Returns:
    The frames; and (file, what is unusual) of files that are left out.

  Raises:
    UserError: there are no files of a kind, or a file's name is not UTF-8.
  """
  chosen, found = {}, {}
  for kind, candidates in patterns.items():
    tree = trees[kind]
    for pattern in candidates:
      if matches := pattern.find(tree):
        chosen[kind], found[kind] = pattern, matches
        break
    else:
      expected = " or ".join(repr(pattern.text) for pattern in candidates)
      field = f" ({fields[kind]})" if kind in fields else ""
      raise UserError(
        f"{tree.root!r} and its zip archives hold no file {expected}{field}, where {{…}} stands "
        f"for names and folders{_instead(candidates[0], tree)}"
      )
  # A short pattern such as {name}.png may match what {name}_label.png is meant for.
  others = {x for kind, named in found.items() if kind != "image" for x in named.values()}
  found["image"] = {name: x for name, x in found["image"].items() if x not in others}

  def location(kind: str, name: str) -> str:
    return found[kind].get(name) or trees[kind].locate(chosen[kind].path(name))

  notes = _other_formats(chosen["image"], trees["image"], found["image"].values(), others)
  # Files of the other kinds may belong to frames that are left out.
  alone = sorted(found.get("label", {}).keys() - found["image"].keys())
  if forms := [name for name in alone if _extends(name, found["image"])]:
    example = found["label"][forms[0]]
    notes.append((example, f"{_count(forms)} left out: the name extends that of an image"))
  names = sorted(found["image"].keys() | set(alone) - set(forms))
  for name in names:
    try:
      name.encode()
    except UnicodeEncodeError:
      path = location("image", name)
      raise UserError(f"the name of {path!r} is not UTF-8: rename the file") from None
  frames = [Frame(name, **{kind: location(kind, name) for kind in patterns}) for name in names]
  return frames, notes


def _extends(name: str, known: Mapping[str, str]) -> bool:
  """Whether a name is one of the known ones with an ending, such as "_color"."""
  return any(name[: match.start()] in known for match in re.finditer(r"[_.-]", name))


def _other_formats(
  pattern: Pattern, tree: DataFiles, images: Iterable[str], used: set[str]
) -> list[tuple[str, str]]:
  """A note on pictures beside a pattern's images that have another format."""
  ending = os.path.splitext(pattern.text)[1].lower()
  folder = pattern.text.partition("{")[0].rpartition("/")[0]
  if not folder or not ending:  # otherwise anything could be beside them
    return []
  folders = {os.path.dirname(image) for image in images}
  left = [
    file
    for file in tree.find(f"{folder}/", "").values()
    if os.path.dirname(file) in folders and file not in used and _is_picture(file, ending)
  ]
  if not left:
    return []
  return [(min(left), f"{_count(left)} left out: another format than {ending}")]


def _count(files: Sequence[str]) -> str:
  return "1 file" if len(files) == 1 else f"{len(files)} files such as this"


def _is_picture(file: str, ending: str) -> bool:
  """Whether the suffix is that of a picture, and another one than `ending`."""
  suffix = os.path.splitext(file)[1].lower()
  return suffix != ending and (suffix in image_suffixes() or suffix in HEIC_SUFFIXES)


def _instead(pattern: Pattern, tree: DataFiles) -> str:
  """What a tree without files of a pattern has instead, and what to do about it."""
  if tree.other_archives:
    return f"; unpack {tree.other_archives[0]}, only zip is read"
  prefix, *_, suffix = re.split(r"\{\w+\}", pattern.text)
  files = {path + suffix: location for path, location in tree.find("", suffix).items()}
  for path, location in sorted(files.items()):
    around, inside, _ = path.rpartition(f"/{prefix}") if prefix else ("", "", "")
    if inside:
      remedy = f"set the root to {os.path.join(tree.root, around)!r}"
      if location != os.path.join(tree.root, path):
        remedy = f"unpack the archive, and set the root to its folder {around!r}"
      return f"; there is {path!r}: {remedy}"
  folder = prefix.rpartition("/")[0]
  beside = [f"{folder}/{name}" for name in tree.find(f"{folder}/", "")] if folder else []
  example = min(beside or files, default="")
  heic = f": {CONVERT_HEIC}" if example.lower().endswith(HEIC_SUFFIXES) else ""
  return f"; there is {example!r}{heic}" if example else ""


def missing_file(frame: Frame) -> str | None:
  """Location of the first file of the frame that does not exist, or None."""
  return next((location for location in frame.files() if file_size(location) is None), None)


def fingerprint(splits: dict[str, Sequence[Frame]], *, samples: int = 64) -> str:
  """A short text that identifies the files without reading them.

  It covers the names of all frames and the sizes of the files of `samples` frames spread over each
  split, so it is cheap on network disks, and the same wherever the data set is, unpacked or not.
  """
  digest = hashlib.sha256()
  for split, frames in sorted(splits.items()):
    digest.update(repr((split, [frame.name for frame in frames])).encode())
    for frame in frames[:: max(1, len(frames) // samples)]:
      digest.update(repr([file_size(location) for location in frame.files()]).encode())
  return digest.hexdigest()[:16]


def with_neighbours(frames: Sequence[Frame], offsets: Mapping[str, int]) -> list[Frame]:
  """The frames whose neighbours are among the others, with the neighbours filled in.

  The number of a frame is the last run of digits in its name, after the last "/"; a neighbour's
  name is equal but for its number, which may have other leading zeros.

  Args:
    frames: frames of a split.
    offsets: view ("previous", "next") → its number minus that of the frame.

  Raises:
    UserError: two frames have the same number.
  """
  by_number: dict[tuple[str, int, str], Frame] = {}
  for frame in frames:
    match = re.fullmatch(r"(.*?)([0-9]+)([^0-9/]*)", frame.name, re.DOTALL)
    if match is None:
      continue
    key = (match[1], int(match[2]), match[3])
    other = by_number.setdefault(key, frame)
    if other is not frame:
      raise UserError(
        f"{other.image!r} and {frame.image!r} have the same number, {key[1]}, so the neighbours in "
        "time are ambiguous: rename one of them"
      )
  kept = []
  for (before, number, after), frame in by_number.items():
    views = {view: by_number.get((before, number + by, after)) for view, by in offsets.items()}
    if None not in views.values():
      images = {view: other.image for view, other in views.items()}
      kept.append(dataclasses.replace(frame, **images))
  return kept
