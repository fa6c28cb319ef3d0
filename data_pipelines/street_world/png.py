"""PNG files in memory: 8-bit, 16-bit grey, and 16-bit RGB, which Pillow cannot write."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

_LEVEL = 6  # level of compression; higher is hardly smaller


def encode(array: np.ndarray) -> bytes:
  """PNG of uint8[H, W], uint8[H, W, 3], uint16[H, W] or uint16[H, W, 3]; lossless."""
  if array.dtype == np.uint16 and array.ndim == 3:
    return _encode_rgb16(array)
  if array.dtype not in (np.uint8, np.uint16):
    raise ValueError(
      f"PNG holds uint8 or uint16, but the array is {array.dtype}; convert it first."
    )
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, "PNG", compress_level=_LEVEL)
  return buffer.getvalue()


def _encode_rgb16(array):
  height, width, channels = array.shape
  if channels != 3:
    raise ValueError(f"A colour PNG has 3 channels, but the array's shape is {array.shape}.")
  rows = np.zeros((height, 1 + 6 * width), np.uint8)  # each row starts with filter type 0
  rows[:, 1:] = array.astype(">u2").view(np.uint8).reshape(height, -1)

  def chunk(kind, data):
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

  header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
  body = zlib.compress(rows.tobytes(), _LEVEL)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
