"""Arrays as records hold them: compressed without loss, cut out without decoding the rest.

Rows are compressed in bands, so that a crop costs only the bands that it touches. In a band, from
every byte the one above it is subtracted modulo 256, as PNG's filter "up" does, but its first row
stays, so that bands do not depend on each other. The bytes of a float32 lie in four planes, the
lowest first: apart, the high bytes of neighbours are alike. What remains goes through Zstandard,
which decodes it many times faster than PNG's zlib and at nearly the same size.

What is packed begins with little-endian uint32: bytes a value (1: uint8, 4: float32), number of
axes, shape, and the size of every band. Everything here is NumPy and pyarrow, which lets other
threads run while it decompresses.
"""

import itertools
import math
import threading
from collections.abc import Iterator

import numpy as np
import pyarrow

_BAND = 64  # rows; fewer cost more calls, more make crops decode more of what they do not show
_LEVEL = 1  # of Zstandard; higher ones are slower to write and to read, and hardly smaller
_DTYPES = {1: np.dtype("u1"), 4: np.dtype("<f4")}
_NUMBER = np.dtype("<u4")  # of the header
_CODEC = pyarrow.Codec("zstd")  # to decode, at any level

Window = tuple[int, int, int, int]  # top, left, height, width


class _Scratch(threading.local):
  """Memory that a thread uses again: fresh pages cost as much as the decoding."""

  _memory = np.empty(0, np.uint8)

  def array(self, shape: tuple[int, ...]) -> np.ndarray:
    """An array of uint8 that holds anything."""
    size = math.prod(shape)
    if size > len(self._memory):
      self._memory = np.empty(size, np.uint8)
    return self._memory[:size].reshape(shape)


_scratch = _Scratch()


def pack(array: np.ndarray) -> bytes:
  """Uint8 or float32 of shape H W or H W C, at least 1 in every axis, compressed without loss.

  Raises:
    ValueError: another shape or type.
  """
  size = array.dtype.itemsize
  if array.dtype not in _DTYPES.values() or array.ndim not in (2, 3) or not array.size:
    raise ValueError(f"got {array.dtype}{array.shape}, wanted uint8 or float32 of H W or H W C")
  octets = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1, size)
  codec = pyarrow.Codec("zstd", compression_level=_LEVEL)
  bands = []
  for start in range(0, len(array), _BAND):
    band = octets[start : start + _BAND].transpose(2, 0, 1)
    difference = np.array(band, order="C")
    difference[:, 1:] -= band[:, :-1]
    bands.append(codec.compress(difference, asbytes=True))
  header = [size, array.ndim, *array.shape, *map(len, bands)]
  return b"".join([np.array(header, _NUMBER).tobytes(), *bands])


def unpack(
  packed: bytes, window: Window | None = None, out: np.ndarray | None = None
) -> np.ndarray:
  """The array, or a window of it.

  Args:
    packed: by `pack`.
    window: (top, left, height, width), inside the array; None for all.
    out: where to write the result, C-contiguous; None makes a new array.

  Raises:
    ValueError: the window is not inside the array, or `out` has another shape or type.
  """
  size, shape = _value_size(packed), packed_shape(packed)
  top, left, height, width = window or (0, 0, *shape[:2])
  if min(top, left) < 0 or top + height > shape[0] or left + width > shape[1]:
    raise ValueError(f"window (top, left, height, width) {window} is not inside {shape}")
  wanted = (height, width, *shape[2:])
  if out is None:
    out = np.empty(wanted, _DTYPES[size])
  elif out.shape != wanted or out.dtype != _DTYPES[size] or not out.flags.c_contiguous:
    raise ValueError(f"out is {out.dtype}{out.shape}, wanted {_DTYPES[size]}{wanted}, contiguous")

  channels = math.prod(shape[2:])
  columns = slice(left * channels, (left + width) * channels)
  first, last = top // _BAND, -(-(top + height) // _BAND)
  rows = min(last * _BAND, shape[0]) - first * _BAND
  octets = _scratch.array((size, rows, width * channels))
  for number, band in enumerate(_bands(packed, first, last)):
    start = number * _BAND
    count = min(_BAND, rows - start)
    content = np.frombuffer(
      _CODEC.decompress(band, size * count * shape[1] * channels), np.uint8
    ).reshape(size, count, -1)
    octets[:, start : start + count] = content[..., columns]
  for row in range(1, min(_BAND, rows)):  # of all bands at once
    below = octets[:, row::_BAND]
    below += octets[:, row - 1 :: _BAND][:, : below.shape[1]]
  start = top - first * _BAND
  out_octets = out.view(np.uint8).reshape(height, width * channels, size)
  for plane in range(size):
    out_octets[..., plane] = octets[plane, start : start + height]
  return out


def packed_shape(packed: bytes) -> tuple[int, ...]:
  """Shape of what was packed."""
  axes = int(np.frombuffer(packed, _NUMBER, 1, _NUMBER.itemsize)[0])
  return tuple(np.frombuffer(packed, _NUMBER, axes, 2 * _NUMBER.itemsize).tolist())


def _value_size(packed: bytes) -> int:
  """Bytes of a value."""
  return int(np.frombuffer(packed, _NUMBER, 1)[0])


def _bands(packed: bytes, first: int, last: int) -> Iterator[memoryview]:
  """Compressed content of the bands first … last - 1."""
  shape = packed_shape(packed)
  count = -(-shape[0] // _BAND)
  begin = (2 + len(shape)) * _NUMBER.itemsize
  sizes = np.frombuffer(packed, _NUMBER, count, begin).tolist()
  ends = list(itertools.accumulate(sizes, initial=begin + count * _NUMBER.itemsize))
  view = memoryview(packed)
  for number in range(first, last):
    yield view[ends[number] : ends[number + 1]]
