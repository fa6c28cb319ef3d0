"""Where curves and pictures go beside the history: TensorBoard's files, by clu."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


class CurvesWriter:
  """Writes to TensorBoard's files in the background.

  Whatever fails there is raised as `OSError` by the next call, for the run to report and go on.

  Args:
    writer: of clu.
  """

  def __init__(self, writer: Any):
    self._writer = writer

  def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a point to each curve."""
    with _as_os_error():
      self._writer.write_scalars(step, values)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Adds pictures, uint8 RGB [N, H, W, 3]."""
    with _as_os_error():
      self._writer.write_images(step, images)


@contextlib.contextmanager
def curves_writer(workdir: Path, create: Callable[..., Any]) -> Iterator[CurvesWriter]:
  """The writer of the run in `workdir`; closed at the end, whatever that is.

  Processes but the first write nothing.

  Args:
    workdir: folder of the run.
    create: `clu.metric_writers.create_default_writer`, whose module imports TensorFlow.
  """
  writer = create(str(workdir / "tensorboard"), just_logging=jax.process_index() > 0)
  try:
    yield CurvesWriter(writer)
  finally:
    try:
      with _as_os_error():
        writer.close()
    except OSError as error:
      print(f"TensorBoard's curves cannot be written ({error}); history.jsonl has them all")


@contextlib.contextmanager
def not_fatal(what: str) -> Iterator[None]:
  """A full disk at the end of a run, which is complete, is reported and is no failure of it."""
  try:
    yield
  except OSError as error:
    print(f"{what} cannot be written ({error}); the run is complete")


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
  from clu import asynclib

  try:
    yield
  except asynclib.AsyncError as error:
    cause = error.__cause__ or error
    raise OSError(next(iter(str(cause).splitlines()), type(cause).__name__)) from error
