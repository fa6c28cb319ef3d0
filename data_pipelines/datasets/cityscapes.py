"""Cityscapes: 2,975 training frames, 500 for validation, 19,998 unlabelled; 2048x1024 pixels."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image

from corda_jax import labels
from corda_jax.errors import UserError
from data_pipelines import inverse_depth, preprocess, readers, resizing
from data_pipelines.archives import DataFiles
from data_pipelines.datasets.base import FramesBuilder
from data_pipelines.datasets.frame_config import FrameConfig
from data_pipelines.frames import FoundFrames, Frame
from data_pipelines.patterns import NAME

_FOLDERS = {"train": "train", "train_extra": "train_extra", "validation": "val"}
_IMAGE = "_leftImg8bit.png"
_LABEL = "_gtFine_labelIds.png"
_NAME = re.compile(r"(?P<clip>(?P<city>.+)_\d{6}_)(?P<number>\d{6})")
_SEQUENCE = "leftImg8bit_sequence"

# Depth kind → folder and suffix of its files.
_DEPTH_FILES = {
  "mono": ("disparity", _IMAGE),  # in the same folder as the official ones, which differ
  "stereo": ("depth", "_depth_stereoscopic.mat"),
  "official": ("disparity", "_disparity.png"),
}

_DEPTH_RECIPES = {
  "mono": preprocess.DepthRecipe(
    read=readers.read_depth_png,
    encode=inverse_depth.from_disparity,
    resize=resizing.resize_nearest_center,
    any_size=True,
  ),
  "stereo": preprocess.DepthRecipe(
    read=readers.read_depth_mat,
    encode=inverse_depth.from_stereo_metres,
    resize=resizing.resize_nearest_center,
    any_size=False,
  ),
  "official": preprocess.DepthRecipe(
    read=readers.read_depth_png,
    encode=inverse_depth.from_official_disparity,
    resize=resizing.resize_nearest_center,
    any_size=False,
    needs_camera=True,
  ),
}


class Cityscapes(FramesBuilder):
  """`leftImg8bit/{train,val}/CITY/…`, `gtFine/…`, and depth files by kind.

  The layout is that of the archives or of the release, which keeps the first two in
  `leftImg8bit_trainvaltest/` and `gtFine_trainvaltest/`. Validation labels keep the size of their
  files, at which the benchmark scores; validation has depth where depth files exist. `train_extra`
  has no fine labels.
  """

  BUILDER_CONFIGS: ClassVar = [FrameConfig(height=512, width=1024, depth="stereo")]  # as released
  TITLE = "Cityscapes"
  IMAGE_FILTER = Image.Resampling.BILINEAR
  # 255: licence plates, which are -1 in the tables.
  LABEL_IDS = (labels.CITYSCAPES_IDS, frozenset((*range(34), 255)))
  DEPTH_RECIPES = _DEPTH_RECIPES
  NETWORK_DEPTH = "mono"
  TRAINING_SPLITS = ("train", "train_extra")
  HAS_VALIDATION = True
  VIEWS = ("right", "previous", "next")
  EXPECTED: ClassVar = {"train": 2_975, "train_extra": 19_998, "validation": 500}

  @classmethod
  def patterns(cls, config: FrameConfig, split: str) -> dict[str, tuple[str, ...]]:
    """As in the base class; {name} includes the city's folder."""

    def of(kind: str, suffix: str, released: str = "") -> tuple[str, ...]:
      path = f"{kind}/{_FOLDERS[split]}/{NAME}{suffix}"
      return (path, f"{released}/{path}") if released else (path,)

    patterns = {"image": of("leftImg8bit", _IMAGE, "leftImg8bit_trainvaltest")}
    if split != "train_extra":
      patterns["label"] = of("gtFine", _LABEL, "gtFine_trainvaltest")
    if config.depth != "none":
      patterns["depth"] = of(*_DEPTH_FILES[config.depth])
    if "right" in config.views:
      patterns["right"] = of("rightImg8bit", "_rightImg8bit.png")
    if config.views or config.depth == "official":
      patterns["camera"] = of("camera", "_camera.json")
    return patterns

  @classmethod
  def trees(cls, files, config, split, patterns):
    """As in the base class; without views, the camera is read only for depth."""
    patterns, trees = super().trees(files, config, split, patterns)
    if not config.views and "depth" not in patterns:
      patterns.pop("camera", None)
    return patterns, trees

  @classmethod
  def find_frames(cls, files: DataFiles, config: FrameConfig) -> FoundFrames:
    """As in the base class, with neighbours from the sequence."""
    found = super().find_frames(files, config)
    by = {"previous": -config.neighbour_offset, "next": config.neighbour_offset}
    offsets = {view: by[view] for view in by if view in config.views}
    splits = {
      split: [_with_neighbours(files, frame, _FOLDERS[split], offsets) for frame in frames]
      for split, frames in found.splits.items()
    }
    return dataclasses.replace(found, splits=splits)

  @classmethod
  def network_depth_patterns(cls, dataset_config: Any) -> dict[str, str]:
    """As in the base class; {name} includes the city's folder."""
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


def _with_neighbours(
  files: DataFiles, frame: Frame, folder: str, offsets: Mapping[str, int]
) -> Frame:
  """The frame with neighbours from the sequence; `offsets` maps views to distances in frames."""
  match = _NAME.fullmatch(frame.name)
  if offsets and match is None:
    raise UserError(
      f"{frame.image!r} is not named CITY_SSSSSS_FFFFFF{_IMAGE}, so its neighbours in time "
      "cannot be found: set views without previous and next"
    )

  def location(offset: int) -> str:
    name = f"{match['clip']}{int(match['number']) + offset:06d}{_IMAGE}"
    return files.locate(f"{_SEQUENCE}/{folder}/{match['city']}/{name}")

  return dataclasses.replace(frame, **{view: location(by) for view, by in offsets.items()})
