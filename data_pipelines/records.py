"""Reads frames of records by number, inside `tf.data`."""

import atexit
import bisect
import errno
import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from data_pipelines import quiet_tensorflow  # noqa: F401  # isort: skip (before all its users)

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from corda_jax.errors import UserError
from data_pipelines.datasets.base import FramesBuilder
from data_pipelines.tiles import Window, unpack


class Records:
  """The records of one split after another, by number; several threads may read at once."""

  def __init__(self, builder: FramesBuilder, splits: Sequence[str]):
    self.views = builder.builder_config.views
    split = builder.info.splits["+".join(splits)]
    self._files = [os.fspath(part.filename) for part in split.file_instructions]
    lengths = [part.examples_in_shard for part in split.file_instructions]
    self._ends = list(itertools.accumulate(lengths))
    self._source = builder.as_data_source(
      "+".join(splits), deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )

  def __len__(self) -> int:
    return self._ends[-1]

  def reader(
    self,
    contents: Sequence[str],
    locate: Callable[[Any, int], tuple[int, Window | None]],
    crop: tuple[int, int] | None,
  ) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """A function for `Dataset.map`: two numbers → the arrays of a frame.

    Args:
      contents: what is decoded.
      locate: the two numbers → a record's number, and the window of the frame; None: all of it.
      crop: height and width of the window; None: they differ.
    """
    size = crop or (None, None)
    image = tf.TensorSpec((*size, 3), tf.uint8)
    specs = {"image": image, "label": tf.TensorSpec(size, tf.uint8)}
    specs["inverse_depth"] = tf.TensorSpec(size, tf.float32)
    specs = {key: spec for key, spec in specs.items() if key in contents}
    if "views" in contents:
      specs |= {f"{view}_image": image for view in self.views}
      specs["intrinsics"] = tf.TensorSpec((4,), tf.float32)
      specs["baseline"] = tf.TensorSpec((), tf.float32)
    specs["name"] = tf.TensorSpec((), tf.string)

    def read(first: np.ndarray, second: np.ndarray) -> list[Any]:
      with _callbacks as needed:
        if not needed:
          return [_nothing(spec) for spec in specs.values()]
        frame = self._decode(specs, *locate(first.item(), second.item()))
        return [frame[key] for key in specs]

    def read_tensors(first: tf.Tensor, second: tf.Tensor) -> dict[str, tf.Tensor]:
      values = tf.numpy_function(read, [first, second], [spec.dtype for spec in specs.values()])
      return {
        key: tf.ensure_shape(value, spec.shape)
        for (key, spec), value in zip(specs.items(), values, strict=True)
      }

    return read_tensors

  def _decode(
    self, keys: Collection[str], number: int, window: Window | None
  ) -> Mapping[str, np.ndarray | bytes]:
    try:
      features = tf.train.Example.FromString(self._source[number]).features.feature
      frame = {}
      for key in keys:
        if key in ("intrinsics", "baseline"):
          frame[key] = np.array(features[key].float_list.value, np.float32)
        elif key == "name":
          frame[key] = features[key].bytes_list.value[0]
        else:
          frame[key] = unpack(features[key].bytes_list.value[0], window)
    except Exception as error:  # array_record, protocol buffers and Zstandard raise any kind
      reason = " ".join(str(error).split()) or type(error).__name__
      path = self._files[bisect.bisect_right(self._ends, number)]
      if os.strerror(errno.EMFILE) in reason:
        raise UserError(
          f"the record file {path!r} cannot be opened ({reason}): the limit of open files is low; "
          "raise it, for example with ulimit -n 4096"
        ) from error
      raise UserError(
        f"the record file {path!r} is damaged or lost ({reason}): fix the disk, or delete that "
        "folder and prepare the data set again"
      ) from error
    if "label" in frame:
      frame["label"] = frame["label"][..., 0]
    if "baseline" in frame:
      frame["baseline"] = frame["baseline"][0]
      if window is not None:
        frame["intrinsics"] -= np.array([0, 0, window[1], window[0]], np.float32)
    return frame


class _Callbacks:
  """Keeps TensorFlow from calling Python when the interpreter exits.

  A tf.data thread that waits for the interpreter's lock would then wait forever, and so would
  tf.data, which waits for its threads. From the beginning of the exit, callbacks return zeros at
  once, and every iterator, whoever holds it, releases its threads; other buffers fill up.
  """

  def __init__(self):
    self._lock = threading.Lock()
    self._running = 0
    self._last = 0.0
    self._exiting = False
    atexit.register(self._drain)

  def __enter__(self) -> bool:
    with self._lock:
      self._last = time.monotonic()
      self._running += 1
    return not self._exiting

  def __exit__(self, *_: object) -> None:
    with self._lock:
      self._running -= 1
      self._last = time.monotonic()

  def _drain(self) -> None:
    self._exiting = True
    # Not isinstance: it asks objects for their class, and some answer by an error.
    objects = gc.get_objects()
    for iterator in [each for each in objects if issubclass(type(each), tf.data.Iterator)]:
      vars(iterator).clear()
    while self._running or time.monotonic() - self._last < 0.1:
      time.sleep(0.01)


_callbacks = _Callbacks()


def _nothing(spec: tf.TensorSpec) -> np.ndarray | bytes:
  if spec.dtype == tf.string:
    return b""
  return np.zeros([size or 1 for size in spec.shape], spec.dtype.as_numpy_dtype)
