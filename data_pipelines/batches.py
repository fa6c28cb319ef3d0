"""Records → batches of NumPy arrays, decoded by several threads.

Training samples are numbered from 0 without end: batch k of B samples holds the numbers
k B … k B + B - 1, and process p of P reads its P-th part of them. Sample g of a set with n records
is record permutation(g mod n) of epoch g div n; each epoch has a permutation of its own, and the
crop is drawn from g. So a batch depends on the seed and on k alone: resuming is starting at another
k, and the number of processes and of threads changes nothing. Source and target each count their
own epochs.
"""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from data_pipelines.builder import FramesBuilder
from data_pipelines.prepare import open_records
from data_pipelines.record_encodings import packed_shape, unpack_all
from data_pipelines.records import Records, parse

READY_BATCHES = 4  # made ahead of the training step, besides those that are being made


def train_batches(
  data_config: Any,
  *,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields this process's part of the batches `start_step`, `start_step` + 1, … without end.

  With b = batch_size / process_count and crops of H x W pixels, which are cut at the same place
  from a frame's image, label and inverse depth:
    `source_image`, `target_image`: uint8 (b, H, W, 3), RGB.
    `source_label`, `target_label`: uint8 (b, H, W), training ids, 255 where there is none.
    `source_inverse_depth`, `target_inverse_depth`: float32 (b, H, W), 1 where there is no depth.
  Of each of a domain's `views`, for example `target_right_image`, and then of its camera:
    `target_VIEW_image`: uint8 (b, H, W, 3), cut at the same place.
    `target_intrinsics`: float32 (b, 4), fx, fy, cx, cy of the crop in pixels, the centre of its
      first pixel at 0.
    `target_baseline`: float32 (b,), metres to the right camera; 0 without its image.

  Args:
    data_config: as `get_data_config` of the default configuration makes it; prepared.
    seed: of order and crops.
    start_step: number of the first batch.
    process_index: of this process, 0 … process_count - 1.
    process_count: of processes that share each batch.

  Raises:
    UserError: there are no records, a crop is larger than the frames, or the batch cannot be
      shared evenly.
  """
  size = _share(data_config.batch_size, "data.batch_size", process_index, process_count)
  crop = (data_config.crop_height, data_config.crop_width)
  builders = {}
  for domain, dataset_config in (("source", data_config.source), ("target", data_config.target)):
    builders[domain] = _open(data_config, domain)
    frame = (dataset_config.height, dataset_config.width)
    if not (1 <= crop[0] <= frame[0] and 1 <= crop[1] <= frame[1]):
      raise UserError(
        f"the crop is {crop[1]}x{crop[0]} but {domain} frames are {frame[1]}x{frame[0]} (width x "
        "height): set data.crop_width and data.crop_height to at most that"
      )
  domains = {
    domain: _Training(
      builder,
      seed=(seed, number),
      crop=crop,
      first=process_index * size,
      batch=(size, data_config.batch_size),
    )
    for number, (domain, builder) in enumerate(builders.items())
  }

  def make(step: int) -> dict[str, np.ndarray]:
    return {
      f"{domain}_{key}": value
      for domain, training in domains.items()
      for key, value in training.batch(step).items()
    }

  return _in_order(make, itertools.count(start_step), data_config.reader_threads)


def evaluation_batches(
  data_config: Any,
  *,
  split: str = "validation",
  process_index: int = 0,
  process_count: int = 1,
  limit: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields whole target frames in a fixed order, each frame once over all processes.

  With b = evaluation_batch_size / process_count, and frames of H x W pixels:
    `image`: uint8 (b, H, W, 3), RGB.
    `label`: uint8 (b, H', W'), training ids; in validation of the file's own size.
    `name`: str (b,).
    `valid`: bool (b,), False where the last batch is filled up by a repeated frame.
  Every process gets the same number of batches. Inverse depth stays packed in the records: no score
  needs it, and it would cost more than the label.

  Args:
    data_config: as `get_data_config` of the default configuration makes it; prepared.
    split: "validation" or "train".
    process_index: of this process, 0 … process_count - 1.
    process_count: of processes that share each batch.
    limit: number of frames to stop after; None for all.

  Raises:
    UserError: there are no records or no such split, the batch cannot be shared evenly, or the
      labels of a batch differ in size.
  """
  total = data_config.evaluation_batch_size
  size = _share(total, "data.evaluation_batch_size", process_index, process_count)
  builder = _open(data_config, "target")
  examples = num_examples(data_config, domain="target", split=split)
  if limit is not None:
    examples = min(examples, limit)

  records = Records(builder, split)

  def make(step: int) -> dict[str, np.ndarray]:
    samples = step * total + process_index * size + np.arange(size)
    serialized = records.read(np.minimum(samples, examples - 1).tolist())
    parsed = [parse(example) for example in serialized]
    if len({packed_shape(example["label"]) for example in parsed}) > 1:
      raise UserError(
        f"labels of {builder.name} {split} differ in size: set data.evaluation_batch_size to "
        f"{process_count}, one frame a process"
      )
    return {
      "image": unpack_all([example["image"] for example in parsed], [None] * size),
      "label": unpack_all([example["label"] for example in parsed], [None] * size)[..., 0],
      "name": np.array([str(example["name"], "utf-8") for example in parsed]),
      "valid": samples < examples,
    }

  return _in_order(make, range(-(-examples // total)), data_config.reader_threads)


def num_examples(data_config: Any, *, domain: str, split: str) -> int:
  """Number of records of a split.

  Args:
    data_config: as `get_data_config` of the default configuration makes it; prepared.
    domain: "source" or "target".
    split: "train" or "validation".

  Raises:
    UserError: there are no records, or no such split.
  """
  builder = _open(data_config, domain)
  if split not in builder.info.splits:
    wanted = ", ".join(sorted(builder.info.splits))
    raise UserError(f"{builder.name} has no split {split!r}, wanted one of: {wanted}")
  return builder.info.splits[split].num_examples


def _open(data_config: Any, domain: str) -> FramesBuilder:
  return open_records(
    data_config[domain],
    data_config.records_dir,
    data_config.cache_dir,
    classes=ClassList.from_config(data_config.classes),
  )


class _Training:
  """Batches of one set, by step.

  Args:
    builder: of the records.
    seed: the run's, and the domain's number.
    crop: height and width.
    first: place of this process's first sample in the batch.
    batch: samples of this process, and of all, in a step.
  """

  def __init__(self, builder, *, seed, crop, first, batch):
    self._records = Records(builder, *builder.builder_config.splits)
    self._views = builder.builder_config.views
    frame = (builder.builder_config.height, builder.builder_config.width)
    size, total = batch
    self._places = first + np.arange(size)  # of this process's samples in a batch
    self._total = total
    self._count = len(self._records)
    self._seed = seed
    self._crop = crop
    self._corners = tuple(np.subtract(frame, crop) + 1)  # rows and columns where crops may begin

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """Image, label and inverse depth of this process's part of a batch."""
    samples = step * self._total + self._places
    records = self._records.read(self._shuffled(samples))
    corners = [self._corner(sample) for sample in samples]
    return decode_crops(records, corners, self._crop, views=self._views)

  def _shuffled(self, samples: np.ndarray) -> list[int]:
    """Record numbers of samples."""
    seeds = np.empty((len(samples), 3), np.int64)
    seeds[:, :2], seeds[:, 2] = self._seed, samples // self._count
    last = np.full(len(samples), self._count - 1)
    return tf.random_index_shuffle(samples % self._count, seeds, last).numpy().tolist()

  def _corner(self, sample: int) -> tuple[int, int]:
    """Top and left of a sample's crop."""
    bits = np.random.Philox(key=self._seed, counter=sample).random_raw(2)  # 64 each
    return tuple(int(b) * int(n) >> 64 for b, n in zip(bits, self._corners, strict=True))


def decode_crops(
  serialized: Sequence[bytes],
  corners: Sequence[tuple[int, int]],
  crop: tuple[int, int],
  *,
  views: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Image, label, inverse depth and views of examples, cut to the crop (height, width).

  Args:
    serialized: examples, as records hold them.
    corners: (top, left) of each one's crop.
    crop: height and width.
    views: that the records hold; with any, the camera is among the contents.
  """
  examples = [parse(example) for example in serialized]
  windows = [(*corner, *crop) for corner in corners]
  batch = {
    key: unpack_all([example[key] for example in examples], windows)
    for key in ("image", "label", "inverse_depth", *(f"{view}_image" for view in views))
  }
  batch["label"] = batch["label"][..., 0]
  if views:
    shift = np.array([(0, 0, left, top) for top, left in corners], np.float32)
    camera = {
      key: np.stack([np.frombuffer(example[key], "<f4") for example in examples])
      for key in ("intrinsics", "baseline")
    }
    batch["intrinsics"], batch["baseline"] = camera["intrinsics"] - shift, camera["baseline"][:, 0]
  return batch


def _in_order(make: Callable[[int], Any], steps: Iterable[int], threads: int) -> Iterator[Any]:
  """Yields `make(step)` in the order of the steps, made ahead by several threads.

  tf.data would run Python's part of it, the reading, in threads of its own: those are stopped
  dead when the interpreter ends, and tf.data then waits for them for ever.
  """
  threads = threads or len(os.sched_getaffinity(0))
  _keep_off_accelerators()

  def make_on_host(step: int) -> Any:
    with tf.device("CPU:0"):
      return make(step)

  executor = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="batches")
  steps = iter(steps)
  waiting = collections.deque()
  while True:
    for step in itertools.islice(steps, threads + READY_BATCHES - len(waiting)):
      waiting.append(executor.submit(make_on_host, step))
    if not waiting:
      return
    yield waiting.popleft().result()


def _share(total: int, name: str, process_index: int, process_count: int) -> int:
  if total < 1 or total % process_count:
    raise UserError(
      f"{name} is {total}, wanted a multiple of the {process_count} processes that share it"
    )
  if not 0 <= process_index < process_count:
    raise UserError(f"process_index is {process_index}, wanted 0..{process_count - 1}")
  return total // process_count


def _keep_off_accelerators() -> None:
  """Leaves the accelerators' memory to JAX."""
  for kind in ("GPU", "TPU"):
    try:
      tf.config.set_visible_devices([], kind)
    except RuntimeError:  # TensorFlow has started them already; too late to hide them
      return
