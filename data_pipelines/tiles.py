"""Arrays in tiles: compressed without loss, cropped without decoding the rest.

An array is compressed in tiles, so that a crop costs only the tiles that it touches. In a tile,
the byte above is subtracted from every byte, modulo 256, as in PNG's filter "up", except in the
first row, so that tiles do not depend on each other. The bytes of a float32 are stored in four
planes, lowest bytes first, because the high bytes of neighbours are alike. Tiles at the edges are
padded with zeros. Each is then a frame of Zstandard, which decodes many times faster than PNG's
zlib and gets nearly as small; consecutive frames are decoded by one call.

A packed array begins with little-endian uint32: bytes per value (1: uint8, 4: float32), number of
axes, shape, and the size of every frame, row by row. Packing is NumPy and pyarrow, which releases
the interpreter's lock while it decompresses.
"""

import itertools
import math
import threading

import numpy as np
import pyarrow

from data_pipelines.crops import Window

_TILE = (64, 128)  # rows and columns; smaller tiles are too many, larger ones exceed crops
_LEVEL = 1  # of Zstandard; higher levels write and read more slowly and are hardly smaller
_DTYPES = {1: np.dtype("u1"), 4: np.dtype("<f4")}
_NUMBER = np.dtype("<u4")  # type of the header's numbers
_CODEC = pyarrow.Codec("zstd")  # to decode, at any level


class _Scratch(threading.local):
  """Memory that a thread reuses: fresh pages cost as much as the decoding."""

  _memory = np.empty(0, np.uint8)

  def array(self, shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised array of uint8."""
    size = math.prod(shape)
    if size > len(self._memory):
      self._memory = np.empty(size, np.uint8)
    return self._memory[:size].reshape(shape)


_scratch = _Scratch()


def pack(array: np.ndarray) -> bytes:
  """Compresses uint8 or float32 of shape H W or H W C, no axis empty, without loss.

  Raises:
    ValueError: another shape or type.
  """
  size = array.dtype.itemsize
  if array.dtype not in _DTYPES.values() or array.ndim not in (2, 3) or not array.size:
    raise ValueError(f"got {array.dtype}{array.shape}, expected uint8 or float32 of H W or H W C")
  height, width, channels = _axes(array.shape)
  down, across = -(-height // _TILE[0]), -(-width // _TILE[1])
  octets = np.ascontiguousarray(array).view(np.uint8).reshape(height, width * channels, size)
  filled = np.zeros((size, down, _TILE[0], across * _TILE[1] * channels), np.uint8)
  filled.reshape(size, -1, filled.shape[-1])[:, :height, : width * channels] = np.moveaxis(
    octets, 2, 0
  )
  difference = filled.copy()
  difference[:, :, 1:] -= filled[:, :, :-1]
  tiles = difference.reshape(size, down, _TILE[0], across, -1).transpose(1, 3, 0, 2, 4)
  codec = pyarrow.Codec("zstd", compression_level=_LEVEL)
  frames = [
    codec.compress(np.ascontiguousarray(tiles[place]), asbytes=True)
    for place in np.ndindex(down, across)
  ]
  header = [size, array.ndim, *array.shape, *map(len, frames)]
  return b"".join([np.array(header, _NUMBER).tobytes(), *frames])


def unpack(packed: bytes, window: Window | None = None) -> np.ndarray:
  """The array, or a window of it.

  Args:
    packed: bytes from `pack`.
    window: (top, left, height, width), inside the array; None for all.

  Raises:
    ValueError: the window is not inside the array.
  """
  size, shape = _value_size(packed), packed_shape(packed)
  top, left, height, width = window or (0, 0, *shape[:2])
  if min(top, left) < 0 or top + height > shape[0] or left + width > shape[1]:
    raise ValueError(f"window (top, left, height, width) {window} is not inside {shape}")
  out = np.empty((height, width, *shape[2:]), _DTYPES[size])
  channels = _axes(shape)[2]
  rows, columns = (
    range(start // tile, -(-(start + length) // tile))
    for start, length, tile in zip((top, left), (height, width), _TILE, strict=True)
  )
  compressed = _frames(packed, shape, rows, columns)
  tile_shape = (size, _TILE[0], _TILE[1] * channels)
  tiles = _CODEC.decompress(compressed, len(rows) * len(columns) * math.prod(tile_shape))
  tiles = np.frombuffer(tiles, np.uint8).reshape(len(rows), len(columns), *tile_shape)

  # By row of the tile first, so that one addition per row serves all tiles.
  octets = _scratch.array((_TILE[0], len(rows), size, len(columns), tile_shape[-1]))
  octets[:] = tiles.transpose(3, 0, 2, 1, 4)
  by_row = octets.reshape(_TILE[0], -1)
  for above, row in itertools.pairwise(by_row):
    np.add(row, above, out=row)

  octets = octets.reshape(*octets.shape[:3], -1)
  start = (left - columns[0] * _TILE[1]) * channels
  octets = octets[..., start : start + width * channels]
  out_octets = out.view(np.uint8).reshape(height, width * channels, size)
  for number, row in enumerate(rows):
    begin = max(top - row * _TILE[0], 0)
    end = min(top + height - row * _TILE[0], _TILE[0])
    place = row * _TILE[0] + begin - top
    for plane in range(size):
      out_octets[place : place + end - begin, :, plane] = octets[begin:end, number, plane]
  return out


def packed_shape(packed: bytes) -> tuple[int, ...]:
  """Shape of what was packed."""
  axes = int(np.frombuffer(packed, _NUMBER, 1, _NUMBER.itemsize)[0])
  return tuple(np.frombuffer(packed, _NUMBER, axes, 2 * _NUMBER.itemsize).tolist())


def _value_size(packed: bytes) -> int:
  """Bytes of a value."""
  return int(np.frombuffer(packed, _NUMBER, 1)[0])


def _axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
  """Height, width and channels."""
  return shape if len(shape) == 3 else (*shape, 1)


def _frames(packed: bytes, shape: tuple[int, ...], rows: range, columns: range) -> bytes:
  """The compressed tiles of some rows and columns of tiles, row by row."""
  down, across = (-(-length // tile) for length, tile in zip(shape[:2], _TILE, strict=True))
  begin = (2 + len(shape)) * _NUMBER.itemsize
  sizes = np.frombuffer(packed, _NUMBER, down * across, begin)
  ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]) + begin + sizes.nbytes
  view = memoryview(packed)
  return b"".join(
    view[ends[row * across + columns.start] : ends[row * across + columns.stop]] for row in rows
  )
