"""Readers of files that `benchmarks.fuzz` feeds malformed ones to."""

import io
import json
import math
import pickle
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fuzz_outcomes import KIND, RIGHT, WRONG, Input
from benchmarks.mutations import mutate_bytes, mutate_json
from corda_jax.errors import UserError
from corda_jax.inference.media import BadImageError, ImageFile
from corda_jax.pretrained.torch_format import read_torch_file
from corda_jax.pretrained.torch_write import write_torch_file
from data_pipelines.readers import BadFrameError, decode, read_camera, read_depth_png

_PLAIN = (bool, int, float, complex, str, bytes, np.ndarray, np.generic)
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # that a file of torch.save began with


class StateDicts:
  """Files of torch.save in both formats: zip archives, and what was before them."""

  errors = (UserError,)

  def __init__(self, folder: Path):
    """Writes a good file."""
    made = np.random.RandomState(0)
    self._path = folder / "state.pth"
    self._tree = {
      "model": {
        "layer.weight": made.randn(4, 3, 1, 1).astype(np.float32),
        "layer.bias": made.randn(4).astype(np.float32),
        "count": np.array(7),
      },
      "iteration": 250_000,
    }
    write_torch_file(self._path, self._tree)
    self._good = self._path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(self._good)) as archive:
      self._members = {name: archive.read(name) for name in archive.namelist()}
    head = (_MAGIC_NUMBER, 1001, {"little_endian": True})  # of the format before
    storages = [self._members[f"state/data/{number}"] for number in range(3)]
    counts = (12, 4, 1)
    self._legacy = b"".join(
      [
        *(pickle.dumps(value, protocol=2) for value in head),
        self._members["state/data.pkl"],
        pickle.dumps(["0", "1", "2"], protocol=2),
        *(struct.pack("<q", n) + each for n, each in zip(counts, storages, strict=True)),
      ]
    )
    if not _equal(self.read(self._legacy), self._tree):
      raise ValueError("the file in the format before the zip archives is not read")

  def make(self, random: random.Random) -> Input:
    """A file's bytes changed, or a member's, which then has the checksum of what it holds."""
    kind = random.random()
    if kind < 0.35:
      return Input(mutate_bytes(self._legacy, random), False)  # that format has no checksums
    if kind < 0.7:
      return Input(mutate_bytes(self._good, random), True)
    name = random.choice(sorted(self._members))
    members = self._members | {name: mutate_bytes(self._members[name], random)}
    if random.random() < 0.2:
      members[f"../{name}"] = members.pop(name)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
      for each, contents in members.items():
        archive.writestr(each, contents)
    return Input(written.getvalue(), False)

  def read(self, value: bytes) -> Any:
    """As `initial_weights` is read."""
    self._path.write_bytes(value)
    return read_torch_file(self._path)

  def judge(self, found: Any, made: Input) -> str:
    """Equal to what was written, or, where no checksum tells, a tree of plain values and arrays."""
    if _equal(found, self._tree):
      return RIGHT
    return KIND if not made.same and _plain(found) else WRONG


