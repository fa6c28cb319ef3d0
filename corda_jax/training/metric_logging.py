"""Writes curves and pictures to TensorBoard files with clu, in addition to the history."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from corda_jax.errors import first_line


class CurvesWriter:
  """Writes TensorBoard files in the background.

  A failure is raised as `OSError` by the next call, so that the run can report it and continue.

  Args:
    writer: metric writer of clu.
  """

  def __init__(self, writer: Any):
    self._writer = writer

  def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a point to each curve."""
    with _as_os_error():
      self._writer.write_scalars(step, values)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Adds pictures, uint8 RGB [N, H, W, 3], by name."""
    with _as_os_error():
      self._writer.write_images(step, images)


@contextlib.contextmanager
def curves_writer(workdir: Path, create: Callable[..., Any]) -> Iterator[CurvesWriter]:
  """Opens the writer of the run in `workdir` and closes it in any case.

  Only process 0 writes.

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
      print(f"TensorBoard's curves cannot be written ({error}); history.jsonl has all of them")


@contextlib.contextmanager
def not_fatal(
  what: str, *, then: str = "the run is complete", say: Callable[[str], None] = print
) -> Iterator[None]:
  """Reports a failed write, such as on a full disk, instead of raising it.

  Args:
    what: what is written.
    then: what becomes of the run.
    say: prints the message.
  """
  try:
    yield
  except (OSError, jax.errors.JaxRuntimeError) as error:
    say(f"{what} cannot be written ({first_line(error)}); {then}")


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
  from clu import asynclib

  try:
    yield
  except asynclib.AsyncError as error:
    cause = error.__cause__ or error
    raise OSError(next(iter(str(cause).splitlines()), type(cause).__name__)) from error
