"""The console: progress bars, and streams whose failures end nothing."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from absl import logging
from tqdm import tqdm


class _Stream:
  """A text stream that a program does not depend on: what cannot be written is lost.

  A reader such as `head` may have left, the disk of a log may be full, a terminal may be gone.
  """

  def __init__(self, stream: Any):
    self._stream = stream

  def write(self, text: str) -> int:
    with contextlib.suppress(OSError, ValueError):  # the latter where it is closed
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    with contextlib.suppress(OSError, ValueError):
      self._stream.flush()

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


def tolerate_failing_streams() -> None:
  """From here on nothing that happens to stdout and stderr raises an error.

  Characters that their encoding lacks become "?"; a stream that was closed is the null device.
  """
  for number, name in ((1, "stdout"), (2, "stderr")):
    stream = getattr(sys, name)
    if stream is None:
      # It takes the stream's number, which the next file that is opened would have otherwise: what
      # libraries print would be written into that file.
      null = os.open(os.devnull, os.O_RDWR)
      if null != number:
        os.dup2(null, number)
      stream = open(number, "w", closefd=False)  # noqa: SIM115 (until the program ends)
    with contextlib.suppress(AttributeError):  # notebooks have streams of their own
      stream.reconfigure(errors="replace")
    setattr(sys, name, _Stream(stream))


@contextlib.contextmanager
def errors_alone() -> Iterator[None]:
  """Silences the warnings of libraries that log by absl."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


def printable(text: str, otherwise: str) -> str:
  """`text`, or `otherwise` where the encoding of stdout lacks one of its characters."""
  try:
    text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
  except (LookupError, UnicodeEncodeError):
    return otherwise
  return text


def progress_bar(**options: Any) -> tqdm:
  """A bar of tqdm; into a file, where each refresh is one more line, it writes every half minute.

  Args:
    **options: of tqdm.
  """
  seconds = 0.5 if sys.stderr.isatty() else 30
  return tqdm(mininterval=seconds, maxinterval=max(10, seconds), dynamic_ncols=True, **options)
