"""Cityscapes: 2,975 frames to train on and 500 to validate, of 2048x1024 pixels."""

from pathlib import Path

from PIL import Image

from corda_jax import labels
from data_pipelines import inverse_depth, preprocess
from data_pipelines.builder import FrameConfig, FramesBuilder
from data_pipelines.frames import Frame, find_directory, list_files, pair_frames

_FOLDERS = {"train": "train", "validation": "val"}
_IMAGE = "_leftImg8bit.png"
_LABEL = "_gtFine_labelIds.png"

# Depth kind → folder and suffix of its files.
_DEPTH_FILES = {
  "mono": ("disparity", _IMAGE),  # the official `*_disparity.png` there are something else
  "stereo": ("depth", "_depth_stereoscopic.mat"),
}

_DEPTH_RECIPES = {
  "mono": preprocess.DepthRecipe(
    read=preprocess.read_depth_png,
    encode=inverse_depth.from_disparity,
    resize=preprocess.resize_nearest_center,
    any_size=True,
  ),
  "stereo": preprocess.DepthRecipe(
    read=preprocess.read_depth_mat,
    encode=inverse_depth.from_stereo_metres,
    resize=preprocess.resize_nearest_center,
    any_size=False,
  ),
  "none": None,
}


class Cityscapes(FramesBuilder):
  """`leftImg8bit/{train,val}/CITY/…`, `gtFine/…`, `disparity/…` (mono) or `depth/…` (stereo).

  As the archives unpack, or in the released tree, where `leftImg8bit_trainvaltest/` and
  `gtFine_trainvaltest/` hold the first two. Validation labels keep the size of their files, at
  which the benchmark scores; validation has depth where there are files of it.
  """

  DEPTH_KINDS = ("mono", "stereo")
  NATIVE_LABEL_SPLITS = ("validation",)

  @classmethod
  def find_frames(cls, root: str, depth: str) -> dict[str, list[Frame]]:
    """See the base class."""
    splits = {}
    for split, folder in _FOLDERS.items():
      images = find_directory(
        root, f"leftImg8bit/{folder}", f"leftImg8bit_trainvaltest/leftImg8bit/{folder}"
      )
      label_ids = find_directory(root, f"gtFine/{folder}", f"gtFine_trainvaltest/gtFine/{folder}")
      depth_files = None
      if depth != "none":
        kind, suffix = _DEPTH_FILES[depth]
        if split == "train":
          depth_files = (find_directory(root, f"{kind}/{folder}"), suffix)
        else:
          place = (Path(root) / kind / folder, suffix)
          depth_files = place if list_files(*place, cities=True) else None
      splits[split] = pair_frames((images, _IMAGE), (label_ids, _LABEL), depth_files, cities=True)
    return splits

  @classmethod
  def recipe(cls, config: FrameConfig, split: str) -> preprocess.Recipe:
    """See the base class."""
    return preprocess.Recipe(
      size=(config.height, config.width),
      image_filter=Image.Resampling.BILINEAR,
      label_table=labels.label_table(labels.CITYSCAPES_IDS, config.classes, "Cityscapes"),
      resize_label=split not in cls.NATIVE_LABEL_SPLITS,
      depth=_DEPTH_RECIPES[config.depth],
    )
