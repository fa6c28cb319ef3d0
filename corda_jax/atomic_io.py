"""Atomic writes of files, and checks of symbolic links."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from corda_jax.errors import UserError


@contextlib.contextmanager
def atomic_write(path: Path, *, unique: bool = False, durable: bool = True) -> Iterator[Path]:
  """Yields a temporary path that is renamed to `path` on success and deleted on failure.

  Args:
    path: path of the file; its folder is created.
    unique: whether several processes may write the file at the same time.
    durable: whether the contents are flushed to disk before the rename; otherwise a crash of the
      machine may leave the file without its contents.
  """
  middle = f".{uuid.uuid4().hex}" if unique else ""
  partial = path.with_name(f"{path.name}{middle}.partial")
  partial.parent.mkdir(parents=True, exist_ok=True)
  try:
    yield partial
    replace_durably(partial, path) if durable else partial.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
    raise


def replace_durably(partial: Path, path: Path) -> None:
  """Flushes a finished file to disk and renames it to `path`, replacing an existing file."""
  with open(partial, "rb") as file:
    os.fsync(file.fileno())
  partial.replace(path)


def leads_back(path: Path) -> bool:
  """Whether a path is a link to one of its own parent folders, which would be followed forever."""
  if not path.is_symlink():
    return False
  target = path.resolve()
  return any(folder.resolve() == target for folder in path.absolute().parents)


def check_links(path: Path) -> None:
  """Raises UserError if a link in a path has no target, as when a disk is not mounted."""
  for each in (path, *path.parents):
    if each.is_symlink() and not each.exists():
      raise UserError(
        f"{each} is a link to {os.readlink(each)}, which does not exist: mount that disk, or "
        "remove the link"
      )
