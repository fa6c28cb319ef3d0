"""GTA5: 24,966 frames of a game, of about 1914x1052 pixels, with the labels of Cityscapes."""

from typing import Any, ClassVar

from PIL import Image

from corda_jax import labels
from data_pipelines import inverse_depth, preprocess, readers
from data_pipelines.datasets.base import FrameConfig, FramesBuilder
from data_pipelines.patterns import NAME

# Those of Cityscapes; the game's table gives licence plates an id of their own, 34.
LABEL_IDS = frozenset((*range(35), 255))


class Gta5(FramesBuilder):
  """`images/00001.png`, `labels/00001.png`, `disparity/00001.png`."""

  BUILDER_CONFIGS: ClassVar = [
    FrameConfig(height=720, width=1280, depth="disparity")
  ]  # as released
  DEPTH_KINDS = ("disparity",)
  NETWORK_DEPTH = "disparity"
  EXPECTED: ClassVar = {"train": 24_966}

  @classmethod
  def patterns(cls, config: FrameConfig, split: str) -> dict[str, tuple[str, ...]]:
    """As in the base class."""
    del config, split
    kinds = {"image": "images", "label": "labels", "depth": "disparity"}
    return {kind: (f"{folder}/{NAME}.png",) for kind, folder in kinds.items()}

  @classmethod
  def network_depth_patterns(cls, dataset_config: Any) -> dict[str, str]:
    """As in the base class."""
    del dataset_config
    return {"train": f"disparity/{NAME}.png"}

  @classmethod
  def recipe(cls, config: FrameConfig, split: str) -> preprocess.Recipe:
    """As in the base class."""
    return preprocess.Recipe(
      size=(config.height, config.width),
      image_filter=Image.Resampling.BICUBIC,
      label=preprocess.LabelIds(
        labels.label_table(labels.CITYSCAPES_IDS, config.classes, "GTA5"), LABEL_IDS
      ),
      resize_label=True,
      depth=preprocess.DepthRecipe(
        read=readers.read_depth_png,
        encode=inverse_depth.from_disparity,
        resize=preprocess.resize_bilinear,
        any_size=True,
      ),
    )
