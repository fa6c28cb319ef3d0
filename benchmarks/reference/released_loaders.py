"""What the released CorDA loaders do for a sample, restated in NumPy, Pillow and OpenCV.

For `benchmarks.speed.input_pipeline`: every training sample decodes its files at full size, maps
labels class by class, resizes, crops, and becomes float32 in BGR with the channels' means
subtracted, as C H W. It makes no PyTorch tensors at the end, which makes it a little faster.
All results equal those of the released loaders.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import cv2
import numpy as np
import scipy.io
from PIL import Image

from corda_jax import labels
from data_pipelines.frames import Frame

_MEAN_BGR = np.array([104.00698793, 116.66876762, 122.67891434], np.float32)
_VOID = 250  # ignored pixels of the released Cityscapes labels


class Stopwatch:
  """Seconds of this thread's processor time, by part.

  Attributes:
    seconds: part → seconds, over all samples.
  """

  def __init__(self):
    """Starts all parts at zero."""
    self.seconds = defaultdict(float)

  @contextlib.contextmanager
  def __call__(self, part: str) -> Iterator[None]:
    """Adds the time of the block to a part."""
    start = time.thread_time()
    yield
    self.seconds[part] += time.thread_time() - start


def load_source(
  frame: Frame,
  dataset: str,
  *,
  size: tuple[int, int],
  crop: tuple[int, int],
  corner: tuple[int, int],
  watch: Stopwatch,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A sample of GTA5 or SYNTHIA: image (3, H, W), label and inverse depth (H, W), all float32.

  Args:
    frame: its files; SYNTHIA's labels as 8-bit files.
    dataset: "gta5" or "synthia".
    size: height and width to resize to.
    crop: height and width.
    corner: top and left of the crop, after resizing.
    watch: for the parts.
  """
  height, width = size
  with watch("decode the image"):
    image = Image.open(frame.image).convert("RGB")
  with watch("decode the label"):
    label = _open(frame.label)
  with watch("decode the depth"):
    values = cv2.imread(frame.depth, cv2.IMREAD_ANYDEPTH).astype(np.float32)
    depth = values / 256 + 1 if dataset == "gta5" else 655.36 / (values / 100 + np.float32(0.01))
  with watch("resize"):
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    label = label.resize((width, height), Image.Resampling.NEAREST)
    method = cv2.INTER_LINEAR if dataset == "gta5" else cv2.INTER_NEAREST
    depth = cv2.resize(depth, (width, height), interpolation=method)
    image, label = np.array(image), np.array(label)
  with watch("crop"):
    image, label, depth = _crop(image, label, depth, crop=crop, corner=corner)
  with watch("map the label"):
    table = labels.CITYSCAPES_TO_TRAIN if dataset == "gta5" else labels.SYNTHIA_TO_TRAIN
    mapped = np.full(label.shape, labels.IGNORE, np.float32)
    label = label.astype(np.float32)
    for label_id in np.flatnonzero(table != labels.IGNORE):
      mapped[label == label_id] = table[label_id]
  with watch("convert"):
    image = image.astype(np.float32)[:, :, ::-1]
    image -= _MEAN_BGR
    return image.transpose(2, 0, 1).copy(), mapped.copy(), depth


def load_target(
  frame: Frame,
  depth_kind: str,
  *,
  size: tuple[int, int],
  crop: tuple[int, int],
  corner: tuple[int, int],
  watch: Stopwatch,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A sample of Cityscapes: image and inverse depth float32, label int64.

  Args:
    frame: its files.
    depth_kind: "stereo" or "mono".
    size: height and width to resize to.
    crop: height and width.
    corner: top and left of the crop, after resizing.
    watch: for the parts.
  """
  with watch("decode the image"):
    image = np.array(_open(frame.image))
  with watch("decode the label"):
    label = np.array(_open(frame.label))
  with watch("map the label"):
    table = labels.CITYSCAPES_TO_TRAIN
    known = np.arange(34)
    for label_id in known[table[:34] == labels.IGNORE]:
      label[label == label_id] = _VOID
    for label_id in known[table[:34] != labels.IGNORE]:
      label[label == label_id] = table[label_id]
  with watch("decode the depth"):
    if depth_kind == "stereo":
      depth = np.clip(scipy.io.loadmat(frame.depth)["depth_map"], 0.0, 655.35)
      depth[depth < 0.1] = 655.35
      depth = 655.36 / (depth + 0.01)
    else:
      depth = cv2.imread(frame.depth, cv2.IMREAD_ANYDEPTH).astype(np.float32) / 256 + 1
      if depth.shape != label.shape:
        depth = np.asarray(
          Image.fromarray(depth).resize(label.shape[::-1], Image.Resampling.NEAREST)
        )
  with watch("resize"):
    arrays = (image, label, depth.astype(np.float32))
    filters = (Image.Resampling.BILINEAR, Image.Resampling.NEAREST, Image.Resampling.NEAREST)
    image, label, depth = (
      np.array(Image.fromarray(values).resize(size[::-1], kind))
      for values, kind in zip(arrays, filters, strict=True)
    )
  with watch("crop"):
    image, label, depth = _crop(image, label, depth, crop=crop, corner=corner)
  with watch("convert"):
    # As released: once more through Pillow, at the same size, with the classes counted before and
    # after, and without the ignored ones.
    image = np.array(Image.fromarray(image).resize(crop[::-1]))[:, :, ::-1].astype(np.float64)
    image -= _MEAN_BGR
    classes = np.unique(label)
    label = Image.fromarray(label.astype(np.float32)).resize(crop[::-1], Image.Resampling.NEAREST)
    label = np.array(label).astype(np.int64)
    depth = np.array(Image.fromarray(depth).resize(crop[::-1], Image.Resampling.NEAREST))
    assert (classes == np.unique(label)).all()
    assert (np.unique(label[label != _VOID]) < len(labels.CITYSCAPES)).all()
    return (
      image.transpose(2, 0, 1).astype(np.float32),
      label,
      depth.astype(np.float64).astype(np.float32),
    )


def _open(path: str) -> Image.Image:
  image = Image.open(path)
  image.load()
  return image


def _crop(image, label, depth, *, crop, corner):
  """Crops by way of Pillow, as released."""
  top, left = corner
  box = (left, top, left + crop[1], top + crop[0])
  return tuple(np.array(Image.fromarray(values).crop(box)) for values in (image, label, depth))
