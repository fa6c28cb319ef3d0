"""Records in a bucket (gs://…): prepared and read in a local folder, and copied.

The reader of the record format knows local files only, and training reads at random places. So
records are fetched once, whole, into a cache. In the bucket as on a disk the report comes last:
records without it are not there.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from corda_jax.errors import UserError
from data_pipelines.builder import REPORT_FILE
from data_pipelines.records import tell

DEFAULT_CACHE = "data/cache"
_MARK = "://"


def is_remote(records_dir: str) -> bool:
  """Whether records_dir is a bucket's."""
  return _MARK in os.fspath(records_dir)


def local_folder(records_dir: str, cache_dir: str) -> str:
  """The folder in which records of records_dir are prepared and read."""
  if not is_remote(records_dir):
    return os.fspath(records_dir)
  return os.path.join(cache_dir, *os.fspath(records_dir).split(_MARK))


class Retry(NamedTuple):
  """What is done about a bucket that does not answer.

  Attributes:
    times: how often it is asked again.
    seconds: waited for before each.
  """

  times: int = 2
  seconds: float = 5.0


DEFAULT_RETRY = Retry()


def fetch(remote: str, local: Path, retry: Retry) -> None:
  """Copies records from a bucket, unless it has none or the same are there.

  Args:
    remote: folder of one data set's records.
    local: the same; appears whole, in the place of other records.
    retry: where the bucket does not answer.

  Raises:
    UserError: the bucket cannot be read, or the cache cannot be written.
  """
  import tensorflow as tf  # here, so that to read records on a disk needs none of it

  def copy() -> None:
    if not tf.io.gfile.exists(f"{remote}/{REPORT_FILE}"):
      return
    with tf.io.gfile.GFile(f"{remote}/{REPORT_FILE}") as file:
      report = file.read()
    if (local / REPORT_FILE).exists() and (local / REPORT_FILE).read_text() == report:
      return
    unfinished = local.with_name(f"incomplete.fetched_{local.name}")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir(parents=True)
    for name in tf.io.gfile.listdir(remote):
      tf.io.gfile.copy(f"{remote}/{name}", os.fspath(unfinished / name))
    shutil.rmtree(local, ignore_errors=True)
    unfinished.rename(local)

  try:
    _tried_again(copy, retry)
  except (OSError, tf.errors.OpError) as error:
    raise UserError(f"records cannot be fetched from {remote!r} ({_reason(error)})") from error


def publish(local: Path, remote: str, retry: Retry) -> None:
  """Copies records to a bucket that has none; the report, which makes them whole, last.

  Raises:
    UserError: the bucket cannot be written.
  """
  import tensorflow as tf

  def copy() -> None:
    if tf.io.gfile.exists(f"{remote}/{REPORT_FILE}"):
      return
    tf.io.gfile.makedirs(remote)
    names = sorted(path.name for path in local.iterdir() if path.name != REPORT_FILE)
    for name in (*names, REPORT_FILE):
      if tf.io.gfile.exists(f"{remote}/{name}"):  # of a copy that was stopped
        tf.io.gfile.remove(f"{remote}/{name}")
      tf.io.gfile.copy(os.fspath(local / name), f"{remote}/{name}")

  try:
    _tried_again(copy, retry)
  except (OSError, tf.errors.OpError) as error:
    raise UserError(
      f"records cannot be copied to {remote!r} ({_reason(error)}): mend that and run again; they "
      f"are whole in {os.fspath(local)!r}"
    ) from error


def _tried_again(copy: Callable[[], None], retry: Retry) -> None:
  """Runs it, and again where the bucket is lost for a while."""
  import tensorflow as tf

  for left in range(retry.times, 0, -1):
    try:
      copy()
      return
    except (OSError, tf.errors.OpError) as error:
      tell(
        f"the bucket does not answer ({_reason(error)}): trying again in {retry.seconds:g} "
        f"seconds, {left} times at most"
      )
      time.sleep(retry.seconds)
  copy()


def _reason(error: Exception) -> str:
  text = getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
  return " ".join(text.split())
