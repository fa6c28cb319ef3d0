"""The files of a data set: those under its root, and the members of zip archives in the root.

The archives of GTA5 and Cityscapes hold the paths that they unpack to, so both are one tree here.
Members are read in place. A location names a file: its path, or ARCHIVE.zip!/MEMBER for a member of
an archive. Hidden files are ignored, and suffixes match in lower and upper case.
"""

import functools
import io
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

from corda_jax.atomic_io import check_links, leads_back
from corda_jax.errors import UserError

_ENDING = ".zip"
_INSIDE = "!/"  # between archive and member
_OTHER_ARCHIVES = (".rar", ".7z", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED = 1  # bit of a member's flags


class DataFiles:
  """The tree of a data set. An unpacked file takes precedence over one in an archive.

  Args:
    root: folder of the unpacked files, the archives, or both.

  Raises:
    UserError: the root is missing or cannot be read, or an archive is broken or encrypted.
  """

  def __init__(self, root: str):
    """Reads the archives' tables of contents."""
    self.root = os.path.expanduser(root)
    if not os.path.isdir(self.root):
      raise UserError(f"no data set at {root!r}: no such folder; set root to its folder")
    self._archived: dict[str, str] = {}  # path below the root → location
    self.other_archives: list[str] = []  # names of archives that are not read
    for entry in sorted(_scan(self.root), key=lambda entry: entry.name):
      if entry.name.lower().endswith(_ENDING) and entry.is_file():
        self._add_archive(entry.path)
      elif entry.name.lower().endswith(_OTHER_ARCHIVES):
        self.other_archives.append(entry.name)

  def _add_archive(self, path: str) -> None:
    try:
      members = _archive(path).infolist()
    except (OSError, zipfile.BadZipFile) as error:
      reason = getattr(error, "strerror", None) or error
      raise UserError(
        f"{path!r} cannot be read as a zip archive ({reason}): download it again, or move it away"
      ) from error
    for member in members:
      if member.is_dir():
        continue
      if member.flag_bits & _ENCRYPTED:
        raise UserError(
          f"{path!r} is encrypted ({member.filename}): unpack it into its folder, and move it away"
        )
      if member.compress_type not in _COMPRESSIONS:  # such as large files from Windows' own tool
        raise UserError(
          f"{path!r} is compressed by a method that Python does not read ({member.filename}): "
          "unpack it into its folder, and move it away"
        )
      below = member.filename.replace("\\", "/")  # old Windows tools write backslashes
      self._archived.setdefault(below, f"{path}{_INSIDE}{member.filename}")

  def find(self, prefix: str, suffix: str) -> dict[str, str]:
    """Maps the part of the path between prefix and suffix to the file's location, at any depth.

    Args:
      prefix: start of the paths below the root, for example "" or "train/images/".
      suffix: end of the paths.

    Raises:
      UserError: a folder may not be read.
    """
    files = dict(self._archived)
    folders = [prefix.rpartition("/")[0]]
    while folders:
      folder = folders.pop()
      path = os.path.join(self.root, folder)
      for entry in _scan(path) if os.path.isdir(path) else []:
        below = f"{folder}/{entry.name}" if folder else entry.name
        try:
          is_folder = entry.is_dir()
        except OSError:  # a link to itself
          continue
        if is_folder:
          if not entry.name.startswith(".") and not leads_back(Path(entry.path)):
            folders.append(below)
          continue
        if entry.is_symlink() and not os.path.splitext(entry.name)[1]:
          check_links(Path(entry.path))  # a missing file is reported with its frame
        files[below] = entry.path
    found: dict[str, str] = {}
    for path, location in files.items():
      if (
        path.startswith(prefix)
        and path.lower().endswith(suffix.lower())
        and len(path) > len(prefix) + len(suffix)
        and "/." not in f"/{path}"
      ):
        name = path[len(prefix) : len(path) - len(suffix)]
        if found.setdefault(name, location) != location:
          raise UserError(
            f"{found[name]!r} and {location!r} differ only in the case of their suffix: leave "
            "one of them out"
          )
    return found

  def below(self, location: str) -> str:
    """Path below the root of a location in the tree."""
    _, inside, member = location.partition(_INSIDE)
    return member.replace("\\", "/") if inside else os.path.relpath(location, self.root)

  def locate(self, path: str) -> str:
    """Location of the file at a path below the root, whether or not it exists."""
    unpacked = os.path.join(self.root, path)
    return unpacked if os.path.exists(unpacked) else self._archived.get(path, unpacked)


def depth_tree(files: DataFiles, depth_root: str) -> DataFiles:
  """The tree of a data set's depth files.

  Args:
    files: tree of the data set.
    depth_root: folder of the depth files, or "" where they are in the data set's own tree.

  Raises:
    UserError: the folder of depth files does not exist.
  """
  if not depth_root:
    return files
  if not os.path.isdir(os.path.expanduser(depth_root)):
    raise UserError(
      f"no depth files at {depth_root!r}: the folder does not exist; set depth_root to where they "
      "are, or to '' if they are below root"
    )
  return DataFiles(depth_root)


def open_file(location: str) -> BinaryIO:
  """Opens a file, or a member of an archive, for reading.

  Raises:
    OSError: it is missing or may not be read.
    zipfile.BadZipFile: the archive or its member is broken.
  """
  archive, member = _split(location)
  if archive is None:
    return open(location, "rb")
  return io.BytesIO(_archive(archive).read(member))


def file_size(location: str) -> int | None:
  """Bytes of a file or member, unpacked; None where there is no such file."""
  archive, member = _split(location)
  try:
    if archive is None:
      return os.path.getsize(location)
    return _archive(archive).getinfo(member).file_size
  except (OSError, KeyError):
    return None


def _split(location: str) -> tuple[str | None, str]:
  location = os.fspath(location)
  archive, inside, member = location.partition(_INSIDE)
  if inside and archive.lower().endswith(_ENDING):
    return archive, member
  return None, location


def _archive(path: str) -> zipfile.ZipFile:
  """The opened archive; each process opens it once."""
  stat = os.stat(path)
  return _open_archive(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=64)
def _open_archive(path: str, _changed: int, _size: int) -> zipfile.ZipFile:
  return zipfile.ZipFile(path)


def _scan(path: str) -> list[os.DirEntry]:
  try:
    with os.scandir(path) as entries:
      return list(entries)
  except OSError as error:
    raise UserError(
      f"the folder {path!r} cannot be listed ({error.strerror}): check its permissions"
    ) from error
