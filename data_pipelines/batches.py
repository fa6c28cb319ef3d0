"""Records → batches of NumPy arrays, decoded by several threads.

Training samples are numbered from 0 without end: batch k of B samples holds the numbers
k B … k B + B - 1, and process p of P reads its P-th part of them. Sample g of a set with n records
is record permutation(g mod n) of epoch g div n; each epoch has a permutation of its own, and the
crop is drawn from g. So a batch depends on the seed and on k alone: resuming is starting at another
k, and the number of processes and of threads changes nothing. Source and target each count their
own epochs.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from data_pipelines.batch_threads import in_order
from data_pipelines.bucket import Retry
from data_pipelines.builder import FramesBuilder
from data_pipelines.decoding import decode_crops, decode_frames, frame_name
from data_pipelines.prepare import open_records
from data_pipelines.record_encodings import packed_shape
from data_pipelines.records import Records, UnreadableRecordError, parse, tell

DOMAINS = ("source", "target")  # the place of a domain is part of what its order is drawn from
CONTENTS = ("image", "label", "inverse_depth", "views")  # of evaluation batches


def train_batches(
  data_config: Any,
  *,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  domains: Sequence[str] = DOMAINS,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields this process's part of the batches `start_step`, `start_step` + 1, … without end.

  With b = batch_size / process_count and crops of H x W pixels, which are cut at the same place
  from a frame's image, label and inverse depth:

  - `source_image`, `target_image`: uint8 (b, H, W, 3), RGB.
  - `source_label`, `target_label`: uint8 (b, H, W), training ids, 255 where there is none.
  - `source_inverse_depth`, `target_inverse_depth`: float32 (b, H, W), 1 where there is no depth.
  - `source_name`, `target_name`: str (b,).

  Of each of a domain's `views`, for example `target_right_image`, and then of its camera:

  - `target_VIEW_image`: uint8 (b, H, W, 3), cut at the same place.
  - `target_intrinsics`: float32 (b, 4), fx, fy, cx, cy of the crop in pixels, the centre of its
    first pixel at 0.
  - `target_baseline`: float32 (b,), metres to the right camera; 0 without its image.

  Args:
    data_config: as `get_data_config` of the default configuration makes it; prepared.
    seed: of order and crops.
    start_step: number of the first batch.
    process_index: of this process, 0 … process_count - 1.
    process_count: of processes that share each batch.
    domains: which of "source" and "target" are opened and yielded. A domain's samples are the same
      with and without the other.

  Raises:
    ValueError: there is no such domain.
    UserError: there are no records, a crop is larger than the frames, or the batch cannot be
      shared evenly.
  """
  _check_known(domains, DOMAINS, "domains")
  size = _share(data_config.batch_size, "data.batch_size", process_index, process_count)
  crop = (data_config.crop_height, data_config.crop_width)
  training = {}
  for domain in domains:
    builder = _open(data_config, domain)
    frame = (data_config[domain].height, data_config[domain].width)
    if not (1 <= crop[0] <= frame[0] and 1 <= crop[1] <= frame[1]):
      raise UserError(
        f"the crop is {crop[1]}x{crop[0]} but {domain} frames are {frame[1]}x{frame[0]} (width x "
        "height): set data.crop_width and data.crop_height to at most that"
      )
    training[domain] = _Training(
      builder,
      seed=(seed, DOMAINS.index(domain)),
      crop=crop,
      first=process_index * size,
      batch=(size, data_config.batch_size),
      bad_records=data_config.bad_records,
    )

  def make(step: int) -> dict[str, np.ndarray]:
    return {
      f"{domain}_{key}": value
      for domain, batches in training.items()
      for key, value in batches.batch(step).items()
    }

  return in_order(make, itertools.count(start_step), data_config.reader_threads)


