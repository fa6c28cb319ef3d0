"""Settings of --mode=predict."""

import dataclasses
from typing import ClassVar

from corda_jax.configuration import check_at_least, check_one_of, check_within

# What is written of an image; all but the first two need depth heads.
KINDS = ("overlay", "label", "inverse_depth", "inverse_depth_color", "difficulty")


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What is predicted, how, and what is written.

  Attributes:
    input: an image, a folder of images, or a video.
    output: folder; "": predictions/NAME in that of the run.
    write: of each image: the classes' colours over it; its label file; inverse depth Y in 16 bits,
      256 (Y - 1), and in colours; difficulty, 0..1, in 8 bits with colours.
    label_ids: in label files: "train", places in the class list, or "cityscapes".
    overlay_opacity: 0..1.
    height: rows that the network sees, columns in proportion; 0: data.target.height, as it was
      trained; -1: those of the file. Maps have the file's size in any case.
    image_filter: resizes images, "bilinear" or "bicubic".
    tile_height: most pixels that the network sees at once; larger images are cut into tiles, each
      with a margin that is predicted and not kept. 0: no tiles along that axis.
    tile_width: likewise.
    tile_margin: pixels.
    batch_size: images of one size predicted together, over all devices.
    bad_files: "stop", or "skip" images that cannot be read, and report them.
  """

  free: ClassVar[bool] = True

  input: str = ""
  output: str = ""
  write: tuple[str, ...] = KINDS
  label_ids: str = "train"
  overlay_opacity: float = 0.5
  height: int = 0
  image_filter: str = "bilinear"
  tile_height: int = 1024
  tile_width: int = 2048
  tile_margin: int = 128
  batch_size: int = 1
  bad_files: str = "stop"

  def __post_init__(self):
    if not self.write or any(kind not in KINDS for kind in self.write):
      raise ValueError(f"write is {self.write}, expected some of: {', '.join(KINDS)}")
    check_within(self, overlay_opacity=(0, 1))
    check_at_least(self, height=-1, tile_height=0, tile_width=0, tile_margin=0, batch_size=1)
    check_one_of(
      self,
      label_ids=("train", "cityscapes"),
      image_filter=("bilinear", "bicubic"),
      bad_files=("stop", "skip"),
    )
