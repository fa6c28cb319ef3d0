"""Files of `torch.save`, read without PyTorch.

Nothing that a file names is imported or called, so a file from anywhere can be opened. Two formats
exist: since PyTorch 1.6 a zip archive, with a pickle and one entry a storage; before, a magic
number and several pickles in a row, with the storages behind them. Both are described by PyTorch's
`torch/serialization.py`.
"""

import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from corda_jax.errors import UserError
from corda_jax.models.torch_pickle import RefusedGlobal, expect, load
from corda_jax.models.torch_tensors import ALLOWED, Storage, decode

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001

# What is often found under the name of a weights file: its first bytes, and what it is.
_FOREIGN = (
  (rb"\s*<", "a web page: the download wants a confirmation or failed, open its address first"),
  (rb"version https://git-lfs", "a Git LFS pointer: fetch the file itself with git lfs pull"),
  (rb".{6}\0\0\{", "a safetensors file: load it in PyTorch and torch.save its tensors"),
  (rb".{257}ustar", "a tar archive, as PyTorch wrote before 0.2: torch.save it again in PyTorch"),
  (rb"\s*[\[{]", "a JSON file: name the weights"),
  (rb"\x89PNG|\xff\xd8\xff|GIF8|BM", "an image: name the weights"),
  (rb"\x1f\x8b", "a gzip file: unpack it first"),
  (rb"\x89HDF", "an HDF5 file, of another framework: name a PyTorch file"),
)
# All that malformed data makes the parsers raise.
_DAMAGE = (
  *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, OSError),
  *(RuntimeError, MemoryError, struct.error, zlib.error, zipfile.BadZipFile),
)


def read_torch_file(path: str | os.PathLike[str]) -> Any:
  """Reads what `torch.save` wrote.

  Args:
    path: of a file in either format.

  Returns:
    The saved dicts (ordered ones too), lists, tuples, strings and numbers, with a NumPy array for
    each tensor or parameter, read-only; views of one storage share memory. A device is text.

  Raises:
    UserError: there is no such file; it is something else; it is damaged; or it names anything but
      tensors and plain values, such as a class or a command. Nothing of it was run.
  """
  path = Path(path)
  try:
    file = path.open("rb")
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}): name a weights file") from error
  with file:
    try:
      head = file.read(512)
      size = file.seek(0, os.SEEK_END)
      file.seek(0)
      if not size:
        raise UserError(f"{path} is empty: download or copy it again")
      for pattern, kind in _FOREIGN:
        if re.match(pattern, head, re.DOTALL):
          raise UserError(f"{path} is not a PyTorch file but {kind}")
      return _read_zip(file, size) if head.startswith(b"PK") else _read_legacy(file, size)
    except UserError:
      raise
    except RefusedGlobal as error:
      raise UserError(
        f"{path} names {str(error)[:100]!r}, which weights do not need, so it was refused and "
        "nothing of it was run: if you trust it, save its state_dict() alone, of dense tensors, in "
        "PyTorch"
      ) from error
    except _DAMAGE as error:
      reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
      raise UserError(
        f"{path} is damaged or not a PyTorch file ({reason}): download or copy it again"
      ) from error


class _Storages:
  """The storages of a file by key, each with one type and size; together no larger than it.

  Args:
    size: of the file, in bytes.
  """

  def __init__(self, size: int):
    self._room = size
    self.by_key: dict[str, np.ndarray] = {}

  def announced(self, value: Any) -> tuple[str, np.ndarray, Any]:
    """Key of the storage that a pickle's id `value` means, its array, and its view or None.

    The array is there from the first mention on, so that tensors can be views of it, and is filled
    when the elements are read.
    """
    kind, dtype, key, _, count, *view = expect(value, tuple)
    if expect(kind, str) != "storage" or expect(count, int) < 0:
      raise ValueError(f"a {kind[:20]!r} of {count} elements instead of a storage")
    nbytes = count * expect(dtype, np.dtype).itemsize
    if expect(key, str) not in self.by_key:
      self._room -= nbytes
      if self._room < 0:
        raise ValueError(f"storages larger than the file: {count} elements of {dtype}")
      self.by_key[key] = np.zeros(count, dtype)
    storage = self.by_key[key]
    if (storage.dtype, storage.size) != (dtype, count):
      raise ValueError("a storage of two types or sizes")
    return key, storage, view[0] if view else None


def _read_zip(file: BinaryIO, size: int) -> Any:
  if not zipfile.is_zipfile(file):
    raise ValueError("its end is missing")
  with zipfile.ZipFile(file) as archive:
    # PyTorch compresses nothing. What unpacks to more than the file could fill the memory.
    if sum(entry.file_size for entry in archive.infolist()) > size:
      raise ValueError("its entries are larger than the file")
    names = archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if re.search(r"(^|/)data\.pkl$", name)]
    if len(roots) != 1:
      raise ValueError("a zip archive without one data.pkl")
    order = "little"
    if f"{roots[0]}byteorder" in names:
      order = archive.read(f"{roots[0]}byteorder").decode()
    storages, filled = _Storages(size), set()

    def load_storage(value):
      key, storage, _ = storages.announced(value)
      if key not in filled:
        filled.add(key)
        data = archive.read(f"{roots[0]}data/{key}")
        if len(data) != storage.nbytes:
          raise ValueError(f"storage {key} has {len(data)} bytes, not {storage.nbytes}")
        storage[:] = decode(data, storage.dtype, order)
      return Storage(storage)

    with archive.open(f"{roots[0]}data.pkl") as pickled:
      return load(pickled, ALLOWED, load_storage)


class _Bounded:
  """Reads no more than the file has: an announced length of exabytes allocates nothing."""

  def __init__(self, file: BinaryIO, size: int):
    self._file, self._size = file, size
    self.readline = file.readline

  def read(self, count: int) -> bytes:
    return self._file.read(min(count, self._size - self._file.tell()))


def _read_legacy(file: BinaryIO, size: int) -> Any:
  reader = _Bounded(file, size)
  for wanted in (_MAGIC_NUMBER, _PROTOCOL_VERSION):
    if expect(load(reader, {}), int) != wanted:
      raise ValueError("it does not begin as torch.save begins")
  load(reader, {})  # the writer's machine; storages are little-endian whatever it was
  storages = _Storages(size)

  def load_storage(value):
    _, storage, view = storages.announced(value)
    if view is None:
      return Storage(storage)
    _, offset, length = expect(view, tuple)
    if not 0 <= expect(offset, int) <= offset + expect(length, int) <= storage.size:
      raise ValueError(f"a view of elements {offset} to {offset + length} of {storage.size}")
    return Storage(storage[offset : offset + length])

  tree = load(reader, ALLOWED, load_storage)
  keys = [expect(key, str) for key in expect(load(reader, {}), list)]
  if sorted(keys) != sorted(storages.by_key):
    raise ValueError("storages that are announced are not there")
  for key in keys:
    storage = storages.by_key[key]
    (count,) = struct.unpack("<q", reader.read(8))
    data = reader.read(storage.nbytes)
    if count != storage.size or len(data) < storage.nbytes:
      raise ValueError("a storage is not as long as announced")
    storage[:] = decode(data, storage.dtype, "little")
  return tree
