"""Imports TensorFlow without its start-up notices, and keeps it off accelerators.

TensorFlow prints notices about drivers and instruction sets while it is loaded, before any setting
of its log can act, and on a machine without a GPU one more when it looks for devices. None of them
is about anything that happens here: it only reads files and writes curves. Errors still arrive as
exceptions. Import this module before anything else that imports TensorFlow.
"""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
  """Sends what is written to file descriptor 2, also by C++, to nowhere."""
  saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 2)
  try:
    yield
  finally:
    os.dup2(saved, 2)
    os.close(saved)
    os.close(nowhere)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _without_stderr():
  import tensorflow as tensorflow

  tensorflow.config.set_visible_devices([], "GPU")
