"""Imports TensorFlow without its start-up notices, and keeps it off accelerators.

TensorFlow prints notices about drivers and instruction sets while it is loaded, before any setting
of its log can act, and on a machine without a GPU one more when it looks for devices. Later it
prints a warning for every error that also arrives as an exception. None of them matters
here: TensorFlow only reads files and writes curves. Import this module before anything else
that imports TensorFlow.
"""

import contextlib
import os
from collections.abc import Iterator

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Discards what is written to file descriptor 2, also by C++; only fatal errors are logged."""
  level = os.environ.get(_LOG_LEVEL)  # JAX sets it; TensorFlow reads it once
  os.environ[_LOG_LEVEL] = "3"
  saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 2)
  try:
    yield
  finally:
    os.dup2(saved, 2)
    os.close(saved)
    os.close(nowhere)
    os.environ[_LOG_LEVEL] = "3" if level is None else level


with _quiet():
  import tensorflow as tensorflow

  for kind in ("GPU", "TPU"):
    tensorflow.config.set_visible_devices([], kind)
