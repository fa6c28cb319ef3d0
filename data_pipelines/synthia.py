"""SYNTHIA-RAND-CITYSCAPES: 9,400 rendered frames of 1280x760 pixels."""

from PIL import Image

from corda_jax import labels
from data_pipelines import inverse_depth, preprocess
from data_pipelines.builder import FrameConfig, FramesBuilder
from data_pipelines.frames import Frame, find_directory, pair_frames


class Synthia(FramesBuilder):
  """`RGB/0000000.png`, labels, `Depth/Depth/0000000.png`.

  Labels are `synthia_mapped_to_cityscapes/0000000.png`, 8-bit, or else the original
  `GT/LABELS/0000000.png`, 16-bit with the class in the first channel; both hold SYNTHIA's ids.
  """

  DEPTH_KINDS = ("simulator",)

  @classmethod
  def find_frames(cls, root: str, depth: str) -> dict[str, list[Frame]]:
    """See the base class."""
    images = find_directory(root, "RGB")
    label_ids = find_directory(root, "synthia_mapped_to_cityscapes", "GT/LABELS")
    depth_files = None if depth == "none" else (find_directory(root, "Depth/Depth"), ".png")
    return {"train": pair_frames((images, ".png"), (label_ids, ".png"), depth_files)}

  @classmethod
  def recipe(cls, config: FrameConfig, split: str) -> preprocess.Recipe:
    """See the base class."""
    return preprocess.Recipe(
      size=(config.height, config.width),
      image_filter=Image.Resampling.BICUBIC,
      label_table=labels.label_table(labels.SYNTHIA_IDS, config.classes, "SYNTHIA"),
      resize_label=True,
      depth=preprocess.DepthRecipe(
        read=preprocess.read_depth_png,
        encode=inverse_depth.from_centimetres,
        resize=preprocess.resize_nearest_corner,
        any_size=False,
      ),
    )
