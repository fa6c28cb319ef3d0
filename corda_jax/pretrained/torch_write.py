"""Files that `torch.load` reads, written without PyTorch."""

import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corda_jax.atomic_io import atomic_write
from corda_jax.pretrained.torch_values import STORAGE_TYPES


def write_torch_file(path: str | os.PathLike[str], tree: Any) -> None:
  """Writes a file that `torch.load` reads, also with `weights_only=True`, atomically.

  Args:
    path: file to write; replaced if it exists.
    tree: nested dicts, lists, tuples, strings, numbers, bools, None, and arrays, which become
      contiguous tensors on the CPU.

  Raises:
    TypeError: the tree holds anything else.
    OSError: the file cannot be written.
  """
  path = Path(path)

  def add(name, data):
    # Dated 1980 by default: the same weights give the same bytes.
    archive.writestr(zipfile.ZipInfo(f"{path.stem}/{name}"), data)

  count = 0

  def encode_array(array):
    nonlocal count
    call, data = _encode(array, str(count))
    add(f"data/{count}", data)
    count += 1
    return call

  with atomic_write(path) as partial, zipfile.ZipFile(partial, "w") as archive:
    add("data.pkl", _dump(tree, encode_array))
    add("byteorder", b"little")
    add("version", b"3\n")


def _encode(array: np.ndarray, key: str) -> tuple[Any, bytes]:
  """A tensor on the CPU, for `_dump`, and the little-endian bytes of its storage, named `key`.

  Raises:
    TypeError: PyTorch has no storage of such elements.
  """
  names = [name for name, dtype in STORAGE_TYPES.items() if dtype == array.dtype]
  if not names:
    raise TypeError(f"an array of {array.dtype} cannot be written for PyTorch")
  strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
  storage = _Persistent(("storage", _Global("torch", names[0]), key, "cpu", array.size))
  hooks = _Call(_Global("collections", "OrderedDict"), ())
  rebuild = _Global("torch._utils", "_rebuild_tensor_v2")
  call = _Call(rebuild, (storage, 0, array.shape, strides, False, hooks))
  unsigned = np.ascontiguousarray(array).reshape(-1).view(f"u{array.itemsize}")
  return call, unsigned.astype(unsigned.dtype.newbyteorder("<"), copy=False).tobytes()


class _Global(NamedTuple):
  """A name that `_dump` writes for PyTorch to look up."""

  module: str
  name: str


class _Call(NamedTuple):
  """A call that `_dump` writes for PyTorch to make."""

  function: _Global
  arguments: tuple[Any, ...]


class _Persistent(NamedTuple):
  """An id that `_dump` writes for PyTorch to look up beside the pickle."""

  id: tuple[Any, ...]


def _dump(value: Any, encode_array: Callable[[np.ndarray], Any]) -> bytes:
  """Writes a pickle of protocol 2.

  Args:
    value: nested dicts, lists, tuples, strings, ints, floats, bools, None, arrays, and the three
      classes above.
    encode_array: array → the value that is written for it.

  Raises:
    TypeError: the value holds anything else.
  """
  parts: list[bytes] = []

  def write(x):
    match x:
      case _Global():
        parts.append(f"c{x.module}\n{x.name}\n".encode())
      case _Call():
        write(x.function), write(x.arguments), parts.append(b"R")
      case _Persistent():
        write(x.id), parts.append(b"Q")
      case None | True | False:
        parts.append({None: b"N", True: b"\x88", False: b"\x89"}[x])
      case int():
        length = x.bit_length() // 8 + 1
        parts.append(b"\x8a" + bytes([length]) + x.to_bytes(length, "little", signed=True))
      case float():
        parts.append(b"G" + struct.pack(">d", x))
      case str():
        parts.append(b"X" + struct.pack("<I", len(x.encode())) + x.encode())
      case dict():
        parts.append(b"}(")
        for key, item in x.items():
          write(key), write(item)
        parts.append(b"u")
      case list() | tuple():
        parts.append(b"](" if isinstance(x, list) else b"(")
        for item in x:
          write(item)
        parts.append(b"e" if isinstance(x, list) else b"t")
      case np.ndarray():
        write(encode_array(x))
      case _:
        raise TypeError(f"a {type(x).__name__} cannot be written for PyTorch")

  write(value)
  return b"\x80\x02" + b"".join(parts) + b"."
