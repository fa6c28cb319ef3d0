"""Records of a split: read by number, and parsed."""

import os
from collections.abc import Sequence

import tensorflow as tf
from array_record.python import array_record_data_source

from data_pipelines.builder import FramesBuilder


class Records:
  """The records of a split, by number; several threads may read at once."""

  def __init__(self, builder: FramesBuilder, split: str):
    """Opens them."""
    self._source = array_record_data_source.ArrayRecordDataSource(
      [os.fspath(path) for path in builder.info.splits[split].filepaths],
      reader_options={"max_parallelism": "0"},
    )

  def __len__(self) -> int:
    """Their number."""
    return len(self._source)

  def read(self, numbers: Sequence[int]) -> list[bytes]:
    """Serialized examples."""
    # One by one in this thread: to read them together starts threads anew for every call, which
    # costs three times the reading. Readers of batches are several already.
    return [self._source[number] for number in numbers]


def parse(serialized: bytes) -> dict[str, bytes]:
  """A serialized example's features, packed as they are: name, image, label, inverse_depth."""
  features = tf.train.Example.FromString(serialized).features.feature
  return {name: feature.bytes_list.value[0] for name, feature in features.items()}