class DepthPngs:
  """16-bit depth files, one channel and three."""

  errors = (BadFrameError,)

  def __init__(self, folder: Path):
    """Writes good files."""
    self._path = folder / "depth.png"
    self._values = np.random.RandomState(0).randint(0, 65536, (9, 14)).astype(np.uint16)
    written = io.BytesIO()
    Image.fromarray(self._values).save(written, format="PNG")
    self._grey = written.getvalue()
    rows = np.stack([self._values, self._values[::-1], self._values // 3], -1)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 14, 9, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    self._color = b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))

  def make(self, random: random.Random) -> Input:
    """The file's bytes changed, or a chunk's, which then has the checksum of what it holds."""
    good = random.choice((self._grey, self._color))
    if random.random() < 0.5:
      return Input(mutate_bytes(good, random), True)
    chunks = [list(chunk) for chunk in _chunks(good)]
    changed = random.choice(chunks)
    changed[1] = mutate_bytes(changed[1], random)
    if random.random() < 0.2:
      random.shuffle(chunks)
    return Input(good[:8] + b"".join(map(_chunk, chunks)), False)

  def read(self, value: bytes) -> np.ndarray:
    """As preparation reads them."""
    self._path.write_bytes(value)
    return decode(read_depth_png, str(self._path))

  def judge(self, found: np.ndarray, made: Input) -> str:
    """Equal to what was written, or, where no checksum tells, a map of 16-bit values."""
    if found.dtype == np.uint16 and np.array_equal(found, self._values):
      return RIGHT
    return KIND if not made.same and found.dtype == np.uint16 and found.ndim == 2 else WRONG


class Cameras:
  """Calibration files of Cityscapes."""

  errors = (BadFrameError,)

  def __init__(self, folder: Path):
    """Makes a good one."""
    self._path = folder / "camera.json"
    self._good = {
      "extrinsic": {"baseline": 0.209313, "pitch": 0.038, "roll": 0.0, "x": 1.7},
      "intrinsic": {"fx": 2262.52, "fy": 2265.3017905988554, "u0": 1096.98, "v0": 513.137},
    }

  def make(self, random: random.Random) -> Input:
    """Its bytes changed, or values and structure."""
    if random.random() < 0.4:
      return Input(mutate_bytes(json.dumps(self._good).encode(), random), False)
    return Input(mutate_json(self._good, random).encode("utf-8", "surrogatepass"), False)

  def read(self, value: bytes) -> Any:
    """As preparation reads them, with stereo."""
    self._path.write_bytes(value)
    camera = decode(lambda path: read_camera(path, image="", right=""), str(self._path))
    try:
      told = json.loads(value)
    except (ValueError, RecursionError):
      return camera, None
    return camera, told

  def judge(self, found: Any, made: Input) -> str:
    """The numbers that the file holds, of a camera that can be."""
    camera, told = found
    numbers = [*camera.focal, *camera.center, camera.baseline]
    if not all(math.isfinite(x) for x in numbers) or min(*camera.focal, camera.baseline) <= 0:
      return WRONG
    held = [told["intrinsic"][name] for name in ("fx", "fy", "u0", "v0")]
    held.append(told["extrinsic"]["baseline"])
    return RIGHT if numbers == held else WRONG


class Images:
  """Images to predict, in the formats that cameras and people have."""

  errors = (BadImageError,)

  def __init__(self, folder: Path):
    """Writes good files."""
    pixels = np.random.RandomState(0).randint(0, 256, (9, 14, 3)).astype(np.uint8)
    picture, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # turned, and by whom
    self._files: list[tuple[Path, bytes]] = []
    for suffix, image, options in (
      ("jpg", picture, {"exif": exif}),
      ("png", picture, {"exif": exif}),
      ("png", picture.quantize(7), {}),
      ("webp", picture, {"exif": exif, "lossless": True}),
      ("tif", picture, {"compression": "tiff_lzw"}),
      ("tif", picture.convert("L"), {}),
      ("bmp", picture, {}),
      ("ppm", picture, {}),
    ):
      written = io.BytesIO()
      kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
      image.save(written, format=kind, **options)
      self._files.append((folder / f"image.{suffix}", written.getvalue()))

  def make(self, random: random.Random) -> Input:
    """A file's bytes changed."""
    path, good = random.choice(self._files)
    return Input((path, mutate_bytes(good, random)), False)

  def read(self, value: tuple[Path, bytes]) -> np.ndarray:
    """As prediction reads them."""
    path, contents = value
    path.write_bytes(contents)
    return ImageFile(path.stem, path).read().rgb

  def judge(self, found: np.ndarray, made: Input) -> str:
    """Colours; of most formats nothing tells which."""
    return KIND if found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3 else WRONG


def _equal(found: Any, wanted: Any) -> bool:
  if isinstance(wanted, dict):
    return (
      isinstance(found, dict)
      and found.keys() == wanted.keys()
      and all(_equal(found[name], value) for name, value in wanted.items())
    )
  if isinstance(wanted, np.ndarray):
    return (
      isinstance(found, np.ndarray)
      and found.dtype == wanted.dtype
      and np.array_equal(found, wanted)
    )
  return type(found) is type(wanted) and found == wanted


def _plain(value: Any) -> bool:
  if isinstance(value, dict):
    return all(_plain(each) for each in (*value.keys(), *value.values()))
  if isinstance(value, list | tuple | set | frozenset):
    return all(map(_plain, value))
  return value is None or isinstance(value, _PLAIN)


def _chunks(contents: bytes) -> list[tuple[bytes, bytes]]:
  found, offset = [], 8
  while offset < len(contents):
    (length,) = struct.unpack_from(">I", contents, offset)
    kind = contents[offset + 4 : offset + 8]
    found.append((kind, contents[offset + 8 : offset + 8 + length]))
    offset += length + 12
  return found


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
  kind, data = chunk
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
