"""Records → batches of NumPy arrays, decoded by TensorFlow.

Training samples are numbered from 0 without end: batch k of B samples holds the numbers
k B … k B + B - 1, and process p of P reads its P-th part of them. Sample g of a set with n records
is record permutation(g mod n) of epoch g div n; each epoch has a permutation of its own, and the
crop is drawn from g. So a batch depends on the seed and on k alone: resuming is starting at another
k, and the number of processes and of threads changes nothing. Source and target each count their
own epochs.
"""

import collections
import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from array_record.python import array_record_data_source

from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from data_pipelines.builder import FramesBuilder
from data_pipelines.prepare import open_records

_READY_BATCHES = 4  # made ahead of the training step, besides those that are being made
_PARALLEL_SAMPLES = 8  # of a batch, decoded at once


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

  frame = (data_config.target.height, data_config.target.width)
  records = _Records(builder, split)
  decode = _decoder(frame, frame, depth=False)

  def make(step: int) -> dict[str, np.ndarray]:
    samples = step * total + process_index * size + np.arange(size)
    try:
      batch = decode(records.read(np.minimum(samples, examples - 1)), np.zeros((size, 2), np.int32))
    except tf.errors.InvalidArgumentError as error:
      if "shape" not in str(error):
        raise
      raise UserError(
        f"labels of {builder.name} {split} differ in size: set data.evaluation_batch_size to "
        f"{process_count}, one frame a process"
      ) from error
    names = np.array([name.decode() for name in batch["name"].numpy()])
    return _to_numpy(batch) | {"name": names, "valid": samples < examples}

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


class _Records:
  """The records of one split after another, by number."""

  def __init__(self, builder: FramesBuilder, *splits: str):
    self._source = array_record_data_source.ArrayRecordDataSource(
      [os.fspath(path) for split in splits for path in builder.info.splits[split].filepaths]
    )

  def __len__(self) -> int:
    return len(self._source)

  def read(self, numbers: np.ndarray) -> np.ndarray:
    """Serialized examples, as an array of bytes objects."""
    return np.array(self._source.__getitems__(numbers.tolist()), object)


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
    self._records = _Records(builder, *builder.builder_config.splits)
    frame = (builder.builder_config.height, builder.builder_config.width)
    size, total = batch
    count = len(self._records)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
    def draw(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
      """Record numbers (b,) and corners of the crops (b, 2) of a step."""
      samples = step * total + first + tf.range(size, dtype=tf.int64)
      seeds = [tf.fill([size], tf.constant(part, tf.int64)) for part in seed]
      order_seeds = tf.stack([*seeds, samples // count], axis=1)
      last = tf.fill([size], tf.constant(count - 1, tf.int64))
      records = tf.random_index_shuffle(samples % count, order_seeds, last)
      number = tf.constant(2 * seed[0] + seed[1], tf.int64)
      draws = tf.map_fn(
        lambda sample: tf.random.stateless_uniform([2], tf.stack([number, sample]), alg="philox"),
        samples,
        fn_output_signature=tf.TensorSpec([2], tf.float32),
      )
      corners = tf.cast(draws * (np.subtract(frame, crop) + 1).astype(np.float32), tf.int32)
      return records, corners

    self._draw = draw
    self._decode = _decoder(frame, crop, depth=True, views=builder.builder_config.views)

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """Image, label and inverse depth of this process's part of a batch."""
    records, corners = self._draw(step)
    return _to_numpy(self._decode(self._records.read(records.numpy()), corners))


@functools.cache  # each evaluation asks for it anew, and TensorFlow would trace it anew
def _decoder(
  frame: tuple[int, int], crop: tuple[int, int], *, depth: bool, views: tuple[str, ...] = ()
) -> Callable:
  """A function (serialized examples (b,), corners (b, 2)) → their contents, cropped.

  Labels are cropped where frames are; uncropped they keep their own size. Inverse depth is among
  the contents if `depth` is, and so are the images of `views`, with their camera.
  """
  signature = {
    "image": tf.TensorSpec((*crop, 3), tf.uint8),
    "label": tf.TensorSpec((None, None) if crop == frame else crop, tf.uint8),
  }
  if depth:
    signature["inverse_depth"] = tf.TensorSpec(crop, tf.float32)
  pictures = [f"{view}_image" for view in views]
  signature |= dict.fromkeys(pictures, signature["image"])
  schema = dict.fromkeys(("name", *signature), tf.io.FixedLenFeature([], tf.string))
  if views:
    for key, shape in (("intrinsics", [4]), ("baseline", [])):
      signature[key] = tf.TensorSpec(shape, tf.float32)
      schema[key] = tf.io.FixedLenFeature(shape, tf.float32)

  def decode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    top, left = tf.unstack(example["corner"])
    contents = {}
    for key in ("image", *pictures):
      image = tf.ensure_shape(tf.io.decode_png(example[key], channels=3), (*frame, 3))
      contents[key] = tf.slice(image, (top, left, 0), (*crop, 3))
    label = tf.io.decode_png(example["label"], channels=1)[..., 0]
    if crop != frame:
      label = tf.slice(label, (top, left), crop)
    contents["label"] = label
    if views:
      shift = tf.cast(tf.stack([0, 0, left, top]), tf.float32)
      contents["intrinsics"] = example["intrinsics"] - shift
      contents["baseline"] = example["baseline"]
    if depth:
      window = (top, left, *crop)
      contents["inverse_depth"] = unpack_float32_tensor(example["inverse_depth"], frame, window)
    return contents

  @tf.function(
    input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 2], tf.int32)]
  )
  def decode_batch(serialized: tf.Tensor, corners: tf.Tensor) -> dict[str, tf.Tensor]:
    examples = tf.io.parse_example(serialized, schema)
    names = examples.pop("name")
    batch = tf.map_fn(
      decode,
      examples | {"corner": corners},
      fn_output_signature=signature,
      parallel_iterations=_PARALLEL_SAMPLES,
    )
    return batch | {"name": names}

  return decode_batch


def unpack_float32_tensor(packed: tf.Tensor, size: tuple[int, int], window=None) -> tf.Tensor:
  """`preprocess.unpack_float32` in TensorFlow, float32 H W.

  Args:
    packed: string scalar.
    size: (height, width) of what was packed.
    window: (top, left, height, width) to cut out; None for all.
  """
  planes = tf.io.decode_raw(tf.io.decode_compressed(packed, "ZLIB"), tf.uint8)
  planes = tf.reshape(planes, (4, *size))
  if window is not None:
    top, left, height, width = window
    planes = tf.slice(planes, (0, top, left), (4, height, width))
  return tf.bitcast(tf.transpose(planes, (1, 2, 0)), tf.float32)


def _to_numpy(batch: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
  """The tensors' memory as arrays, without copies."""
  return {key: np.asarray(memoryview(value)) for key, value in batch.items() if key != "name"}


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
    for step in itertools.islice(steps, threads + _READY_BATCHES - len(waiting)):
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
