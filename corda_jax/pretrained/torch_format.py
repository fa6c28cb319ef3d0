"""Files of `torch.save`, read without PyTorch.

Two formats exist: since PyTorch 1.6 a zip archive, with a pickle and one entry a storage; before, a
magic number and several pickles in a row, followed by the storages. Both are described by
PyTorch's `torch/serialization.py`. A pickle can call whatever it names, so only the names in
`torch_values` are allowed, and nothing that a file names is imported or run.
"""

import os
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from corda_jax.errors import UserError, first_line
from corda_jax.pretrained.torch_values import ALLOWED, Storage, decode, expect

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001

# Files often mistaken for weights: their first bytes, and what they are.
_FOREIGN = (
  (rb"\s*<", "a web page: the download expects a confirmation or failed, open its address first"),
  (rb"version https://git-lfs", "a Git LFS pointer: fetch the file itself with git lfs pull"),
  (rb".{257}ustar", "a tar archive, as PyTorch wrote before 0.2: torch.save it again in PyTorch"),
  (rb"\s*[\[{]", "a JSON file: name the weights"),
  (rb"\x89PNG|\xff\xd8\xff|GIF8|BM", "an image: name the weights"),
  (rb"\x1f\x8b", "a gzip file: unpack it first"),
  (rb"\x89HDF", "an HDF5 file, of another framework: name a PyTorch file"),
)
# Everything that the parsers raise on malformed data.
_DAMAGE = (
  *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, OSError),
  *(RuntimeError, MemoryError, pickle.UnpicklingError, struct.error, zlib.error),
  zipfile.BadZipFile,
)


class _RefusedNameError(Exception):
  """A pickle names something that is not allowed; the argument is its full name."""


def read_torch_file(path: str | os.PathLike[str]) -> Any:
  """Reads what `torch.save` wrote.

  Args:
    path: file in either format.

  Returns:
    The saved dicts (ordered ones too), lists, tuples, strings and numbers, with a NumPy array for
    each tensor or parameter, read-only; views of one storage share memory. A device is a string.

  Raises:
    UserError: the file does not exist, has another format or is damaged; or it names anything but
      tensors and plain values, such as a class or a command. Nothing in it was run.
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
    except _RefusedNameError as error:
      raise UserError(
        f"{path} names {str(error)[:100]!r}, which weights do not need, so it was refused and "
        "nothing in it was run: if you trust it, save its state_dict() alone, of dense tensors, in "
        "PyTorch"
      ) from error
    except _DAMAGE as error:
      reason = first_line(error)[:200]
      raise UserError(
        f"{path} is damaged or not a PyTorch file ({reason}): download or copy it again"
      ) from error


class _Unpickler(pickle.Unpickler):
  """Reads one pickle, and leaves the file position at its end."""

  def __init__(self, file: Any, load_storage: Callable[[Any], Any] | None = None):
    start = file.tell()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
      # A damaged index of billions would allocate that much memory.
      if opcode.name.endswith("PUT") and argument > number:
        raise ValueError("a pickle with a place that is not the next")
    file.seek(start)
    super().__init__(file, encoding="latin1")
    self._load_storage = load_storage

  def find_class(self, module: str, name: str) -> Any:
    try:
      return ALLOWED[f"{module}.{name}"]
    except KeyError:
      raise _RefusedNameError(f"{module}.{name}") from None

  def persistent_load(self, pid: Any) -> Any:
    if self._load_storage is None:
      raise ValueError("a storage where none belongs")
    return self._load_storage(pid)


def _read_zip(file: BinaryIO, size: int) -> Any:
  if not zipfile.is_zipfile(file):
    raise ValueError("its end is missing")
  with zipfile.ZipFile(file) as archive:
    # PyTorch does not compress. Entries that unpack to more than the file could fill the memory.
    if sum(entry.file_size for entry in archive.infolist()) > size:
      raise ValueError("its entries are larger than the file")
    names = archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if re.search(r"(^|/)data\.pkl$", name)]
    if len(roots) != 1:
      raise ValueError("a zip archive without one data.pkl")
    order = "little"
    if f"{roots[0]}byteorder" in names:
      order = archive.read(f"{roots[0]}byteorder").decode()
    storages: dict[str, np.ndarray] = {}

    def load_storage(pid):
      key, dtype, count, _ = _storage_id(pid)
      if key not in storages:
        storages[key] = decode(archive.read(f"{roots[0]}data/{key}"), dtype, order)
      return Storage(_expect_storage(storages[key], dtype, count))

    with archive.open(f"{roots[0]}data.pkl") as pickled:
      return _Unpickler(pickled, load_storage).load()


class _Bounded:
  """Reads no more than the file has: an announced length of exabytes allocates nothing."""

  def __init__(self, file: BinaryIO, size: int):
    self._file, self._size = file, size
    self.readline, self.tell, self.seek = file.readline, file.tell, file.seek

  def read(self, count: int) -> bytes:
    return self._file.read(min(count, self._size - self._file.tell()))


def _read_legacy(file: BinaryIO, size: int) -> Any:
  reader = _Bounded(file, size)
  for expected in (_MAGIC_NUMBER, _PROTOCOL_VERSION):
    if _Unpickler(reader).load() != expected:
      raise ValueError("it does not begin as torch.save begins")
  _Unpickler(reader).load()  # the writer's machine; storages are little-endian whatever it was
  storages: dict[str, np.ndarray] = {}

  def load_storage(pid):
    # The elements come last in the file: tensors are views of storages that are filled later.
    key, dtype, count, view = _storage_id(pid)
    if key not in storages:
      if sum(x.nbytes for x in storages.values()) + count * dtype.itemsize > size:
        raise ValueError(f"storages larger than the file: {count} elements of {dtype}")
      storages[key] = np.zeros(count, dtype)
    elements = _expect_storage(storages[key], dtype, count)
    if view is None:
      return Storage(elements)
    _, offset, length = view
    if not 0 <= offset <= offset + length <= count:
      raise ValueError(f"a view of elements {offset} to {offset + length} of {count}")
    return Storage(elements[offset : offset + length])

  tree = _Unpickler(reader, load_storage).load()
  keys = expect(_Unpickler(reader).load(), list)
  if sorted(keys) != sorted(storages):
    raise ValueError("storages that are announced are missing")
  for key in keys:
    storage = storages[key]
    (count,) = struct.unpack("<q", reader.read(8))
    data = reader.read(storage.nbytes)
    if count != storage.size or len(data) < storage.nbytes:
      raise ValueError("a storage is not as long as announced")
    storage[:] = decode(data, storage.dtype, "little")
  return tree


def _storage_id(pid: Any) -> tuple[str, np.dtype, int, tuple | None]:
  """Key, type and number of elements of a storage, and (key, offset, length) of a view, or None."""
  kind, dtype, key, _, count, *view = expect(pid, tuple)
  if kind != "storage" or expect(count, int) < 0:
    raise ValueError("something else in place of a storage")
  return expect(key, str), expect(dtype, np.dtype), count, view[0] if view else None


def _expect_storage(elements: np.ndarray, dtype: np.dtype, count: int) -> np.ndarray:
  if (elements.dtype, elements.size) != (dtype, count):
    raise ValueError(
      f"a storage of {elements.size} {elements.dtype}, not of {count} {dtype}: two sizes or types"
    )
  return elements
