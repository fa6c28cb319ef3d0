"""Where a data set is and how its records are made: the configuration of its builder."""

import dataclasses
import hashlib
import os

import tensorflow_datasets as tfds

from corda_jax.labels import CITYSCAPES, ClassList


@dataclasses.dataclass(eq=False, kw_only=True)
class FrameConfig(tfds.core.BuilderConfig):
  """Where a data set is and how it is prepared.

  The name encodes everything that determines the records' contents, so that every size and depth
  kind has its own folder.

  Attributes:
    root: folder of the data set's files; "": TFDS's manual download folder.
    height: rows of the records' images, the working resolution.
    width: columns of the records' images.
    depth: kind of the files that hold depth, or "none".
    depth_root: folder of the depth files, laid out as below the root; "" is the root itself.
    classes: classes of the records' labels.
    splits: splits that are prepared: those to train on, or validation alone.
    views: images that records hold beside the frame's own: "right", "previous", "next".
    neighbour_offset: distance of the previous and the next image, in frames of the sequence.
    resampling: library that resizes images and labels, "pillow" or "opencv".
    bad_frames: "stop" at the first frame that cannot be used, or "skip" such frames.
    processes: number of processes that decode and resize; 0: one per core.
    shard_frames: number of frames per record file.
    progress: whether to show a progress bar.
  """

  root: str = ""
  height: int
  width: int
  depth: str
  depth_root: str = ""
  classes: ClassList = CITYSCAPES
  splits: tuple[str, ...] = ("train",)
  views: tuple[str, ...] = ()
  neighbour_offset: int = 1
  resampling: str = "pillow"
  bad_frames: str = "stop"
  processes: int = 0
  shard_frames: int = 128  # about 300 MB at 1280x720
  progress: bool = True
  name: str = dataclasses.field(init=False)

  def __post_init__(self):
    """Makes the name."""
    parts = [f"{self.width}x{self.height}", self.depth, *self.views]
    if self.splits != ("train",):
      parts += self.splits
    if not self.root:
      parts.append("manual")
    if {"previous", "next"} & set(self.views):
      parts.append(f"by{self.neighbour_offset}")
    if self.resampling != "pillow":
      parts.append(self.resampling)
    others = self.variant()
    if others:
      parts.append(hashlib.sha256(repr(others).encode()).hexdigest()[:8])
    self.name = "_".join(parts)

  def variant(self) -> tuple:
    """What else determines the records' contents; the name has its hash."""
    parts = () if self.classes.names == CITYSCAPES.names else (self.classes.names,)
    if self.depth_root and self.depth != "none":
      parts += (("depth_root", os.path.normpath(self.depth_root)),)
    return parts
