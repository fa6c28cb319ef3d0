"""Records of splits: read by number, and parsed."""

import bisect
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence

from array_record.python import array_record_data_source
from tqdm import tqdm

from corda_jax.errors import UserError
from data_pipelines.builder import FramesBuilder

_LENGTH_DELIMITED = 2  # wire type of protocol buffers


class UnreadableRecordError(UserError):
  """A record cannot be read, however often it was tried."""


class Records:
  """The records of one split after another, by number; several threads may read at once.

  Args:
    builder: of the records.
    splits: their names.
    retries: how often what cannot be read is tried again: disks of networks come back.
    retry_seconds: before each.
  """

  def __init__(
    self, builder: FramesBuilder, *splits: str, retries: int = 0, retry_seconds: float = 1.0
  ):
    """Opens them."""
    self._folder = os.fspath(builder.data_path)
    infos = [builder.info.splits[split] for split in splits]
    self._paths = [os.fspath(path) for info in infos for path in info.filepaths]
    lengths = [length for info in infos for length in info.shard_lengths]
    self._ends = list(itertools.accumulate(lengths))  # of each file's numbers
    self._retries, self._retry_seconds = retries, retry_seconds
    with self._told():
      self._source = self._open()

  def _open(self) -> array_record_data_source.ArrayRecordDataSource:
    return array_record_data_source.ArrayRecordDataSource(
      self._paths, reader_options={"max_parallelism": "0"}
    )

  def __len__(self) -> int:
    """Their number."""
    return len(self._source)

  def read(self, numbers: Sequence[int]) -> list[bytes]:
    """Serialized examples.

    Raises:
      UnreadableRecordError: a file is damaged or lost.
    """
    # One by one in this thread: to read them together starts threads anew for every call, which
    # costs three times the reading. Readers of batches are several already.
    return [self._read(number) for number in numbers]

  def lost_with(self, number: int) -> range:
    """The records of `number`'s file, where that is gone; else it alone."""
    file = bisect.bisect_right(self._ends, number)
    if os.path.exists(self._paths[file]):
      return range(number, number + 1)
    return range(self._ends[file - 1] if file else 0, self._ends[file])

  def _read(self, number: int) -> bytes:
    for left in range(self._retries, 0, -1):
      try:
        return self._source[number]
      except (RuntimeError, OSError) as error:
        tell(
          f"record {number} in {self._folder!r} cannot be read ({error or 'no reason told'}): "
          f"trying again in {self._retry_seconds:g} seconds, {left} times at most"
        )
        time.sleep(self._retry_seconds)
        with contextlib.suppress(RuntimeError, OSError):
          self._source = self._open()  # files that were lost want to be opened anew
    with self._told():
      return self._source[number]

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    try:
      yield
    except (RuntimeError, OSError) as error:  # whose text may be empty
      raise UnreadableRecordError(
        f"a record file in {self._folder!r} is damaged or lost ({error or 'no reason told'}): mend "
        "the disk, or delete that folder and prepare the data set again"
      ) from error


def tell(text: str) -> None:
  """Prints a line above the bars of the console."""
  tqdm.write(text, file=sys.stderr)


def parse(serialized: bytes) -> dict[str, memoryview]:
  """A serialized example's features by name: one bytes value each, or the bytes of float32 numbers.

  They stay where they are: `tf.train.Example` would copy every megabyte of them twice.

  Raises:
    ValueError: it is not such an example.
  """
  (features,) = _fields(memoryview(serialized))
  parsed = {}
  for entry in _fields(features):
    name, feature = _fields(entry)
    (values,) = _fields(feature)
    (parsed[str(name, "utf-8")],) = _fields(values)
  return parsed


def _fields(message: memoryview) -> Iterator[memoryview]:
  """Contents of a protocol buffer's fields, all of which have a length before them."""
  place = 0
  while place < len(message):
    if message[place] & 7 != _LENGTH_DELIMITED:
      raise ValueError("got another protocol buffer, wanted an example of bytes features")
    length, shift = 0, 0
    while True:  # seven bits a byte, the lowest first; the eighth says that more follow
      place += 1
      length |= (message[place] & 127) << shift
      shift += 7
      if message[place] < 128:
        break
    place += 1
    yield message[place : place + length]
    place += length