def evaluation_batches(
  data_config: Any,
  *,
  domain: str = "target",
  split: str = "validation",
  contents: Sequence[str] = ("image", "label"),
  wanted: Callable[[str], bool] | None = None,
  process_index: int = 0,
  process_count: int = 1,
  limit: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields whole frames in a fixed order, each frame once over all processes.

  With b = evaluation_batch_size / process_count, and frames of H x W pixels, by `contents`:

  - "image": `image`, uint8 (b, H, W, 3), RGB.
  - "label": `label`, uint8 (b, H', W'), training ids; in validation of the file's own size.
  - "inverse_depth": `inverse_depth`, float32 (b, H, W), 1 where there is no depth.
  - "views": of each of the records' views `VIEW_image`, uint8 (b, H, W, 3), and `intrinsics`,
    float32 (b, 4), and `baseline`, float32 (b,), as `train_batches` has them, of whole frames.

  And always:

  - `name`: str (b,).
  - `valid`: bool (b,), False where the last batch is filled up by a repeated frame.

  What is not asked for stays packed in the records. Every process gets the same number of batches.

  Args:
    data_config: as `get_data_config` of the default configuration makes it; prepared.
    domain: "source" or "target".
    split: one of the records' splits.
    contents: what is decoded.
    wanted: which names are wanted; None for all. The other frames are neither decoded nor yielded,
      and batches are full without them, in the same order. Every process asks it for the names of
      all processes, before this returns, and it must say the same in each of them: an answer that
      depends on files may only change after all processes have their first batch. To ask, all
      records are read once.
    process_index: of this process, 0 … process_count - 1.
    process_count: of processes that share each batch.
    limit: the frames after so many first ones of the split are left out; None for none.

  Raises:
    ValueError: there are no such contents or domain.
    UserError: there are no records, no such split or no views, the batch cannot be shared evenly,
      or the labels of a batch differ in size.
  """
  _check_known(contents, CONTENTS, "contents")
  total = data_config.evaluation_batch_size
  size = _share(total, "data.evaluation_batch_size", process_index, process_count)
  examples = num_examples(data_config, domain=domain, split=split)
  builder = _open(data_config, domain)
  views = builder.builder_config.views
  if "views" in contents and not views:
    raise UserError(
      f"the records of {builder.name} hold no views, but they are needed here: set data.{domain}"
      ".views"
    )
  records = Records(
    builder,
    split,
    retries=data_config.bad_records.retries,
    retry_seconds=data_config.bad_records.retry_seconds,
  )
  numbers = np.arange(examples if limit is None else min(examples, limit))
  if wanted is not None:
    names = in_order(
      lambda number: frame_name(parse(*records.read([number]))),
      numbers.tolist(),
      data_config.reader_threads,
    )
    numbers = numbers[np.fromiter(map(wanted, names), bool, len(numbers))]

  def make(step: int) -> dict[str, np.ndarray]:
    places = step * total + process_index * size + np.arange(size)
    last = len(numbers) - 1
    serialized = records.read(numbers[np.minimum(places, last)].tolist())
    parsed = [parse(example) for example in serialized]
    if "label" in contents and len({packed_shape(example["label"]) for example in parsed}) > 1:
      raise UserError(
        f"labels of {builder.name} {split} differ in size: set data.evaluation_batch_size to "
        f"{process_count}, one frame a process"
      )
    return decode_frames(parsed, contents, views=views) | {"valid": places <= last}

  return in_order(make, range(-(-len(numbers) // total)), data_config.reader_threads)


def num_examples(data_config: Any, *, domain: str, split: str) -> int:
  """Number of records of a split.

  Args:
    data_config: as `get_data_config` of the default configuration makes it; prepared.
    domain: "source" or "target".
    split: one of the records' splits.

  Raises:
    ValueError: there is no such domain.
    UserError: there are no records, or no such split.
  """
  _check_known((domain,), DOMAINS, "domain")
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
    retry=Retry(data_config.bad_records.retries, data_config.bad_records.retry_seconds),
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
    bad_records: `retries`, `retry_seconds` and `then`, "stop" or "skip".
  """

  def __init__(self, builder, *, seed, crop, first, batch, bad_records):
    self._records = Records(
      builder,
      *builder.builder_config.splits,
      retries=bad_records.retries,
      retry_seconds=bad_records.retry_seconds,
    )
    self._skip = bad_records.then == "skip"
    self._unreadable: set[int] = set()
    self._leaving_out = threading.Lock()  # several threads may find the same record lost
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
    records = self._read(self._shuffled(samples))
    corners = [self._corner(sample) for sample in samples]
    return decode_crops(records, corners, self._crop, views=self._views)

  def _read(self, numbers: list[int]) -> list[bytes]:
    """Records, or, where one cannot be read and that is borne, the next that can."""
    if not self._skip:
      return self._records.read(numbers)
    return [self._read_or_next(number) for number in numbers]

  def _read_or_next(self, number: int) -> bytes:
    for candidate in itertools.chain(range(number, self._count), range(number)):
      if candidate not in self._unreadable:  # else each would be waited for again
        try:
          return self._records.read([candidate])[0]
        except UnreadableRecordError as error:
          with self._leaving_out:
            self._leave_out(candidate, error)
    raise UserError("no record of the training set can be read: prepare the data set again")

  def _leave_out(self, number: int, error: UnreadableRecordError) -> None:
    """Tells it once, of a record and of those that are lost with it."""
    if number in self._unreadable:  # another thread was faster
      return
    lost = self._records.lost_with(number)
    self._unreadable.update(lost)
    one = len(lost) == 1
    which, each = (f"record {number} is", "it") if one else (f"{len(lost)} records are", "each")
    tell(
      f"{which} left out, another stands for {each} ({len(self._unreadable)} of "
      f"{self._count} so far): {error}"
    )

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


def _share(total: int, name: str, process_index: int, process_count: int) -> int:
  if total < 1 or total % process_count:
    raise UserError(
      f"{name} is {total}, wanted a multiple of the {process_count} processes that share it"
    )
  if not 0 <= process_index < process_count:
    raise UserError(f"process_index is {process_index}, wanted 0..{process_count - 1}")
  return total // process_count


def _check_known(given: Sequence[str], wanted: Sequence[str], name: str) -> None:
  unknown = [value for value in given if value not in wanted]
  if unknown:
    raise ValueError(f"{name} is {unknown[0]!r}, wanted of {', '.join(wanted)}")
