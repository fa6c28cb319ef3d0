"""Files that are written whole or not at all, and folders that may be links."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from corda_jax.errors import UserError


@contextlib.contextmanager
def atomic_write(path: Path, *, unique: bool = False, durable: bool = True) -> Iterator[Path]:
  """A path to write to; `path` has it when the context ends well, else nothing is left of it.

  Args:
    path: of the file; its folder is made.
    unique: whether several processes may write it at once.
    durable: whether it is on the disk before it has its name: else a machine that dies may keep the
      name and lose the contents.
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
  """Gives a file that is written its name, in place of what has it, once it is on the disk."""
  with open(partial, "rb") as file:
    os.fsync(file.fileno())
  partial.replace(path)


def leads_back(path: Path) -> bool:
  """Whether a path is a link to a folder that it comes through, so that following it never ends."""
  if not path.is_symlink():
    return False
  target = path.resolve()
  return any(folder.resolve() == target for folder in path.absolute().parents)


def check_links(path: Path) -> None:
  """Raises UserError where a path leads over a link to what does not exist: a disk not mounted."""
  for each in (path, *path.parents):
    if each.is_symlink() and not each.exists():
      raise UserError(
        f"{each} is a link to {os.readlink(each)}, which does not exist: mount that disk, or "
        "remove the link"
      )
