"""Records → batches, as instances of `tf.data.Dataset`.

Training samples are numbered from 0 without end: batch k of B samples holds the numbers
k B … k B + B - 1, and process p of P reads its P-th part of them. Sample g of a set with n records
is record permutation(g mod n) of epoch g div n; each epoch has a permutation of its own, and the
crop is sampled from g. With rare class sampling (rare_classes.py) the record is sampled from g,
too, and there are no epochs. So a batch depends on the seed and on k alone: resuming is starting at
another k, and the number of processes and of threads changes nothing. Source and target each count
their own epochs.
"""

import functools
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from data_pipelines import quiet_tensorflow  # noqa: F401  # isort: skip (before all its users)

import numpy as np
import tensorflow as tf

from corda_jax.configuration import build
from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from data_pipelines.crops import Crops, Cut
from data_pipelines.datasets.base import FramesBuilder
from data_pipelines.prepare import naming, open_records
from data_pipelines.rare_classes import RareClassSampler, Sampler
from data_pipelines.records import Record, Records
from data_pipelines.settings import Data

DOMAINS = ("source", "target")  # a domain's number is part of the seed of its order
CONTENTS = ("image", "label", "inverse_depth", "views")
READY_BATCHES = 4  # made ahead of the step


def train_dataset(
  data_config: Any,
  *,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  domains: Sequence[str] = DOMAINS,
) -> tf.data.Dataset:
  """This process's part of the batches `start_step`, `start_step` + 1, … without end.

  With b = batch_size / process_count and crops of H x W pixels, which are cut at the same place
  from a frame's image, label and inverse depth, an element has:

  - `source_image`, `target_image`: uint8 (b, H, W, 3), RGB.
  - `source_label`, `target_label`: uint8 (b, H, W), training ids, 255 where there is none.
  - `source_inverse_depth`, `target_inverse_depth`: float32 (b, H, W), 1 where there is no depth.
  - `source_border`, `target_border`: int32 (b, 4), pixels of the frame above, below, left and right
    of the crop; as shown, so that left and right are swapped where the crop is mirrored.
  - `source_name`, `target_name`: string (b,).

  For each of a domain's `views`, for example `target_right_image`, and then for its camera:

  - `target_VIEW_image`: uint8 (b, H, W, 3), cut at the same place.
  - `target_intrinsics`: float32 (b, 4), fx, fy, cx, cy of the crop in pixels, the centre of its
    first pixel at 0.
  - `target_baseline`: float32 (b,), metres to the right camera; 0 without its image.

  Args:
    data_config: `data_pipelines.settings.Data`, prepared.
    seed: seed of order and crops.
    start_step: number of the first batch.
    process_index: number of this process, 0 … process_count - 1.
    process_count: processes that share each batch.
    domains: which of "source" and "target" are opened. A domain's samples are the same with and
      without the other.

  Raises:
    ValueError: a domain is unknown.
    UserError: a setting is invalid, there are no records, a crop is larger than the frames, the
      batch cannot be shared evenly, or no frame shows enough of any class for `rare_classes`.
  """
  _check_known(domains, DOMAINS, "domains")
  size = _share(data_config.batch_size, "data.batch_size", process_index, process_count)
  share = _Share(data_config.batch_size, size, process_index)
  options = {"seed": seed, "start_step": start_step}
  dataset = tf.data.Dataset.zip(
    tuple(_training_samples(data_config, domain, share, **options) for domain in domains)
  )
  merged = _map(dataset, lambda *batches: {k: v for batch in batches for k, v in batch.items()})
  return merged.prefetch(READY_BATCHES)


