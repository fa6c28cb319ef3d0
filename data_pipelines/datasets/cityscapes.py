"""Cityscapes: 2,975 frames to train on, 500 to validate, 19,998 unlabelled; 2048x1024 pixels."""

import dataclasses
import os
import re
from typing import Any, ClassVar

from PIL import Image

from corda_jax import labels
from corda_jax.errors import UserError
from data_pipelines import inverse_depth, preprocess, readers
from data_pipelines.archives import DataFiles, depth_tree
from data_pipelines.datasets.base import FrameConfig, FramesBuilder
from data_pipelines.frames import FoundFrames, Frame, Place, pair_frames
from data_pipelines.patterns import NAME

LABEL_IDS = frozenset((*range(34), 255))  # 255: licence plates, -1 in the tables
_FOLDERS = {"train": "train", "train_extra": "train_extra", "validation": "val"}
_IMAGE = "_leftImg8bit.png"
_LABEL = "_gtFine_labelIds.png"
_NAME = re.compile(r"(?P<clip>(?P<city>.+)_\d{6}_)(?P<number>\d{6})")
_SEQUENCE = "leftImg8bit_sequence"

# Depth kind → folder and suffix of its files.
_DEPTH_FILES = {
  "mono": ("disparity", _IMAGE),  # beside the official ones, which are something else
  "stereo": ("depth", "_depth_stereoscopic.mat"),
  "official": ("disparity", "_disparity.png"),
}

_DEPTH_RECIPES = {
  "mono": preprocess.DepthRecipe(
    read=readers.read_depth_png,
    encode=inverse_depth.from_disparity,
    resize=preprocess.resize_nearest_center,
    any_size=True,
  ),
  "stereo": preprocess.DepthRecipe(
    read=readers.read_depth_mat,
    encode=inverse_depth.from_stereo_metres,
    resize=preprocess.resize_nearest_center,
    any_size=False,
  ),
  "official": preprocess.DepthRecipe(
    read=readers.read_depth_png,
    encode=inverse_depth.from_official_disparity,
    resize=preprocess.resize_nearest_center,
    any_size=False,
    needs_camera=True,
  ),
  "none": None,
}


class Cityscapes(FramesBuilder):
  """`leftImg8bit/{train,val}/CITY/…`, `gtFine/…`, and depth by its kind.

  As the archives hold it, or in the released tree, where `leftImg8bit_trainvaltest/` and
  `gtFine_trainvaltest/` hold the first two. Validation labels keep the size of their files, at
  which the benchmark scores; validation has depth where there are files of it. `train_extra` has no
  fine labels.
  """

  BUILDER_CONFIGS: ClassVar = [FrameConfig(height=512, width=1024, depth="stereo")]  # as released
  DEPTH_KINDS = ("mono", "stereo", "official")
  NETWORK_DEPTH = "mono"
  TRAINING_SPLITS = ("train", "train_extra")
  HAS_VALIDATION = True
  VIEWS = ("right", "previous", "next")
  EXPECTED: ClassVar = {"train": 2_975, "train_extra": 19_998, "validation": 500}

  @classmethod
  def find_frames(cls, files: DataFiles, config: FrameConfig) -> FoundFrames:
    """As in the base class."""
    splits = {}
    for split in config.splits:
      folder = _FOLDERS[split]
      places = {
        "image": _place(files, "leftImg8bit", "leftImg8bit_trainvaltest", folder, _IMAGE),
        "label": None,
        "depth": _depth_place(files, config, split),
      }
      if split != "train_extra":
        places["label"] = _place(files, "gtFine", "gtFine_trainvaltest", folder, _LABEL)
      if "right" in config.views:
        right = files.find_folder(f"rightImg8bit/{folder}")
        places["right"] = Place(files, right, "_rightImg8bit.png")
      if config.views or (config.depth == "official" and places["depth"]):
        camera = files.find_folder(f"camera/{folder}")
        places["camera"] = Place(files, camera, "_camera.json")
      frames = pair_frames(cities=True, **places)
      splits[split] = _with_neighbours(files, frames, config, folder)
    return FoundFrames(splits)

  @classmethod
  def network_depth_patterns(cls, dataset_config: Any) -> dict[str, str]:
    """As in the base class; {name} holds the city's folder too."""
    del dataset_config
    kind, suffix = _DEPTH_FILES[cls.NETWORK_DEPTH]
    return {split: f"{kind}/{folder}/{NAME}{suffix}" for split, folder in _FOLDERS.items()}

  @classmethod
  def network_depth_file(cls, dataset_config: Any, split: str, name: str) -> str:
    """As in the base class."""
    match = _NAME.fullmatch(name)
    if match is None:
      raise UserError(
        f"{name!r} is not named CITY_SSSSSS_FFFFFF, so the folder of its depth file is not known"
      )
    return super().network_depth_file(dataset_config, split, f"{match['city']}/{name}")

  @classmethod
  def recipe(cls, config: FrameConfig, split: str) -> preprocess.Recipe:
    """As in the base class."""
    return preprocess.Recipe(
      size=(config.height, config.width),
      image_filter=Image.Resampling.BILINEAR,
      label=preprocess.LabelIds(
        labels.label_table(labels.CITYSCAPES_IDS, config.classes, "Cityscapes"), LABEL_IDS
      ),
      resize_label=split != "validation",
      depth=_DEPTH_RECIPES[config.depth],
    )


def _place(files: DataFiles, kind: str, released: str, folder: str, suffix: str) -> Place:
  found = files.find_folder(f"{kind}/{folder}", f"{released}/{kind}/{folder}")
  return Place(files, found, suffix)


def _depth_place(files: DataFiles, config: FrameConfig, split: str) -> Place | None:
  if config.depth == "none":
    return None
  kind, suffix = _DEPTH_FILES[config.depth]
  folder = f"{kind}/{_FOLDERS[split]}"
  if split == "validation" and config.depth_root and not os.path.isdir(config.depth_root):
    return None  # no score needs it
  place = Place(depth_tree(files, config.depth_root), folder, suffix)
  if split != "validation":
    place.files.find_folder(folder)
  elif not place.files.list(folder, suffix, cities=True):
    return None
  return place


def _with_neighbours(
  files: DataFiles, frames: list[Frame], config: FrameConfig, folder: str
) -> list[Frame]:
  """The frames with their images `neighbour_offset` earlier and later in the sequence."""
  offsets = {"previous": -config.neighbour_offset, "next": config.neighbour_offset}
  offsets = {view: offset for view, offset in offsets.items() if view in config.views}
  if not offsets:
    return frames
  sequence = files.find_folder(f"{_SEQUENCE}/{folder}")
  found = files.list(sequence, _IMAGE, cities=True)

  def location(frame: Frame, offset: int) -> str:
    match = _NAME.fullmatch(frame.name)
    if match is None:
      raise UserError(
        f"{frame.image!r} is not named CITY_SSSSSS_FFFFFF{_IMAGE}, so its neighbours in time "
        "cannot be found: set views without previous and next"
      )
    name = f"{match['city']}/{match['clip']}{int(match['number']) + offset:06d}"
    return found.get(name, files.locate(f"{sequence}/{name}{_IMAGE}"))

  return [
    dataclasses.replace(frame, **{view: location(frame, by) for view, by in offsets.items()})
    for frame in frames
  ]
