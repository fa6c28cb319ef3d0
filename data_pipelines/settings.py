"""Settings of the data: where frames are, how they are prepared, how batches are cut."""

import dataclasses
from typing import Any

from corda_jax.configuration import check_at_least, check_one_of, check_subset, check_within, free

VIEWS = ("right", "previous", "next")


@dataclasses.dataclass(frozen=True)
class Classes:
  """What the network distinguishes. Labels of other classes are ignored.

  Attributes:
    names: ("road", "car", …), with the known data sets any of the 19 classes of Cityscapes, in any
      order; empty: those 19.
    colors: ((128, 64, 128), (0, 0, 142), …) RGB in pictures; empty: made from the names.
  """

  names: tuple[str, ...] = ()
  colors: tuple[Any, ...] = free(())


@dataclasses.dataclass(frozen=True)
class FolderSplit:
  """Files of one split of your own, as patterns below the data set's `root`; "": there are none.

  {name} stands for what is the same in the names of a frame's files, with the folders between, if
  there are any; or {clip} and {frame} do, where every clip has a folder of its own:
  "{clip}/image_2/{frame}.png".

  Attributes:
    images: "train/images/{name}.jpg"; "" in validation: the set is not evaluated on.
    labels: PNG of one channel or of colours; a target needs them in validation only.
    depth: of the kind that the data set's `depth` names, below `depth_root`; validation needs none.
    list: a text file that names the split's frames, one a line, where the pattern matches more; "":
      all that match.
    right: of `views`.
    previous: of `views`; "" where `images` are the frames of videos, numbered by the end of their
      names.
    next: likewise.
    camera: calibration that views and disparities need: JSON as Cityscapes has it, or KITTI's
      calib.txt or calib_cam_to_cam.txt; one of a clip ("{clip}/calib.txt") or of all frames.
  """

  images: str = ""
  labels: str = ""
  depth: str = ""
  list: str = ""
  right: str = ""
  previous: str = ""
  next: str = ""
  camera: str = ""


@dataclasses.dataclass(frozen=True)
class FolderCamera:
  """One camera for all frames, instead of files.

  Attributes:
    intrinsics: (fx, fy, cx, cy) in pixels of the files, the first pixel's centre at 0.
    baseline: metres between left and right.
  """

  intrinsics: tuple[float, ...] = ()
  baseline: float = 0.0


@dataclasses.dataclass(frozen=True)
class Folder:
  """Your own files; read where `dataset` is "folder" (docs/your_data.md).

  Attributes:
    train: files that are trained on.
    validation: files that are evaluated on.
    shared_images: whether validation may have images that are also trained on, without their
      labels.
    label_classes: ((7, "road"), (26, "car"), (0, "")): label id in the files, class; "" ignores it,
      and several ids may share a class. Colours: (((128, 64, 128), "road"), …). ("cityscapes",):
      the ids of Cityscapes. Empty: an id is a place in data.classes. 255 is ignored.
    other_labels: "refuse" or "ignore" labels that are not among them.
    metres_per_unit: of 16-bit metric depth, "metres_png16".
    image_filter: resizes the images, "bilinear" or "bicubic".
    camera: instead of files.
  """

  train: FolderSplit = FolderSplit()
  validation: FolderSplit = FolderSplit()
  shared_images: bool = False
  label_classes: tuple[Any, ...] = ()
  other_labels: str = "refuse"
  metres_per_unit: float = 0.01
  image_filter: str = "bilinear"
  camera: FolderCamera = FolderCamera()


