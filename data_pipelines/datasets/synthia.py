"""SYNTHIA-RAND-CITYSCAPES: 9,400 rendered frames of 1280x760 pixels."""

from typing import ClassVar

from PIL import Image

from corda_jax import labels
from data_pipelines import inverse_depth, preprocess, readers, resizing
from data_pipelines.datasets.base import FramesBuilder
from data_pipelines.datasets.frame_config import FrameConfig
from data_pipelines.patterns import NAME

_NESTED = "RAND_CITYSCAPES/"  # the archive's own folder, if it is below the root


class Synthia(FramesBuilder):
  """`RGB/0000000.png`, labels, `Depth/Depth/0000000.png` or `disparity/0000000.png`.

  Labels are `synthia_mapped_to_cityscapes/0000000.png`, 8-bit, or else the original
  `GT/LABELS/0000000.png`, 16-bit with the class in the first channel; both hold SYNTHIA's ids. All
  may be in a folder `RAND_CITYSCAPES`.
  """

  BUILDER_CONFIGS: ClassVar = [
    FrameConfig(height=720, width=1280, depth="simulator")
  ]  # as released
  TITLE = "SYNTHIA"
  IMAGE_FILTER = Image.Resampling.BICUBIC
  LABEL_IDS = (labels.SYNTHIA_IDS, frozenset(range(23)))
  DEPTH_RECIPES: ClassVar = {
    "simulator": preprocess.DepthRecipe(
      read=readers.read_depth_png,
      encode=inverse_depth.from_centimetres,
      resize=resizing.resize_nearest_corner,
      any_size=False,
    ),
    "disparity": preprocess.NETWORK_DISPARITY,
  }
  NETWORK_DEPTH = "disparity"
  EXPECTED: ClassVar = {"train": 9_400}

  @classmethod
  def patterns(cls, config: FrameConfig, split: str) -> dict[str, tuple[str, ...]]:
    """As in the base class."""
    del split
    folders = {"image": ("RGB",), "label": ("synthia_mapped_to_cityscapes", "GT/LABELS")}
    folders["depth"] = ("Depth/Depth" if config.depth == "simulator" else "disparity",)
    return {
      kind: tuple(f"{nested}{name}/{NAME}.png" for nested in ("", _NESTED) for name in names)
      for kind, names in folders.items()
    }
