import concurrent.futures
import re
import struct

import numpy as np
import pyarrow
import pytest

from data_pipelines.tiled_array import TiledArray
from data_pipelines.tiles import pack, packed_shape, unpack

# Below, at and above the size of a tile, and of several tiles.
SHAPES = [(1, 1), (7, 11, 3), (64, 128, 1), (65, 2), (64, 129), (128, 256, 3), (150, 300, 3)]


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
  [
    (0, 0, 150, 300),
    (0, 0, 1, 1),
    (63, 127, 2, 2),
    (64, 128, 64, 128),
    (70, 299, 80, 1),
    (149, 100, 1, 190),
  ],
)
@pytest.mark.parametrize("axes", [2, 3])
def test_window(window, dtype, axes):
  array = values((150, 300, 3)[:axes], dtype)
  top, left, height, width = window
  expected = np.ascontiguousarray(array[top : top + height, left : left + width])
  assert unpack(pack(array), window).tobytes() == expected.tobytes()


def test_views_are_packed_as_what_they_show():
  array = values((70, 12, 3), np.uint8)
  np.testing.assert_array_equal(unpack(pack(array[::2, ::-1])), array[::2, ::-1])
  whole = array[..., 0].T
  np.testing.assert_array_equal(unpack(pack(whole)), whole)


def test_the_layout_on_disk():
  """Records outlive the program that wrote them: read here by the description alone."""
  array = values((70, 200), np.float32)
  packed = pack(array)
  size, axes, height, width, *frames = struct.unpack_from("<8I", packed)
  assert (size, axes, height, width) == (4, 2, 70, 200)
  assert len(packed) == 4 * 8 + sum(frames)
  start = 4 * 8 + frames[0]
  frame = pyarrow.Codec("zstd").decompress(packed[start : start + frames[1]], 4 * 64 * 128)
  planes = np.cumsum(np.frombuffer(frame, np.uint8).reshape(4, 64, 128), axis=1, dtype=np.uint8)
  decoded = np.ascontiguousarray(planes.transpose(1, 2, 0)).view(np.float32)[..., 0]
  assert decoded[:, : 200 - 128].tobytes() == array[:64, 128:].tobytes()
  assert not decoded[:, 200 - 128 :].any()


def test_a_crop_decodes_only_its_tiles():
  """No other tile needs to be whole."""
  array = values((300, 400), np.uint8)  # five rows of four tiles
  packed = pack(array)
  ends = 4 * (4 + 20) + np.cumsum([0, *struct.unpack_from("<20I", packed, 4 * 4)])

  def harm(tiles):
    harmed = bytearray(packed)
    for tile in tiles:
      harmed[ends[tile] : ends[tile + 1]] = bytes(ends[tile + 1] - ends[tile])
    return bytes(harmed)

  for window, tiles in (
    ((64, 128, 64, 128), {5}),
    ((64, 127, 65, 129), {4, 5, 8, 9}),
    ((250, 390, 50, 10), {15, 19}),
    ((0, 0, 300, 400), set(range(20))),
  ):
    top, left, height, width = window
    found = unpack(harm(set(range(20)) - tiles), window)
    np.testing.assert_array_equal(found, array[top : top + height, left : left + width])
    for tile in tiles:
      with pytest.raises(OSError, match=r"(?i)zstd"):  # pyarrow's
        unpack(harm({tile}), window)


def test_threads_do_not_share_what_they_decode_into():
  arrays = [values((100, 200, 3), np.uint8, seed) for seed in range(4)]
  packed = [pack(array) for array in arrays]
  with concurrent.futures.ThreadPoolExecutor(4) as executor:
    unpacked = list(executor.map(unpack, packed * 50))
  for array, result in zip(arrays * 50, unpacked, strict=True):
    np.testing.assert_array_equal(result, array)


def test_what_is_smooth_gets_small():
  assert len(pack(np.ones((512, 1024), np.float32))) < 3000
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
  message = re.escape(f"{array.dtype}{array.shape}")
  with pytest.raises(ValueError, match=rf"{message}.*uint8.*float32"):
    pack(array)


@pytest.mark.parametrize("window", [(-1, 0, 2, 2), (0, -1, 2, 2), (1, 0, 4, 2), (0, 2, 2, 4)])
def test_windows_outside_are_refused(window):
  with pytest.raises(ValueError, match=re.escape(str(window)) + r".*\(4, 5\)"):
    unpack(pack(values((4, 5), np.uint8)), window)


def test_the_feature_of_tfds_takes_arrays_and_what_is_packed():
  array = values((5, 7, 3), np.uint8)
  feature = TiledArray.from_json_content(
    TiledArray(shape=(None, 7, 3), dtype=np.uint8).to_json_content()
  )
  for given in (array, pack(array)):
    encoded = feature.encode_example(given)
    np.testing.assert_array_equal(feature.decode_example_np(encoded), array)
    decoded = feature.decode_example(encoded)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, array)
