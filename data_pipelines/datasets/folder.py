"""A user-defined data set: files found by the patterns of a configuration."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from corda_jax.errors import UserError
from data_pipelines import preprocess
from data_pipelines.archives import DataFiles, depth_tree, open_file
from data_pipelines.datasets import folder_config
from data_pipelines.datasets.base import FramesBuilder
from data_pipelines.datasets.folder_config import FIELDS, FILTERS, NEIGHBOURS, SPLITS, FolderFiles
from data_pipelines.datasets.frame_config import FrameConfig
from data_pipelines.frames import VIEWS, FoundFrames, Frame, match_frames, with_neighbours
from data_pipelines.patterns import NAME, Pattern


@dataclasses.dataclass(eq=False, kw_only=True)
class FolderConfig(FrameConfig):
  """A `FrameConfig` of a user-defined data set.

  Attributes:
    folder: where the files are and what is in them.
  """

  folder: FolderFiles

  def variant(self) -> tuple:
    """As in the base class."""
    # Folders of the same layout are distinguished by their own names.
    name = os.path.basename(os.path.normpath(self.root))
    return (*super().variant(), self.folder, name)


class Folder(FramesBuilder):
  """Frames whose files are found by patterns, such as `train/images/{name}.jpg`.

  The files of a frame are those of equal name; a name may include folders, as in `bonn/000019`.
  Depth files may differ in size from the image. Validation labels keep the size of their files.
  """

  BUILDER_CONFIGS: ClassVar = [
    FolderConfig(
      height=512,
      width=1024,
      depth="none",
      folder=FolderFiles({"train": {"image": Pattern("train/images/{name}.png")}}),
    )
  ]
  NETWORK_DEPTH = folder_config.NETWORK_DEPTH
  HAS_VALIDATION = True
  VIEWS = VIEWS

  @classmethod
  def make_config(
    cls, dataset_config: Any, *, contents: Sequence[str], **values: Any
  ) -> FolderConfig:
    """As in the base class."""
    folder = FolderFiles.from_config(
      dataset_config.folder,
      splits=values["splits"],
      depth=values["depth"],
      views=values["views"],
      contents=contents,
    )
    return FolderConfig(**values, folder=folder)

  @classmethod
  def depth_kinds(cls) -> tuple[str, ...]:
    """As in the base class."""
    return folder_config.DEPTH_KINDS

  @classmethod
  def patterns(cls, config: FolderConfig, split: str) -> dict[str, tuple[str, ...]]:
    """As in the base class."""
    return {kind: (pattern.text,) for kind, pattern in config.folder.patterns[split].items()}

  @classmethod
  def find_frames(cls, files: DataFiles, config: FolderConfig) -> FoundFrames:
    """As in the base class, but names include folders."""
    by = {"previous": -config.neighbour_offset, "next": config.neighbour_offset}
    splits, ends, notes = {}, {}, []
    for split in config.splits:
      patterns = {kind: Pattern(text) for kind, (text,) in cls.patterns(config, split).items()}
      frames, left = _match(files, config, split, patterns)
      notes += [(split, *note) for note in left]
      if split in config.folder.lists:
        frames = _listed(files, frames, split, config.folder.lists[split])
      missing = [v for v in NEIGHBOURS if v in config.views and v not in patterns]
      splits[split] = frames
      if missing:
        splits[split] = _in_videos(frames, split, {view: by[view] for view in missing})
        ends[split] = len(frames) - len(splits[split])
    if config.folder.held_out:
      _check_apart(files, config, splits["train"])
    return FoundFrames(splits, ends, notes)

  @classmethod
  def network_depth_patterns(cls, dataset_config: Any) -> dict[str, str]:
    """As in the base class; the configured patterns, unless they are for measured depth."""
    patterns = {}
    for split in SPLITS:
      config = dataset_config.folder[split]
      if split == "train" or config.images:
        ours = dataset_config.depth in (cls.NETWORK_DEPTH, "none")
        ours = ours and config.depth.endswith(".png") and Pattern(config.depth).is_valid()
        pattern = config.depth if ours else f"disparity/{split}/{NAME}.png"
        patterns[split] = pattern.removeprefix("./")
    return patterns

  @classmethod
  def recipe(cls, config: FolderConfig, split: str) -> preprocess.Recipe:
    """As in the base class."""
    folder = config.folder
    return preprocess.Recipe(
      size=(config.height, config.width),
      image_filter=None if config.resampling == "opencv" else FILTERS[folder.image_filter],
      label=folder.label_reader(config.classes),
      resize_label=split != "validation",
      depth=folder.depth_recipe(config.depth),
      camera=folder.camera,
    )


def _match(
  files: DataFiles, config: FolderConfig, split: str, patterns: Mapping[str, Pattern]
) -> tuple[list[Frame], list[tuple[str, str]]]:
  trees = {k: depth_tree(files, config.depth_root) if k == "depth" else files for k in patterns}
  fields = {kind: f"folder.{split}.{FIELDS[kind]}" for kind in patterns}
  return match_frames({kind: (pattern,) for kind, pattern in patterns.items()}, trees, fields)


def _listed(files: DataFiles, frames: list[Frame], split: str, path: str) -> list[Frame]:
  """The frames that a text file lists: by name, by file, or by a path that ends in one of these.

  A line may have more columns, such as pairs of images and labels; the first one counts.
  """
  field = f"folder.{split}.list is {path!r}"
  try:
    with open_file(files.locate(path)) as file:
      lines = file.read().decode("utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{field}, which cannot be read: {error}") from error
  known: dict[str, Frame | None] = {}
  for frame in frames:
    below = files.below(frame.image)
    for text in {frame.name, below, os.path.basename(below)}:
      known[text] = None if text in known else frame  # ambiguous: the text names two frames
  listed = {}
  for line in filter(None, map(str.strip, lines)):
    starts = (text[at:] for text in (line, line.split()[0]) for at in _starts(text))
    frame = next((known[text] for text in starts if known.get(text)), None)
    if frame is None:
      example = files.below(frames[0].image)
      raise UserError(
        f"{field}, and names {line!r}, which is not an image of the split; expected names such as "
        f"{frames[0].name!r}, or paths such as {example!r}"
      )
    listed[frame.name] = frame
  if not listed:
    raise UserError(f"{field}, which names no frame")
  return [listed[name] for name in sorted(listed)]


def _starts(path: str) -> list[int]:
  """Start positions of the path itself and of its parts without the first folders."""
  return [0, *(match.end() for match in re.finditer("/", path))]


def _check_apart(files: DataFiles, config: FolderConfig, train: list[Frame]) -> None:
  """Raises UserError where training and validation share images."""
  pattern, path = config.folder.held_out
  validation, _ = _match(files, config, "validation", {"image": pattern})
  if path:
    validation = _listed(files, validation, "validation", path)
  shared = {frame.image for frame in train} & {frame.image for frame in validation}
  if shared:
    raise UserError(
      f"{min(shared)!r} and {len(shared) - 1} more are in both folder.train and folder.validation: "
      "make one of the patterns narrower (a name may include folders), name lists of images, or "
      "set folder.shared_images=True"
    )


def _in_videos(frames: list[Frame], split: str, offsets: Mapping[str, int]) -> list[Frame]:
  """The frames that have all neighbours, with the neighbours filled in."""
  kept = with_neighbours(frames, offsets)
  if not kept:
    views = " and ".join(f"folder.{split}.{view}" for view in offsets)
    raise UserError(
      f"none of the {len(frames)} images of folder.{split} has its neighbours among the others, "
      f"but {views} {'are' if len(offsets) > 1 else 'is'} '': expected names that end in the "
      "number of the frame in its video, such as walk/000019, or patterns of the neighbours; got "
      f"{frames[0].name!r}"
    )
  return kept
