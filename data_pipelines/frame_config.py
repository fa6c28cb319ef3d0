"""What is prepared of a data set, and how."""

import dataclasses
import hashlib
import os
from typing import Any

import tensorflow_datasets as tfds

from corda_jax.errors import UserError
from corda_jax.labels import CITYSCAPES, ClassList


@dataclasses.dataclass(eq=False, kw_only=True)
class FrameConfig(tfds.core.BuilderConfig):
  """Where a data set is and how it is prepared.

  The name holds what decides the records' contents, so that every size and depth kind has a folder
  of its own.

  Attributes:
    root: folder of the data set's files.
    height: working resolution, pixels.
    width: working resolution, pixels.
    depth: which files hold the inverse depth, or "none".
    depth_root: folder of the depth files, laid out as below the root; "" is the root itself.
    classes: what the labels of the records tell apart.
    splits: to train on.
    views: images that records hold beside the frame's own: "right", "previous", "next".
    neighbour_offset: frames of the sequence to the previous and to the next one.
    bad_frames: "stop" at the first frame that cannot be used, or "skip" such frames.
    processes: that decode and resize; 0 is one a core.
    shard_frames: of a record file, which is what a stopped preparation goes on from.
    worker: of `workers`; prepares those shards whose number leaves this remainder.
    workers: that prepare the data set together.
    progress: whether to show a progress bar.
  """

  root: str
  height: int
  width: int
  depth: str
  depth_root: str = ""
  classes: ClassList = CITYSCAPES
  splits: tuple[str, ...] = ("train",)
  views: tuple[str, ...] = ()
  neighbour_offset: int = 1
  bad_frames: str = "stop"
  processes: int = 0
  shard_frames: int = 128
  worker: int = 0
  workers: int = 1
  progress: bool = True
  name: str = dataclasses.field(init=False)

  def __post_init__(self):
    """Makes the name."""
    parts = [f"{self.width}x{self.height}", self.depth, *self.views]
    if self.splits != ("train",):
      parts += self.splits
    if {"previous", "next"} & set(self.views):
      parts.append(f"by{self.neighbour_offset}")
    others = self.variant()
    if others:
      parts.append(hashlib.sha256(repr(others).encode()).hexdigest()[:8])
    self.name = "_".join(parts)

  def variant(self) -> tuple:
    """What else decides the records' contents, and is too long for a name."""
    parts = () if self.classes.names == CITYSCAPES.names else (self.classes.names,)
    if self.depth_root and self.depth != "none":
      parts += (("depth_root", os.path.normpath(self.depth_root)),)
    return parts


def check_config(config: FrameConfig, builder: Any) -> None:
  """Checks a configuration.

  Args:
    config: to be checked.
    builder: class of the data set, whose depth kinds, splits and views are wanted.

  Raises:
    UserError: a value is not one of those wanted.
  """
  for key, given, wanted in (
    ("depth", (config.depth,), (*builder.DEPTH_KINDS, "none")),
    ("splits", config.splits, builder.TRAINING_SPLITS),
    ("views", config.views, builder.VIEWS),
    ("bad_frames", (config.bad_frames,), ("stop", "skip")),
  ):
    unknown = [value for value in given if value not in wanted]
    if unknown and not wanted:
      raise UserError(
        f"{key} of {builder.name} is {unknown[0]!r}, but {builder.name} has none: leave "
        f"data.….{key} empty"
      )
    if unknown or len(set(given)) < len(given) or (key == "splits" and not given):
      told, how = (unknown[0], "one of") if unknown else (given, "each once of")
      raise UserError(f"{key} of {builder.name} is {told!r}, wanted {how} {', '.join(wanted)}")
  if min(config.height, config.width) < 1:
    raise UserError(f"size of {builder.name} is {config.width}x{config.height}, wanted 1x1 or more")
  for key, given, least in (
    ("prepare_processes", config.processes, 0),
    ("shard_frames", config.shard_frames, 1),
    ("neighbour_offset", config.neighbour_offset, 1),
    ("workers", config.workers, 1),
  ):
    if given < least:
      raise UserError(f"{key} is {given}, wanted {least} or more")
  if not 0 <= config.worker < config.workers:
    raise UserError(f"worker is {config.worker}, wanted 0..{config.workers - 1}")
