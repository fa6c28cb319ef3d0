"""The frames of a split as their files have them, without records."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from corda_jax.depth.inverse_depth import NO_DEPTH
from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from data_pipelines.datasets.builders import make_builder
from data_pipelines.parallel import available_cores
from data_pipelines.prepare import naming
from data_pipelines.preprocess import load_frame
from data_pipelines.readers import BadFrameError, decode, read_rgb
from data_pipelines.street_world.provide import render


class RawFrame(NamedTuple):
  """A frame.

  Attributes:
    name: as in its record.
    image: uint8 RGB [H, W, 3], at the size of its file.
  """

  name: str
  image: np.ndarray


class RawFrames:
  """The frames of a split, read by threads.

  Args:
    data_config: the `data` section of a configuration.
    domain: "source" or "target".
    split: split of that domain.
  """

  def __init__(self, data_config: Any, domain: str, split: str):
    """Finds the files; the street world is rendered first where it does not exist.

    Raises:
      UserError: the data set is missing or has another layout.
    """
    if data_config.street_world.enabled:
      render(data_config[domain], data_config)
    with naming(domain):
      builder = make_builder(
        data_config[domain],
        data_config.records_dir,
        split=split,
        contents=("image", "inverse_depth"),
        classes=ClassList.from_config(data_config.classes),
      )
      frames = builder.find().splits[split]
    self._frames = {frame.name: frame for frame in frames}
    self._recipe = builder.recipe(builder.builder_config, split)
    self._skip = data_config.bad_frames == "skip"
    self._threads = data_config.reader_threads or available_cores()

  @property
  def names(self) -> list[str]:
    """Names of the frames, in order."""
    return list(self._frames)

  def images(self, names: Iterable[str]) -> Iterator[RawFrame]:
    """Images of frames, in the order of the names.

    Raises:
      UserError: one cannot be read, and `bad_frames` is "stop".
    """

    def read(name):
      return RawFrame(name, np.asarray(decode(read_rgb, self._frames[name].image)))

    return self._read(read, names)

  def inverse_depth(self, name: str) -> np.ndarray:
    """Inverse depth of a frame's depth file at working resolution, float32 [H, W]; 1: none.

    Raises:
      UserError: it cannot be read, and `bad_frames` is "stop".
    """
    frame = dataclasses.replace(self._frames[name], label=None)
    try:
      return load_frame(frame, self._recipe)[2]
    except BadFrameError as error:
      self._report(error)
      return np.full(self._recipe.size, NO_DEPTH, np.float32)

  def _report(self, error: BadFrameError) -> None:
    """Raises an error of a file, or logs it where such files are left out."""
    if not self._skip:
      raise UserError(
        f'bad frame: {error}; fix it, or leave such frames out with data.bad_frames="skip"'
      ) from error
    logging.warning("left out: %s", error)

  def _read(self, read: Callable[[str], RawFrame], names: Iterable[str]) -> Iterator[RawFrame]:
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()

    def finish(keep):
      while len(waiting) > keep:
        try:
          yield waiting.popleft().result()
        except BadFrameError as error:
          self._report(error)

    with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
      try:
        for name in names:
          waiting.append(pool.submit(read, name))
          yield from finish(2 * self._threads)
        yield from finish(0)
      finally:
        pool.shutdown(cancel_futures=True)
