"""A data set of one's own: files that patterns of a configuration find."""

import dataclasses
import functools
import os
from typing import Any

from corda_jax.errors import UserError
from data_pipelines import inverse_depth, preprocess, readers
from data_pipelines.builder import FramesBuilder
from data_pipelines.files import DataFiles
from data_pipelines.folder_files import FILTERS, METRIC_PNG, NAME, FolderFiles
from data_pipelines.frame_config import FrameConfig, check_config
from data_pipelines.frames import VIEWS, Frame

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
  def find_frames(cls, files: DataFiles, config: FolderConfig) -> dict[str, list[Frame]]:
    """See the base class."""
    splits = {
      split: _frames(files, split, patterns) for split, patterns in config.folder.patterns.items()
    }
    images = [{frame.image for frame in frames} for frames in splits.values()]
    shared = set.intersection(*images) if len(images) > 1 else set()
    if shared:
      raise UserError(
        f"{min(shared)!r} and {len(shared) - 1} more are matched by the patterns of both folder."
        f"{' and folder.'.join(splits)}: a name may run over folders; make one of them narrower"
      )
    return splits

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


def _frames(files: DataFiles, split: str, patterns: dict[str, str]) -> list[Frame]:
  found = {}
  for kind, pattern in patterns.items():
    prefix, _, suffix = pattern.partition(NAME)
    found[kind] = files.find(prefix, suffix)
    if not found[kind]:
      raise UserError(
        f"{files.root!r} holds no file {pattern!r}, the pattern of folder.{split}: {NAME} stands "
        "for the names of the frames, with the folders between if there are any"
      )

  # A short pattern such as {name}.png may match what {name}_label.png is meant for.
  others = {x for kind, named in found.items() if kind != "image" for x in named.values()}
  found["image"] = {name: x for name, x in found["image"].items() if x not in others}

  def location(kind: str, name: str) -> str:
    return found[kind].get(name, files.default("", patterns[kind].replace(NAME, name)))

  # Files of the other kinds may belong to frames that are left out.
  names = sorted(found["image"].keys() | found.get("label", {}).keys())
  return [Frame(name=name, **{kind: location(kind, name) for kind in patterns}) for name in names]


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
