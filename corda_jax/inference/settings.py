"""Settings of --mode=predict."""

import dataclasses
from typing import ClassVar

from corda_jax.configuration import check_at_least, check_one_of, check_within

# Kinds of files written for an image. All but the first two need depth heads, or, but for the
# difficulty, a network that sees depth.
KINDS = ("overlay", "label", "inverse_depth", "inverse_depth_color", "difficulty")


@dataclasses.dataclass(frozen=True)
class Prediction:
  """Input, output and options of a prediction.

  Attributes:
    input: path of an image, a folder of images, or a video.
    output: output folder; "": predictions/NAME in the folder of the run.
    write: kinds of files written for each image: "overlay", class colours over the image; "label",
      label file; "inverse_depth", inverse depth Y as 256 (Y - 1) in 16 bits;
      "inverse_depth_color", inverse depth in colours; "difficulty", 0..1 in 8 bits with colours.
    label_ids: values of label files: "train", indices into the class list, or "cityscapes".
    overlay_opacity: opacity of the class colours, 0..1.
    height: input height of the network in pixels, with the width in proportion; 0:
      data.target.height, as in training; -1: height of the file. Maps always have the size of the
      file.
    image_filter: filter for resizing images, "bilinear" or "bicubic", or "opencv": bilinear without
      antialiasing, for networks whose frames were prepared so (`data.target.resampling`).
    tile_height: largest input height of the network in pixels; higher images are cut into tiles,
      each with a margin that is predicted and discarded. 0: no tiles along this axis. There are
      none where evaluation.window is set.
    tile_width: largest input width of the network in pixels; 0: no tiles along this axis.
    tile_margin: margin of the tiles in pixels.
    batch_size: number of images of one size predicted together, over all devices.
    depth_files: for networks that see depth: folder of the depth files that it was trained with,
      whose manifest says how they were made; the depth of each image is made in the same way. "":
      data.target.depth_root, or without that data.target.root.
    depth_weights: what made them: the folder of a run of the depth stage, or a file of Depth
      Anything.
    bad_files: "stop" at an image that cannot be read, or "skip" and report it.
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
  depth_files: str = ""
  depth_weights: str = ""
  bad_files: str = "stop"

  def __post_init__(self):
    if not self.write or any(kind not in KINDS for kind in self.write):
      raise ValueError(f"write is {self.write}, expected some of: {', '.join(KINDS)}")
    check_within(self, overlay_opacity=(0, 1))
    check_at_least(self, height=-1, tile_height=0, tile_width=0, tile_margin=0, batch_size=1)
    check_one_of(
      self,
      label_ids=("train", "cityscapes"),
      image_filter=("bilinear", "bicubic", "opencv"),
      bad_files=("stop", "skip"),
    )
