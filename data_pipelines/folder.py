"""A data set of one's own: files that patterns of a configuration find."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

from corda_jax.errors import UserError
from data_pipelines import inverse_depth, preprocess, readers
from data_pipelines.builder import FramesBuilder
from data_pipelines.files import DataFiles, depth_tree
from data_pipelines.folder_files import FILTERS, METRIC_PNG, NEIGHBOURS, SPLITS, FolderFiles
from data_pipelines.frame_config import FrameConfig, check_config
from data_pipelines.frames import NAME, VIEWS, FoundFrames, Frame
from data_pipelines.neighbours import with_neighbours

# Kind of depth files → how they are read; metres are encoded and resized alike.
_METRIC_READERS = {
  METRIC_PNG: readers.read_depth_png,
  "metres_npy": readers.read_depth_npy,
  "metres_mat": readers.read_depth_mat,
}


@dataclasses.dataclass(eq=False, kw_only=True)
class FolderConfig(FrameConfig):
  """A `FrameConfig` of a data set of one's own.

  Attributes:
    folder: where the files are and what is in them.
  """

  folder: FolderFiles

  def variant(self) -> tuple:
    """See the base class."""
    # Folders that are laid out alike are told apart by their own names.
    name = os.path.basename(os.path.normpath(self.root))
    return (*super().variant(), self.folder, name)


class Folder(FramesBuilder):
  """Frames whose files are found by patterns, such as `train/images/{name}.jpg`.

  The files of a frame are those of equal name; a name may run over folders, as in `bonn/000019`.
  Depth files may differ in size from the image. Validation labels keep the size of their files.
  """

  DEPTH_KINDS = ("inverse_png16", *_METRIC_READERS)
  NETWORK_DEPTH = "inverse_png16"
  NATIVE_LABEL_SPLITS = ("validation",)
  VIEWS = VIEWS

  @classmethod
  def make_config(cls, dataset_config: Any, **values: Any) -> FolderConfig:
    """See the base class."""
    check_config(FrameConfig(**values), cls)  # what follows builds on depth and views
    folder = FolderFiles.from_config(
      dataset_config.folder, depth=values["depth"], views=values.get("views", ())
    )
    return FolderConfig(**values, folder=folder)

  @classmethod
  def find_frames(cls, files: DataFiles, config: FolderConfig) -> FoundFrames:
    """See the base class."""
    trees = {"depth": files if config.depth == "none" else depth_tree(files, config.depth_root)}
    splits = {
      split: _frames(files, trees, split, patterns)
      for split, patterns in config.folder.patterns.items()
    }
    images = [{frame.image for frame in frames} for frames in splits.values()]
    shared = set.intersection(*images) if len(images) > 1 else set()
    if shared:
      raise UserError(
        f"{min(shared)!r} and {len(shared) - 1} more are matched by the patterns of both folder."
        f"{' and folder.'.join(splits)}: a name may run over folders; make one of them narrower"
      )
    by = {"previous": -config.neighbour_offset, "next": config.neighbour_offset}
    ends = {}
    for split, frames in splits.items():
      missing = [view for view in NEIGHBOURS if view in config.views]
      missing = [view for view in missing if view not in config.folder.patterns[split]]
      if missing:
        splits[split] = _in_videos(frames, split, {view: by[view] for view in missing})
        ends[split] = len(frames) - len(splits[split])
    return FoundFrames(splits, ends)

  @classmethod
  def network_depth_patterns(cls, dataset_config: Any) -> dict[str, str]:
    """See the base class; those of the configuration, unless they are of measured depth."""
    patterns = {}
    for split in SPLITS:
      config = dataset_config.folder[split]
      if split == "train" or config.images:
        ours = dataset_config.depth in (cls.NETWORK_DEPTH, "none")
        ours = ours and config.depth.endswith(".png") and config.depth.count(NAME) == 1
        pattern = config.depth if ours else f"disparity/{split}/{NAME}.png"
        patterns[split] = pattern.removeprefix("./")
    return patterns

  @classmethod
  def recipe(cls, config: FolderConfig, split: str) -> preprocess.Recipe:
    """See the base class."""
    folder = config.folder
    return preprocess.Recipe(
      size=(config.height, config.width),
      image_filter=FILTERS[folder.image_filter],
      label_table=folder.label_table(config.classes),
      label_ids=folder.label_ids(config.classes),
      resize_label=split not in cls.NATIVE_LABEL_SPLITS,
      depth=_depth_recipe(config.depth, folder.metres_per_unit),
      camera=folder.camera,
    )


def _frames(
  files: DataFiles, trees: Mapping[str, DataFiles], split: str, patterns: Mapping[str, str]
) -> list[Frame]:
  """Frames of a split, of files in `files`, or in the tree of their kind."""
  found = {}
  for kind, pattern in patterns.items():
    prefix, _, suffix = pattern.partition(NAME)
    tree = trees.get(kind, files)
    found[kind] = tree.find(prefix, suffix)
    if not found[kind]:
      raise UserError(
        f"{tree.root!r} holds no file {pattern!r}, the pattern of folder.{split}: {NAME} stands "
        "for the names of the frames, with the folders between if there are any"
      )

  # A short pattern such as {name}.png may match what {name}_label.png is meant for.
  others = {x for kind, named in found.items() if kind != "image" for x in named.values()}
  found["image"] = {name: x for name, x in found["image"].items() if x not in others}

  def location(kind: str, name: str) -> str:
    default = trees.get(kind, files).default("", patterns[kind].replace(NAME, name))
    return found[kind].get(name, default)

  # Files of the other kinds may belong to frames that are left out.
  names = sorted(found["image"].keys() | found.get("label", {}).keys())
  return [Frame(name=name, **{kind: location(kind, name) for kind in patterns}) for name in names]


def _in_videos(frames: list[Frame], split: str, offsets: Mapping[str, int]) -> list[Frame]:
  """Those of the frames that have their neighbours, with them."""
  kept = with_neighbours(frames, offsets)
  if not kept:
    wanted = " and ".join(f"folder.{split}.{view}" for view in offsets)
    raise UserError(
      f"none of the {len(frames)} images of folder.{split} has its neighbours among the others, "
      f"but {wanted} {'are' if len(offsets) > 1 else 'is'} '': wanted names that end in the number "
      f"of the frame in its video, such as walk/000019, or patterns of the neighbours; this one is "
      f"{frames[0].name!r}"
    )
  return kept


def _depth_recipe(depth: str, metres_per_unit: float | None) -> preprocess.DepthRecipe | None:
  """A network's inverse depth is interpolated, measured metres are not."""
  if depth == "none":
    return None
  if depth == "inverse_png16":
    return preprocess.DepthRecipe(
      read=readers.read_depth_png,
      encode=inverse_depth.from_disparity,
      resize=preprocess.resize_bilinear_with_holes,
      any_size=True,
    )
  return preprocess.DepthRecipe(
    read=_METRIC_READERS[depth],
    encode=functools.partial(inverse_depth.from_measured, metres_per_unit=metres_per_unit or 1.0),
    resize=preprocess.resize_nearest_center,
    any_size=True,
  )