def evaluation_dataset(
  data_config: Any,
  *,
  domain: str = "target",
  split: str = "validation",
  contents: Sequence[str] = ("image", "label"),
  names: Collection[str] | None = None,
  process_index: int = 0,
  process_count: int = 1,
  spread: int | None = None,
) -> tf.data.Dataset:
  """Whole frames in a fixed order, each frame once over all processes.

  With b = evaluation_batch_size / process_count, frames of H x W pixels, for each of `contents`:

  - "image": `image`, uint8 (b, H, W, 3), RGB.
  - "label": `label`, uint8 (b, H', W'), training ids; in validation at the size of its file.
  - "inverse_depth": `inverse_depth`, float32 (b, H, W), 1 where there is no depth.
  - "views": for each of the records' views `VIEW_image`, uint8 (b, H, W, 3), and `intrinsics`,
    float32 (b, 4), and `baseline`, float32 (b,), as in `train_dataset`, for whole frames.

  And always:

  - `name`: string (b,).
  - `valid`: bool (b,), False where the last batch is filled up by a repeated frame.

  Nothing else is decoded. Every process gets the same number of batches.

  Args:
    data_config: `data_pipelines.settings.Data`, prepared.
    domain: "source" or "target".
    split: "validation", or one of the configuration's `splits`.
    contents: what is decoded.
    names: names of the frames that are read; None: all. The others are left out, and batches are
      full without them, in the same order.
    process_index: number of this process, 0 … process_count - 1.
    process_count: processes that share each batch.
    spread: number of frames, at equal distances over the split; None for all.

  Raises:
    ValueError: the contents or the domain are unknown.
    UserError: there are no records, no such split or no views, or the batch cannot be shared
      evenly.
  """
  _check_known(contents, CONTENTS, "contents")
  _check_known((domain,), DOMAINS, "domain")
  total = data_config.evaluation_batch_size
  size = _share(total, "data.evaluation_batch_size", process_index, process_count)
  builder = _open(data_config, domain, split, contents)
  records = Records(builder, (split,))
  if "views" in contents and not records.views:
    raise UserError(
      f"the records of {builder.name} hold no views, but they are needed here: set data.{domain}"
      ".views"
    )
  numbers = _frame_numbers(builder.report.names[split], names, spread)
  valid, chosen = _shared_out(numbers, _Share(total, size, process_index))

  read = records.reader(contents, lambda valid, number: (records[number], None), None)
  dataset = _map(
    tf.data.Dataset.from_tensor_slices((valid, chosen)),
    lambda valid, number: read(valid, number) | {"valid": valid},
    _threads(data_config),
  )
  return dataset.batch(size, drop_remainder=True).prefetch(READY_BATCHES)


def record_names(data_config: Any, *, domain: str, split: str) -> list[str]:
  """Names of the frames of a split, in the order of its records.

  Args:
    data_config: `data_pipelines.settings.Data`, prepared.
    domain: "source" or "target".
    split: "validation", or one of the configuration's `splits`.

  Raises:
    UserError: there are no records, or no such split.
  """
  return _open(data_config, domain, split).report.names[split]


def as_numpy(dataset: tf.data.Dataset) -> Iterator[dict[str, np.ndarray]]:
  """The batches of a dataset as NumPy arrays, names as str.

  Raises:
    UserError: a record cannot be read, or the labels of a batch differ in size.
  """
  op_error = tf.errors.OpError  # a generator that the interpreter closes at exit has no globals
  try:
    for batch in dataset.as_numpy_iterator():
      yield {
        key: np.char.decode(value.astype("S"), "utf-8") if value.dtype == object else value
        for key, value in batch.items()
      }
  except op_error as error:
    if re.search(r"[Cc]annot (add tensor to the|batch tensors)", error.message):
      raise UserError(
        "labels of a batch differ in size: set data.evaluation_batch_size to one frame a process"
      ) from error
    if (line := re.search(r"UserError: (.*)", error.message)) is None:
      raise
    raise UserError(line[1]) from error


class _Share(NamedTuple):
  """The part of each batch that this process reads.

  Attributes:
    total: samples of a batch.
    size: samples of a batch that this process reads.
    process_index: number of this process.
  """

  total: int
  size: int
  process_index: int


