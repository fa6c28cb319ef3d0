"""GTA5: 24,966 frames of a game, of about 1914x1052 pixels, with the labels of Cityscapes."""

from typing import ClassVar

from PIL import Image

from corda_jax import labels
from data_pipelines import preprocess
from data_pipelines.datasets.base import FramesBuilder
from data_pipelines.datasets.frame_config import FrameConfig
from data_pipelines.patterns import NAME


class Gta5(FramesBuilder):
  """`images/00001.png`, `labels/00001.png`, `disparity/00001.png`."""

  BUILDER_CONFIGS: ClassVar = [
    FrameConfig(height=720, width=1280, depth="disparity")
  ]  # as released
  TITLE = "GTA5"
  IMAGE_FILTER = Image.Resampling.BICUBIC
  # Those of Cityscapes; in the game's table, licence plates have their own id, 34.
  LABEL_IDS = (labels.CITYSCAPES_IDS, frozenset((*range(35), 255)))
  DEPTH_RECIPES: ClassVar = {"disparity": preprocess.NETWORK_DISPARITY}
  NETWORK_DEPTH = "disparity"
  EXPECTED: ClassVar = {"train": 24_966}

  @classmethod
  def patterns(cls, config: FrameConfig, split: str) -> dict[str, tuple[str, ...]]:
    """As in the base class."""
    del config, split
    kinds = {"image": "images", "label": "labels", "depth": "disparity"}
    return {kind: (f"{folder}/{NAME}.png",) for kind, folder in kinds.items()}
