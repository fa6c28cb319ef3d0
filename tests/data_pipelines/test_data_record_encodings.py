import struct

import numpy as np
import pyarrow
import pytest

from data_pipelines import record_encodings
from data_pipelines.record_encodings import pack, packed_shape, unpack

# Heights below, at and above the size of a band, and of several bands.
SHAPES = [(1, 1), (7, 11, 3), (64, 3, 1), (65, 2), (128, 5, 3), (150, 9, 3)]


def values(shape, dtype, seed=0):
  octets = np.random.RandomState(seed).randint(0, 256, (*shape, dtype().itemsize))
  return octets.astype(np.uint8).view(dtype)[..., 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact(shape, dtype):
  array = values(shape, dtype)  # any bits: among float32 also NaN, infinite and denormal ones
  unpacked = unpack(pack(array))
  assert unpacked.dtype == dtype
  assert unpacked.shape == packed_shape(pack(array)) == shape
  assert unpacked.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
  "window",
  [(0, 0, 150, 9), (0, 0, 1, 1), (63, 2, 2, 5), (64, 0, 64, 9), (70, 8, 80, 1), (149, 3, 1, 4)],
)
@pytest.mark.parametrize("axes", [2, 3])
def test_window(window, dtype, axes):
  array = values((150, 9, 3)[:axes], dtype)
  top, left, height, width = window
  wanted = np.ascontiguousarray(array[top : top + height, left : left + width])
  assert unpack(pack(array), window).tobytes() == wanted.tobytes()
  out = np.full(wanted.shape, 7, dtype)
  assert unpack(pack(array), window, out) is out
  assert out.tobytes() == wanted.tobytes()


def test_views_are_packed_as_what_they_show():
  array = values((70, 12, 3), np.uint8)
  np.testing.assert_array_equal(unpack(pack(array[::2, ::-1])), array[::2, ::-1])
  whole = array[..., 0].T
  np.testing.assert_array_equal(unpack(pack(whole)), whole)


def test_the_layout_on_disk():
  """Records outlive the program that wrote them: read here by the description alone."""
  array = values((70, 2), np.float32)
  packed = pack(array)
  size, axes, height, width, first, second = struct.unpack_from("<6I", packed)
  assert (size, axes, height, width) == (4, 2, 70, 2)
  assert len(packed) == 24 + first + second
  band = pyarrow.Codec("zstd").decompress(packed[24 : 24 + first], 4 * 64 * 2)
  differences = np.frombuffer(band, np.uint8).reshape(4, 64, 2)
  planes = np.cumsum(differences, axis=1, dtype=np.uint8)
  assert planes.transpose(1, 2, 0).tobytes() == array[:64].tobytes()


def test_a_crop_decodes_only_its_bands(monkeypatch):
  decoded = []

  class Codec:
    def decompress(self, band, size):
      decoded.append(size)
      return pyarrow.Codec("zstd").decompress(band, size)

  monkeypatch.setattr(record_encodings, "_CODEC", Codec())
  packed = pack(values((300, 4), np.uint8))
  unpack(packed, (64, 0, 64, 4))
  assert decoded == [64 * 4]
  decoded.clear()
  unpack(packed, (250, 0, 20, 4))
  assert decoded == [64 * 4, (300 - 256) * 4]


def test_what_is_smooth_gets_small():
  assert len(pack(np.ones((512, 1024), np.float32))) < 2000
  rows, columns = np.mgrid[:512, :1024]
  assert len(pack((rows + columns).astype(np.uint8))) < 10_000


@pytest.mark.parametrize(
  "array",
  [
    np.zeros((2, 3), np.int8),
    np.zeros((2, 3), np.float64),
    np.zeros((2, 3), ">f4"),
    np.zeros(3, np.uint8),
    np.zeros((0, 3), np.uint8),
  ],
)
def test_other_arrays_are_refused(array):
  with pytest.raises(ValueError, match="wanted uint8 or float32 of H W or H W C"):
    pack(array)


@pytest.mark.parametrize("window", [(-1, 0, 2, 2), (0, -1, 2, 2), (1, 0, 4, 2), (0, 2, 2, 4)])
def test_windows_outside_are_refused(window):
  with pytest.raises(ValueError, match="is not inside"):
    unpack(pack(values((4, 5), np.uint8)), window)


@pytest.mark.parametrize(
  "out", [np.empty((4, 4), np.uint8), np.empty((4, 5), np.int8), np.empty((5, 4), np.uint8).T]
)
def test_other_places_to_write_are_refused(out):
  with pytest.raises(ValueError, match="out is"):
    unpack(pack(values((4, 5), np.uint8)), out=out)
