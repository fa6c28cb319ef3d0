"""Records → batches of NumPy arrays, through tf.data.

Training samples are numbered from 0 without end: batch k of B samples holds the numbers
k B … k B + B - 1, and process p of P reads its P-th part of them. Sample g of a set with n records
is record permutation(g mod n) of epoch g div n; each epoch has a permutation of its own, and the
crop is drawn from g. So a batch depends on the seed and on k alone: resuming is starting at another
k, and the number of processes and of threads changes nothing. Source and target each count their
own epochs.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from array_record.python import array_record_data_source

from corda_jax.errors import UserError
from data_pipelines.builder import FramesBuilder
from data_pipelines.prepare import open_records

_PREFETCHED_BATCHES = 4
_SOURCE, _TARGET = 0, 1  # keep the two sets' random numbers apart
_EPOCHS_AND_CROPS = 2  # likewise the two uses in a set


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
    builders[domain] = open_records(dataset_config, data_config.records_dir)
    frame = (dataset_config.height, dataset_config.width)
    if not (1 <= crop[0] <= frame[0] and 1 <= crop[1] <= frame[1]):
      raise UserError(
        f"the crop is {crop[1]}x{crop[0]} but {domain} frames are {frame[1]}x{frame[0]} (width x "
        "height): set data.crop_width and data.crop_height to at most that"
      )
  _keep_off_accelerators()
  with tf.device("CPU:0"):
    domains = [
      _training_domain(
        builders[domain],
        seed=(seed, index),
        crop=crop,
        first_sample=start_step * data_config.batch_size + process_index * size,
        batch=(size, data_config.batch_size),
        threads=data_config.reader_threads,
      )
      for index, domain in enumerate(("source", "target"))
    ]
    dataset = tf.data.Dataset.zip(*domains).map(
      lambda source, target: (
        {f"source_{key}": value for key, value in source.items()}
        | {f"target_{key}": value for key, value in target.items()}
      )
    )
    dataset = dataset.prefetch(_PREFETCHED_BATCHES)
    return dataset.with_options(_options(data_config.reader_threads)).as_numpy_iterator()


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
    `inverse_depth`: float32 (b, H, W), 1 where there is no depth.
    `name`: str (b,).
    `valid`: bool (b,), False where the last batch is filled up by a repeated frame.
  Every process gets the same number of batches.

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
  builder = open_records(data_config.target, data_config.records_dir)
  examples = num_examples(data_config, domain="target", split=split)
  if limit is not None:
    examples = min(examples, limit)

  def batch_of_samples(step: tf.Tensor) -> dict[str, tf.Tensor]:
    samples = step * total + process_index * size + tf.range(size, dtype=tf.int64)
    return {"record": tf.minimum(samples, examples - 1), "valid": samples < examples}

  def decode(serialized: tf.Tensor, sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    frame = (data_config.target.height, data_config.target.width)
    example = _parse(serialized)
    return _decode_frame(example, frame) | {"name": example["name"], "valid": sample["valid"]}

  _keep_off_accelerators()
  with tf.device("CPU:0"):
    dataset = tf.data.Dataset.range(-(-examples // total)).map(batch_of_samples)
    dataset = _read(dataset, builder, split, decode, data_config.reader_threads)
    dataset = dataset.batch(size, drop_remainder=True).prefetch(_PREFETCHED_BATCHES)
    batches = dataset.with_options(_options(data_config.reader_threads)).as_numpy_iterator()
  return _with_text_names(batches)


def num_examples(data_config: Any, *, domain: str, split: str) -> int:
  """Number of records of a split.

  Args:
    data_config: as `get_data_config` of the default configuration makes it; prepared.
    domain: "source" or "target".
    split: "train" or "validation".

  Raises:
    UserError: there are no records, or no such split.
  """
  builder = open_records(data_config[domain], data_config.records_dir)
  if split not in builder.info.splits:
    wanted = ", ".join(sorted(builder.info.splits))
    raise UserError(f"{builder.name} has no split {split!r}, wanted one of: {wanted}")
  return builder.info.splits[split].num_examples


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


def _training_domain(
  builder: FramesBuilder,
  *,
  seed: tuple[int, int],
  crop: tuple[int, int],
  first_sample: int,
  batch: tuple[int, int],
  threads: int,
) -> tf.data.Dataset:
  """Endless batches of one set.

  Args:
    builder: of the records.
    seed: the run's, and the domain's number.
    crop: height and width.
    first_sample: number of this process's first sample.
    batch: samples of this process, and of all, in a step.
    threads: see `reader_threads`.
  """
  size, total = batch
  records = builder.info.splits["train"].num_examples
  frame = (builder.builder_config.height, builder.builder_config.width)

  def batch_of_samples(step: tf.Tensor) -> dict[str, tf.Tensor]:
    samples = first_sample + step * total + tf.range(size, dtype=tf.int64)
    epochs = samples // records
    seeds = tf.stack([tf.fill([size], np.int64(s)) for s in seed] + [epochs], axis=1)
    order = tf.random_index_shuffle(
      samples % records, seeds, tf.fill([size], np.int64(records - 1))
    )
    return {"record": order, "sample": samples}

  def decode(serialized: tf.Tensor, sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    draws = tf.random.stateless_uniform([2], seed=(seed[0] * 2 + seed[1], sample["sample"]))
    top, left = [tf.cast(draws[axis] * (frame[axis] - crop[axis] + 1), tf.int32) for axis in (0, 1)]
    return _decode_frame(_parse(serialized), frame, (top, left, *crop))

  dataset = tf.data.Dataset.range(np.iinfo(np.int64).max).map(batch_of_samples)
  dataset = _read(dataset, builder, "train", decode, threads)
  return dataset.batch(size, drop_remainder=True)


def _read(dataset, builder: FramesBuilder, split: str, decode, threads: int) -> tf.data.Dataset:
  """Batches of {"record": indices, …} → single decoded samples, in order.

  There is no TensorFlow op that reads ArrayRecord files: Python reads the records of a whole batch
  at once, and TensorFlow decodes them one by one in its own threads.
  """
  source = array_record_data_source.ArrayRecordDataSource(
    [str(path) for path in builder.info.splits[split].filepaths]
  )

  def read(indices: np.ndarray) -> np.ndarray:
    return np.array(source.__getitems__(indices.tolist()), object)

  def read_batch(sample: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    serialized = tf.numpy_function(read, [sample["record"]], tf.string, stateful=False)
    return tf.ensure_shape(serialized, sample["record"].shape), sample

  parallel = threads or tf.data.AUTOTUNE
  dataset = dataset.map(read_batch, num_parallel_calls=parallel).unbatch()
  return dataset.map(decode, num_parallel_calls=parallel)


def _parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
  keys = ("name", "image", "label", "inverse_depth")
  feature = tf.io.FixedLenFeature([], tf.string)
  return tf.io.parse_single_example(serialized, dict.fromkeys(keys, feature))


def _decode_frame(
  example: dict[str, tf.Tensor], frame: tuple[int, int], window=None
) -> dict[str, tf.Tensor]:
  """Image, label and inverse depth of a record; `window` is (top, left, height, width)."""
  image = tf.io.decode_png(example["image"], channels=3)
  label = tf.io.decode_png(example["label"], channels=1)
  if window is None:
    image = tf.ensure_shape(image, (*frame, 3))
  else:
    top, left, height, width = window
    image = tf.slice(image, (top, left, 0), (height, width, 3))
    label = tf.slice(label, (top, left, 0), (height, width, 1))
  return {
    "image": image,
    "label": label[..., 0],
    "inverse_depth": unpack_float32_tensor(example["inverse_depth"], frame, window),
  }


def _with_text_names(batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, np.ndarray]]:
  try:
    for batch in batches:
      yield batch | {"name": np.array([name.decode() for name in batch["name"]])}
  except tf.errors.InvalidArgumentError as error:
    if "batch" not in str(error):
      raise
    raise UserError(
      "the labels of a batch differ in size: set data.evaluation_batch_size to one frame a process"
    ) from error


def _share(total: int, name: str, process_index: int, process_count: int) -> int:
  if total < 1 or total % process_count:
    raise UserError(
      f"{name} is {total}, wanted a multiple of the {process_count} processes that share it"
    )
  if not 0 <= process_index < process_count:
    raise UserError(f"process_index is {process_index}, wanted 0..{process_count - 1}")
  return total // process_count


def _options(threads: int) -> tf.data.Options:
  options = tf.data.Options()
  options.deterministic = True
  options.autotune.enabled = True
  if threads:
    options.threading.private_threadpool_size = threads
  return options


def _keep_off_accelerators() -> None:
  """Leaves the accelerators' memory to JAX."""
  for kind in ("GPU", "TPU"):
    try:
      tf.config.set_visible_devices([], kind)
    except RuntimeError:  # TensorFlow has started them already; too late to hide them
      return