def _training_samples(
  data_config: Any, domain: str, share: _Share, *, seed: int, start_step: int
) -> tf.data.Dataset:
  """This process's part of the batches of one domain; keys begin with its name."""
  frames = getattr(build(data_config, "data", default=Data), domain)
  builder = _open(data_config, domain, frames.splits[0])
  records = Records(builder, frames.splits)
  crop, size = (data_config.crop_height, data_config.crop_width), (frames.height, frames.width)
  if not (1 <= crop[0] <= size[0] and 1 <= crop[1] <= size[1]):
    raise UserError(
      f"the crop is {crop[1]}x{crop[0]} but {domain} frames are {size[1]}x{size[0]} (width x "
      "height): set data.crop_width and data.crop_height to at most that"
    )
  seeds, count = (seed, DOMAINS.index(domain)), len(records)
  rare = None
  if frames.rare_classes.enabled:
    label_pixels = [n for split in frames.splits for n in builder.report.label_pixels[split]]
    with naming(domain):
      rare = RareClassSampler(frames.rare_classes, label_pixels)
  crops = Crops(size, crop, frames.max_class_share, frames.crop_tries)
  sampler = Sampler(crops, frames.flip, rare, seeds)

  def choose(sample: int, number: int) -> tuple[Record, Cut]:
    opened = functools.lru_cache(1)(records.__getitem__)
    number, cut = sampler(sample, number, lambda number, window: opened(number).label(window))
    return opened(number), cut

  def number(place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Number of the sample at a place of this process's stream, and of its record in the epoch."""
    first = place // share.size * share.total + share.process_index * share.size
    sample = first + place % share.size
    order = tf.stack([*(tf.constant(s, tf.int64) for s in seeds), sample // count])
    return sample, tf.random_index_shuffle(sample % count, order, count - 1)

  contents = CONTENTS if records.views else CONTENTS[:-1]
  read = records.reader(contents, choose, crop)
  # int64, so that a run may start at any step.
  places = tf.data.Dataset.range(start_step * share.size, tf.int64.max)
  dataset = _map(_map(places, number), read, _threads(data_config))
  return _map(
    dataset.batch(share.size, drop_remainder=True),
    lambda batch: {f"{domain}_{key}": value for key, value in batch.items()},
  )


def _frame_numbers(
  all_names: Sequence[str], names: Collection[str] | None, spread: int | None
) -> np.ndarray:
  """Numbers of the frames that have one of the names, and of these `spread`, evenly spaced."""
  chosen = [n for n, name in enumerate(all_names) if names is None or name in names]
  numbers = np.array(chosen, np.int64)
  if spread is not None and len(numbers) > spread:
    numbers = numbers[np.linspace(0, len(numbers) - 1, spread).round().astype(int)]
  return numbers


def _shared_out(numbers: np.ndarray, share: _Share) -> tuple[np.ndarray, np.ndarray]:
  """Whether each of this process's places in all batches is filled, and the number of its frame."""
  first = np.arange(0, len(numbers), share.total)[:, np.newaxis] + share.process_index * share.size
  places = (first + np.arange(share.size)).ravel()
  return places < len(numbers), numbers[np.minimum(places, len(numbers) - 1)]


def _map(
  dataset: tf.data.Dataset, function: Callable[..., Any], threads: int | None = None
) -> tf.data.Dataset:
  """`Dataset.map` without AutoGraph, which would rewrite functions that do not need it."""
  return dataset.map(tf.autograph.experimental.do_not_convert(function), threads)


def _open(data_config: Any, domain: str, split: str, contents: Sequence[str] = ()) -> FramesBuilder:
  with naming(domain):
    return open_records(
      data_config[domain],
      data_config.records_dir,
      split=split,
      # The records exist: requirements on the files that they were made from no longer matter.
      contents=[content for content in contents if content == "views"],
      classes=ClassList.from_config(data_config.classes),
    )


def _threads(data_config: Any) -> int:
  return data_config.reader_threads or len(os.sched_getaffinity(0))


def _share(total: int, name: str, process_index: int, process_count: int) -> int:
  if total < 1 or total % process_count:
    raise UserError(
      f"{name} is {total}, expected a multiple of the {process_count} processes that share it"
    )
  if not 0 <= process_index < process_count:
    raise UserError(f"process_index is {process_index}, expected 0..{process_count - 1}")
  return total // process_count


def _check_known(given: Sequence[str], known: Sequence[str], name: str) -> None:
  unknown = [value for value in given if value not in known]
  if unknown:
    raise ValueError(f"{name} is {unknown[0]!r}, expected one of {', '.join(known)}")
