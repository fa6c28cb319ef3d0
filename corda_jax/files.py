"""Files that are written whole or not at all, and folders that may be links."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from corda_jax.errors import UserError


@contextlib.contextmanager
def whole_or_not(path: Path) -> Iterator[Path]:
  """A path to write to; `path` has it when the context ends well, else nothing is left of it."""
  partial = path.with_name(path.name + ".partial")
  try:
    yield partial
    name_whole(partial, path)
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
    raise


def name_whole(partial: Path, path: Path) -> None:
  """Gives a file that is written its name, in place of what has it."""
  with open(partial, "rb") as file:
    os.fsync(file.fileno())  # else a machine that dies may keep the name and lose the contents
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
