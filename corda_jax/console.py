"""The console: progress bars, and streams whose failures are ignored."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from absl import logging
from tqdm import tqdm


class _Stream:
  """A text stream that discards what cannot be written.

  A reader such as `head` may have exited, the disk of a log may be full, a terminal may be closed.
  """

  def __init__(self, stream: Any):
    self._stream = stream

  def write(self, text: str) -> int:
    with contextlib.suppress(OSError, ValueError):  # the latter if it is closed
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    with contextlib.suppress(OSError, ValueError):
      self._stream.flush()

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


def tolerate_failing_streams() -> None:
  """Makes stdout and stderr ignore all write errors from now on.

  Characters that their encoding lacks become "?"; a closed stream becomes the null device.
  """
  for number, name in ((1, "stdout"), (2, "stderr")):
    stream = getattr(sys, name)
    if stream is None:
      # The null device takes the file number of the stream. Otherwise the next opened file would
      # have it, and libraries would print into that file.
      null = os.open(os.devnull, os.O_RDWR)
      if null != number:
        os.dup2(null, number)
      stream = open(number, "w", closefd=False)  # noqa: SIM115 (until the program ends)
    with contextlib.suppress(AttributeError):  # notebooks have streams of their own
      stream.reconfigure(errors="replace")
    setattr(sys, name, _Stream(stream))


@contextlib.contextmanager
def errors_alone() -> Iterator[None]:
  """Silences the warnings of libraries that log with absl."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


def printable(text: str, otherwise: str) -> str:
  """`text`, or `otherwise` if the encoding of stdout lacks one of its characters."""
  try:
    text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
  except (LookupError, UnicodeEncodeError):
    return otherwise
  return text


def progress_bar(**options: Any) -> tqdm:
  """A tqdm bar; in a file, where each refresh adds a line, it refreshes every 30 seconds.

  Args:
    **options: options of tqdm.
  """
  seconds = 0.5 if sys.stderr.isatty() else 30
  return tqdm(mininterval=seconds, maxinterval=max(10, seconds), dynamic_ncols=True, **options)