@dataclasses.dataclass(frozen=True)
class Frames:
  """One data set. What depends on which one it is, is checked when it is opened.

  Attributes:
    dataset: "gta5", "synthia", "cityscapes" or "folder", your own files (docs/your_data.md).
    root: the files, the data set's zip archives, or both.
    height: working resolution, pixels.
    width: likewise.
    depth: which files hold the inverse depth. gta5: "disparity"; synthia: "simulator" or
      "disparity"; cityscapes: "stereo", "mono" or "official" (the data set's own disparity);
      folder: "inverse_png16" (16-bit, Y = x / 256 + 1), "metres_png16", "metres_npy", "metres_mat",
      "kitti_depth_png16" (metres times 256), or the disparity of stereo pairs in pixels,
      "disparity_png16" (times 256, as KITTI has it), "disparity_npy" or "disparity_pfm"; "none" for
      any. Validation needs no depth.
    depth_root: folder of the depth files, laid out as they would be below `root`; "": `root`.
    splits: to train on; cityscapes also has "train_extra", without labels.
    views: images that training's records hold beside the frame's own; cityscapes, folder: "right",
      "previous", "next".
    neighbour_offset: frames of the sequence (17 a second) to the previous and to the next one; a
      snippet has 30 frames, and the labelled one is number 19: 1..10.
    folder: your own files.
  """

  dataset: str = "gta5"
  root: str = free("data/gta")
  height: int = 720
  width: int = 1280
  depth: str = "disparity"
  depth_root: str = free("")
  splits: tuple[str, ...] = ("train",)
  views: tuple[str, ...] = ()
  neighbour_offset: int = 1
  folder: Folder = Folder()

  def __post_init__(self):
    if not self.splits or not all(isinstance(x, str) and x.strip() for x in self.splits):
      raise ValueError(f"splits is {self.splits}, expected names, such as ('train',)")
    check_subset(self, views=VIEWS)


@dataclasses.dataclass(frozen=True)
class StreetWorld:
  """The procedural world: if enabled, roots that do not exist are rendered first.

  Attributes:
    enabled: whether.
    seed: of the world.
    gap: how far the target's look is from the source's, 0 (alike) to 2.
    source_frames: frames of the source.
    target_frames: frames of the target that are trained on.
    validation_frames: frames of the target with labels.
    source_height: pixels of the files.
    source_width: likewise.
    target_height: likewise.
    target_width: likewise.
  """

  enabled: bool = False
  seed: int = 0
  gap: float = 1.0
  source_frames: int = 600
  target_frames: int = 600
  validation_frames: int = 100
  source_height: int = 64
  source_width: int = 128
  target_height: int = 64
  target_width: int = 128

  def __post_init__(self):
    check_within(self, gap=(0, 2))


@dataclasses.dataclass(frozen=True)
class Data:
  """Where the frames are, how they are prepared, how batches are cut.

  Attributes:
    records_dir: prepared records, one folder a data set, size and depth kind.
    classes: what the network distinguishes.
    source: labelled.
    target: unlabelled; the depth stage's only one.
    crop_height: pixels, cut at a random place from every frame.
    crop_width: likewise.
    batch_size: pairs of a source and a target crop a step (depth stage: crops), over all devices.
    evaluation_batch_size: frames, over all devices.
    bad_frames: "stop" or "skip": what preparation does with a frame that it cannot read.
    prepare_processes: processes that decode and resize; 0: one a core.
    beam_options: Apache Beam prepares instead, on many machines: ("--runner=…", …), its own
      options.
    reader_threads: threads that read, decode and crop in training; 0: one a core.
    street_world: the procedural world.
  """

  records_dir: str = free("data/records")
  classes: Classes = Classes()
  source: Frames = Frames()
  target: Frames = Frames(
    dataset="cityscapes", root="data/CityScapes", height=512, width=1024, depth="stereo"
  )
  crop_height: int = 512
  crop_width: int = 512
  batch_size: int = 2
  evaluation_batch_size: int = free(2)
  bad_frames: str = "stop"
  prepare_processes: int = free(0)
  beam_options: tuple[str, ...] = free(())
  reader_threads: int = free(0)
  street_world: StreetWorld = StreetWorld()

  def __post_init__(self):
    check_at_least(
      self, batch_size=1, evaluation_batch_size=1, prepare_processes=0, reader_threads=0
    )
    check_one_of(self, bad_frames=("stop", "skip"))
