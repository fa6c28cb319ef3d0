"""A lock for one writer per folder, released whenever and however its process ends."""

import contextlib
import fcntl
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from corda_jax.atomic_io import check_links
from corda_jax.errors import UserError


@contextlib.contextmanager
def only_writer(path: Path, *, otherwise: str, wait: bool = False) -> Iterator[None]:
  """Holds the lock of a folder; other processes are refused, or wait.

  If the disk does not support locks, a warning is logged instead.

  Args:
    path: lock file in the folder; it names the process that holds the lock, and is not deleted.
    otherwise: alternative to a locked or unwritable folder, for the error.
    wait: whether to wait for another process that holds the lock.

  Raises:
    UserError: another process holds the lock, or the folder cannot be written.
  """
  check_links(path.parent)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed below)
  except OSError as error:
    raise UserError(
      f"{os.fspath(path.parent)!r} cannot be written ({error.strerror}): fix that, or {otherwise}"
    ) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter on CIFS
      holder = ""
      with contextlib.suppress(OSError):
        holder = os.pread(file.fileno(), 500, 0).decode(errors="replace").strip()
      holder = holder or "another process"
      if not wait:
        raise UserError(
          f"{os.fspath(path.parent)!r} is being written by {holder}: wait until that ends, or "
          f"{otherwise}"
        ) from None
      logging.warning("%s is being written by %s; waiting for it", path.parent, holder)
      fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
      logging.warning(
        "the disk of %s has no locks (%s): start no other process that writes there",
        path.parent, error.strerror,
      )  # fmt: skip
    with contextlib.suppress(OSError):  # a full disk: the lock works without the name
      file.truncate(0)
      file.write(_this_process().encode(errors="replace"))
    yield


def _this_process() -> str:
  command = shlex.join(os.path.basename(each) if each == sys.argv[0] else each for each in sys.argv)
  since = time.strftime("%Y-%m-%d %H:%M:%S")
  return f"process {os.getpid()} on {socket.gethostname()} since {since} ({command[:200]})\n"
