"""Reads frames of records by number, inside `tf.data`."""

import atexit
import bisect
import contextlib
import dataclasses
import errno
import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines import quiet_tensorflow  # noqa: F401  # isort: skip (before all its users)

import cv2
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from corda_jax.errors import UserError
from data_pipelines.crops import Cut
from data_pipelines.datasets.base import FramesBuilder
from data_pipelines.tiles import Window, unpack


class Records:
  """The records of one split after another, by number; several threads may read at once."""

  def __init__(self, builder: FramesBuilder, splits: Sequence[str]):
    config = builder.builder_config
    self.views, self._frame = config.views, (config.height, config.width)
    split = builder.info.splits["+".join(splits)]
    self._files = [os.fspath(part.filename) for part in split.file_instructions]
    lengths = [part.examples_in_shard for part in split.file_instructions]
    self._ends = list(itertools.accumulate(lengths))
    self._source = builder.as_data_source(
      "+".join(splits), deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, number: int) -> "Record":
    path = self._files[bisect.bisect_right(self._ends, number)]
    with _naming(path):
      features = tf.train.Example.FromString(self._source[number]).features.feature
    return Record(features, path, self._frame)

  def reader(
    self,
    contents: Sequence[str],
    choose: Callable[[Any, int], tuple["Record", Cut | None]],
    crop: tuple[int, int] | None,
  ) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """A function for `Dataset.map`: two numbers → the arrays of a frame.

    Args:
      contents: what is decoded.
      choose: the two numbers → a record, and what is cut from its frame; None: all of it.
      crop: height and width of what is cut; None: frames are read whole, and may differ in size.
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
    if crop is not None:
      specs["border"] = tf.TensorSpec((4,), tf.int32)
    specs["name"] = tf.TensorSpec((), tf.string)

    def read(first: np.ndarray, second: np.ndarray) -> list[Any]:
      with _callbacks as needed:
        if not needed:
          return [_nothing(spec) for spec in specs.values()]
        record, cut = choose(first.item(), second.item())
        frame = record.decode(specs, cut)
        return [frame[key] for key in specs]

    def read_tensors(first: tf.Tensor, second: tf.Tensor) -> dict[str, tf.Tensor]:
      values = tf.numpy_function(read, [first, second], [spec.dtype for spec in specs.values()])
      return {
        key: tf.ensure_shape(value, spec.shape)
        for (key, spec), value in zip(specs.items(), values, strict=True)
      }

    return read_tensors


@dataclasses.dataclass(frozen=True)
class Record:
  """A frame's record, read but not decoded.

  Attributes:
    features: its fields.
    path: its file.
    frame: height and width of the frame.
  """

  features: Mapping[str, Any]
  path: str
  frame: tuple[int, int]

  def label(self, window: Window | None) -> np.ndarray:
    """Training ids of a window, uint8 H W; None: of the whole label."""
    return self._array("label", window)[..., 0]

  def decode(self, keys: Collection[str], cut: Cut | None) -> dict[str, np.ndarray | bytes]:
    """The named fields, cut out; `border` is `Cut.border`."""
    window = cut and cut.window
    frame: dict[str, Any] = {}
    for key in keys:
      if key == "border":
        frame[key] = cut.border(self.frame)
      elif key == "name":
        frame[key] = self.features[key].bytes_list.value[0]
      elif key == "baseline":
        frame[key] = np.float32(self.features[key].float_list.value[0])
      elif key == "intrinsics":
        top, left = window[:2] if window else (0, 0)
        values = np.array(self.features[key].float_list.value, np.float32)
        frame[key] = values - np.array([0, 0, left, top], np.float32)
      else:
        array = self.label(window) if key == "label" else self._array(key, window)
        frame[key] = cv2.flip(array, 1) if cut and cut.mirrored else array
    return frame

  def _array(self, key: str, window: Window | None) -> np.ndarray:
    with _naming(self.path):
      return unpack(self.features[key].bytes_list.value[0], window)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
  """Names the record file in errors about it."""
  try:
    yield
  except Exception as error:  # array_record, protocol buffers and Zstandard raise any kind
    reason = " ".join(str(error).split()) or type(error).__name__
    if os.strerror(errno.EMFILE) in reason:
      raise UserError(
        f"the record file {path!r} cannot be opened ({reason}): the limit of open files is low; "
        "raise it, for example with ulimit -n 4096"
      ) from error
    raise UserError(
      f"the record file {path!r} is damaged or lost ({reason}): fix the disk, or delete that "
      "folder and prepare the data set again"
    ) from error


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
