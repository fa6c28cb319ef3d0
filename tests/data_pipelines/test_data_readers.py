import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_pipelines import cameras, readers
from data_pipelines.archives import DataFiles, open_file


def grey_png(values, bits):
  """A PNG of one grey channel of 1, 2, 4 or 8 bits, which Pillow does not write."""

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  height, width = values.shape
  flat = ((values[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(height, -1)
  rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in flat)
  header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
  parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
  return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_labels_of_few_bits_are_read_as_they_are(tmp_path, random, bits):
  ids = random.randint(0, 2**bits, (5, 8))
  (tmp_path / "a.png").write_bytes(grey_png(ids, bits))
  np.testing.assert_array_equal(readers.read_label_ids(str(tmp_path / "a.png")), ids)


def test_images_of_16_bits_are_refused(tmp_path):
  Image.fromarray(np.full((4, 5), 30_000, np.uint16)).save(tmp_path / "a.png")
  with pytest.raises(readers.BadFrameError, match=r"I;16.*8"):
    readers.read_rgb(str(tmp_path / "a.png"))


def test_complex_depth_is_refused(tmp_path):
  np.save(tmp_path / "a.npy", np.ones((2, 3), complex))
  with pytest.raises(readers.BadFrameError, match=r"complex128\(2, 3\)"):
    readers.read_depth_npy(str(tmp_path / "a.npy"))


def test_a_camera_needs_a_baseline_for_stereo_alone(tmp_path):
  path = tmp_path / "camera.json"
  path.write_text('{"intrinsic": {"fx": 10, "fy": 11, "u0": 4, "v0": 3}}')
  assert cameras.read_camera(str(path), image="a.png").baseline == 0
  with pytest.raises(readers.BadFrameError, match=r"extrinsic.*baseline"):
    cameras.read_camera(str(path), image="a.png", right="b.png")


def test_archives_in_capitals(tmp_path):
  import zipfile

  with zipfile.ZipFile(tmp_path / "A.ZIP", "w") as archive:
    archive.writestr("images/1.png", b"content")
  (location,) = DataFiles(str(tmp_path)).find("images/", ".png").values()
  assert isinstance(open_file(location), io.BytesIO)
  assert open_file(location).read() == b"content"


def test_pixels_that_a_checksum_does_not_confirm_are_not_taken(tmp_path):
  values = np.random.RandomState(0).randint(0, 65536, (9, 14)).astype(np.uint16)
  path = tmp_path / "depth.png"
  Image.fromarray(values).save(path)
  np.testing.assert_array_equal(readers.read_depth_png(str(path)), values)
  contents = bytearray(path.read_bytes())
  place = contents.index(b"IDAT")
  (length,) = struct.unpack_from(">I", contents, place - 4)
  raw = bytearray(zlib.decompress(contents[place + 4 : place + 4 + length]))
  raw[3] ^= 1
  data = zlib.compress(raw)  # whole by itself; the chunk's checksum is still that of the other
  checksum = bytes(contents[place + 4 + length : place + 8 + length])
  end = bytes(contents[place + 8 + length :])
  harmed = contents[: place - 4] + struct.pack(">I", len(data)) + b"IDAT" + data + checksum + end
  path.write_bytes(harmed)
  with pytest.raises(readers.BadFrameError, match=r"checksum.*IDAT"):
    readers.decode(readers.read_depth_png, str(path))


# The pass of each pixel of an 8x8 block, from the PNG specification.
ADAM7 = ("16462646", "77777777", "56565656", "77777777") + (
  "36463646",
  "77777777",
  "56565656",
  "77777777",
)


def rows_of_passes(width, height):
  """Columns in each row of each pass of an interlaced picture."""
  for number in "1234567":
    rows = [[x for x in range(width) if ADAM7[y % 8][x % 8] == number] for y in range(height)]
    yield from (len(columns) for columns in rows if columns)


@pytest.mark.parametrize("size", [(1, 21), (5, 3), (13, 10), (8, 8)])
@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(("bits", "read"), [(8, "read_label_ids"), (16, "read_depth_png")])
def test_rows_that_are_missing_are_not_made_up(tmp_path, size, interlaced, bits, read):
  width, height = size

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  def write(left_out):
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, interlaced)
    rows = list(rows_of_passes(width, height)) if interlaced else [width] * height
    kept = rows[:-1] if left_out else rows
    data = b"".join(b"\0" + b"\7" * (columns * bits // 8) for columns in kept)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    path = tmp_path / f"{left_out}.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return str(path), len(data)

  path, _ = write(left_out=False)
  values = getattr(readers, read)(path)
  assert (values == (7 if bits == 8 else 0x0707)).all()
  assert values.shape == (height, width)
  path, _ = write(left_out=True)
  with pytest.raises(readers.BadFrameError, match="damaged"):
    getattr(readers, read)(path)


def test_a_picture_that_its_data_cannot_hold_gets_no_room(tmp_path):
  path = tmp_path / "depth.png"
  Image.fromarray(np.zeros((1200, 1500), np.uint16)).save(path, compress_level=9)
  assert not readers.read_depth_png(str(path)).any()  # the emptiest picture is none of these
  contents = bytearray(path.read_bytes())
  contents[16:24] = struct.pack(">II", 9000, 9000)
  contents[29:33] = struct.pack(">I", zlib.crc32(contents[12:29]))
  path.write_bytes(contents)
  with pytest.raises(readers.BadFrameError, match="damaged"):
    readers.read_depth_png(str(path))


@pytest.mark.parametrize("value", ["true", '"2262.5"', "null", "[1]"])
def test_what_is_no_number_is_no_focal_length(tmp_path, value):
  path = tmp_path / "camera.json"
  path.write_text(f'{{"intrinsic": {{"fx": {value}, "fy": 1.0, "u0": 2.0, "v0": 3.0}}}}')
  with pytest.raises(readers.BadFrameError, match=r"intrinsic.*fx, fy, u0, v0"):
    cameras.read_camera(str(path), image="a.png")


def test_a_header_that_needs_all_memory_is_a_broken_file(tmp_path):
  path = tmp_path / "depth.npy"
  with open(path, "wb") as file:
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**8, 10**7)}
    np.lib.format.write_array_header_1_0(file, header)
  with pytest.raises(readers.BadFrameError, match="memory"):
    readers.decode(readers.read_depth_npy, str(path))
