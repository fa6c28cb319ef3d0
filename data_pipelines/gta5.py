"""GTA5: 24,966 frames of a game, of about 1914x1052 pixels, with the labels of Cityscapes."""

from PIL import Image

from corda_jax import labels
from data_pipelines import inverse_depth, preprocess
from data_pipelines.builder import FrameConfig, FramesBuilder
from data_pipelines.frames import Frame, find_directory, pair_frames


class Gta5(FramesBuilder):
  """`images/00001.png`, `labels/00001.png`, `disparity/00001.png`."""

  DEPTH_KINDS = ("disparity",)

  @classmethod
  def find_frames(cls, root: str, depth: str) -> dict[str, list[Frame]]:
    """See the base class."""
    images = find_directory(root, "images")
    label_ids = find_directory(root, "labels")
    depth_files = None if depth == "none" else (find_directory(root, "disparity"), ".png")
    return {"train": pair_frames((images, ".png"), (label_ids, ".png"), depth_files)}

  @classmethod
  def recipe(cls, config: FrameConfig, split: str) -> preprocess.Recipe:
    """See the base class."""
    return preprocess.Recipe(
      size=(config.height, config.width),
      image_filter=Image.Resampling.BICUBIC,
      label_table=labels.label_table(labels.CITYSCAPES_IDS, config.classes, "GTA5"),
      resize_label=True,
      depth=preprocess.DepthRecipe(
        read=preprocess.read_depth_png,
        encode=inverse_depth.from_disparity,
        resize=preprocess.resize_bilinear,
        any_size=True,
      ),
    )
