"""Settings of the data: where frames are, how they are prepared, how batches are cut."""

import dataclasses
from typing import Any

from corda_jax.configuration import (
  check_above,
  check_at_least,
  check_one_of,
  check_subset,
  check_within,
  free,
)

VIEWS = ("right", "previous", "next")
RESAMPLING = ("pillow", "opencv")


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
  """Files of one split of your own, as patterns below the data set's `root`; "" for no files.

  {name} is the part that the paths of a frame's files share, including folders in between. {clip}
  and {frame} replace it where every clip has its own folder: "{clip}/image_2/{frame}.png".

  Attributes:
    images: images, such as "train/images/{name}.jpg"; "" in validation: there is no evaluation.
    labels: PNG files of one channel or of colours; a target needs them in validation only.
    depth: files of the kind that the data set's `depth` names, below `depth_root`; validation needs
      none.
    list: a text file that names the split's frames, one a line, where the pattern matches more; "":
      all that match.
    right: right images, where `views` has "right".
    previous: previous images, where `views` has "previous"; "" where `images` are the frames of
      videos, numbered by the end of their names.
    next: next images, where `views` has "next"; "" as for `previous`.
    camera: calibration files, which views and disparities need: Cityscapes' JSON, or KITTI's
      calib.txt or calib_cam_to_cam.txt; one per frame, per clip ("{clip}/calib.txt") or for all.
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
    baseline: distance between the left and the right camera, metres.
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
      the ids of Cityscapes. Empty: an id is an index into data.classes. 255 is ignored.
    other_labels: "refuse" or "ignore", for labels that are not among them.
    metres_per_unit: metres per unit of 16-bit metric depth, "metres_png16".
    image_filter: filter that resizes the images, "bilinear" or "bicubic", where `resampling` is
      "pillow".
    camera: one camera for all frames, instead of files.
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
class RareClasses:
  """Sampling of frames by the classes that they show, the rare ones more often, as in DAFormer.

  A class c is sampled by P(c) = softmax((1 - f_c) / temperature), f_c its share of all labelled
  pixels, then one of the frames that show it, then a crop. Frames no longer come in epochs.

  Attributes:
    enabled: whether frames are sampled so; otherwise each is seen once an epoch.
    temperature: the lower, the more the rarest classes prevail.
    min_pixels: a frame shows a class with more than this number of pixels, at the size of the
      label's file. A class without such a frame is not sampled.
    min_crop_ratio: a crop must show more than `min_pixels` times this of the class, in pixels of
      the working resolution.
    tries: number of crops that are tested; if none passes, the next one is taken unseen.
  """

  enabled: bool = False
  temperature: float = 0.01
  min_pixels: int = 3000
  min_crop_ratio: float = 0.5
  tries: int = 10

  def __post_init__(self):
    check_above(self, temperature=0)
    check_at_least(self, min_pixels=0, min_crop_ratio=0, tries=0)


@dataclasses.dataclass(frozen=True)
class Frames:
  """One data set. Values that depend on the data set are checked when it is opened.

  Attributes:
    dataset: "gta5", "synthia", "cityscapes" or "folder", your own files (docs/your_data.md).
    root: folder of the files, the data set's zip archives, or both.
    height: rows of the records' images, the working resolution.
    width: columns of the records' images.
    depth: which files hold the inverse depth. gta5: "disparity"; synthia: "simulator" or
      "disparity"; cityscapes: "stereo", "mono" or "official" (the data set's own disparity);
      folder: "inverse_png16" (16-bit, Y = x / 256 + 1), "metres_png16", "metres_npy", "metres_mat",
      "kitti_depth_png16" (metres times 256), or the disparity of stereo pairs in pixels,
      "disparity_png16" (times 256, as in KITTI), "disparity_npy" or "disparity_pfm"; "none" for
      any. Validation needs no depth.
    depth_root: folder of the depth files, laid out as they would be below `root`; "": `root`.
    splits: splits to train on; cityscapes also has "train_extra", without labels.
    views: images that training's records hold beside the frame's own; cityscapes, folder: "right",
      "previous", "next".
    neighbour_offset: distance of the previous and the next image, in frames of the sequence (17 a
      second); a snippet has 30 frames, and the labelled one is number 19: 1..10.
    folder: your own files.
    resampling: library that resizes images and labels. "pillow": images by a filter with
      antialiasing, bicubic (gta5, synthia) or bilinear (cityscapes), labels by the pixel under the
      centre, as released with CorDA. "opencv": images by bilinear interpolation without
      antialiasing, labels by the pixel up and left of the centre, as released with DAFormer.
    rare_classes: sampling of frames by the classes that they show; the source's only.
    max_class_share: a crop shows several classes, the largest with less than this share of the
      labelled pixels; 1: any crop. The source's only.
    crop_tries: number of crops that are tested; if none passes, the next one is taken unseen.
    flip: whether half of the crops, at random, are mirrored left-right; not with views.
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
  resampling: str = "pillow"
  rare_classes: RareClasses = RareClasses()
  max_class_share: float = 1.0
  crop_tries: int = 10
  flip: bool = False

  def __post_init__(self):
    if not self.splits or not all(isinstance(x, str) and x.strip() for x in self.splits):
      raise ValueError(f"splits is {self.splits}, expected names, such as ('train',)")
    check_subset(self, views=VIEWS)
    check_one_of(self, resampling=RESAMPLING)
    check_within(self, max_class_share=(0, 1))
    check_at_least(self, crop_tries=0)
    if self.flip and self.views:
      raise ValueError(
        f"flip is True, but views are {self.views}, and a mirrored view needs a mirrored camera: "
        "set flip to False"
      )


@dataclasses.dataclass(frozen=True)
class StreetWorld:
  """The procedural world: if enabled, roots that do not exist are rendered first.

  Attributes:
    enabled: whether to render.
    seed: seed of the world.
    gap: how far the target's look is from the source's, 0 (alike) to 2.
    source_frames: frames of the source.
    target_frames: frames of the target that are trained on.
    validation_frames: frames of the target with labels.
    source_height: rows of the source's files, pixels.
    source_width: columns of the source's files, pixels.
    target_height: rows of the target's files, pixels.
    target_width: columns of the target's files, pixels.
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
    source: the labelled data set.
    target: the unlabelled data set; the depth stage's only one.
    crop_height: rows of a crop, which is cut at a random place from every frame.
    crop_width: columns of a crop.
    batch_size: pairs of a source and a target crop per step (depth stage: crops), over all devices.
    evaluation_batch_size: frames per evaluation batch, over all devices.
    bad_frames: "stop" or "skip": what preparation does with a frame that it cannot read.
    prepare_processes: processes that decode and resize; 0: one per core.
    beam_options: options of Apache Beam, ("--runner=…", …), which then prepares instead, on many
      machines.
    reader_threads: threads that read, decode and crop in training; 0: one per core.
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
    if self.target.rare_classes.enabled or self.target.max_class_share < 1:
      name = "rare_classes.enabled" if self.target.rare_classes.enabled else "max_class_share"
      raise ValueError(
        f"target.{name} is set, but training must not read the target's labels: set it for the "
        "source only"
      )
