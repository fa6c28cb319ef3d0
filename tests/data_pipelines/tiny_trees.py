"""Writes tiny data sets in the layouts and encodings of the real ones."""

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import scipy.io
from ml_collections import ConfigDict
from PIL import Image

from corda_jax import labels

HEIGHT, WIDTH = 18, 31  # of the files; odd, not square


def pixels(seed: int, height: int = HEIGHT, width: int = WIDTH) -> SimpleNamespace:
  """Contents of one frame: `rgb`, `train_ids`, `disparity` (uint16)."""
  random = np.random.RandomState(seed)
  return SimpleNamespace(
    rgb=random.randint(0, 256, (height, width, 3)).astype(np.uint8),
    train_ids=random.randint(0, len(labels.NAMES), (height, width)).astype(np.uint8),
    disparity=random.randint(0, 65536, (height, width)).astype(np.uint16),
  )


def save(path: Path, values: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(values).save(path)


def save_png16(path: Path, values: np.ndarray) -> None:
  """A 16-bit PNG of 2, 3 or 4 channels, which Pillow cannot write; filter "up" on every row."""
  path.parent.mkdir(parents=True, exist_ok=True)
  height, width, channels = values.shape
  octets = values.astype(">u2").reshape(height, -1).view(np.uint8)
  rows = np.full((height, 1 + octets.shape[1]), 2, np.uint8)
  rows[0, 1:] = octets[0]
  rows[1:, 1:] = octets[1:] - octets[:-1]

  def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
  data = zlib.compress(rows.tobytes())
  path.write_bytes(
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", data[: len(data) // 2])
    + chunk(b"IDAT", data[len(data) // 2 :])
    + chunk(b"IEND", b"")
  )


def write_gta5(root: Path, frames: int = 3) -> Path:
  for i in range(frames):
    frame = pixels(i)
    save(root / f"images/{i:05d}.png", frame.rgb)
    save(root / f"labels/{i:05d}.png", labels.TRAIN_TO_CITYSCAPES[frame.train_ids])
    save(root / f"disparity/{i:05d}.png", frame.disparity[::2, ::2])
  return root


def write_synthia(root: Path, frames: int = 2, *, original: bool = False) -> Path:
  for i in range(frames):
    frame = pixels(i)
    save(root / f"RGB/{i:07d}.png", frame.rgb)
    save(root / f"Depth/Depth/{i:07d}.png", frame.disparity)
    ids = labels.TRAIN_TO_SYNTHIA[frame.train_ids]
    if original:
      instances = frame.disparity
      values = np.stack([ids, instances, np.zeros_like(instances)], -1)
      save_png16(root / f"GT/LABELS/{i:07d}.png", values)
    else:
      save(root / f"synthia_mapped_to_cityscapes/{i:07d}.png", ids)
  return root


def write_cityscapes(
  root: Path, train: int = 3, validation: int = 3, *, released: bool = False
) -> Path:
  image_dir, label_dir = "leftImg8bit", "gtFine"
  if released:
    image_dir = f"leftImg8bit_trainvaltest/{image_dir}"
    label_dir = f"gtFine_trainvaltest/{label_dir}"
  for split, frames, offset in (("train", train, 100), ("val", validation, 200)):
    for i in range(frames):
      frame = pixels(offset + i)
      city = ("aachen", "bonn")[i % 2]
      stem = f"{city}/{city}_{i:06d}_000019"
      save(root / f"{image_dir}/{split}/{stem}_leftImg8bit.png", frame.rgb)
      ids = labels.TRAIN_TO_CITYSCAPES[frame.train_ids]
      save(root / f"{label_dir}/{split}/{stem}_gtFine_labelIds.png", ids)
      if split == "train":
        save(root / f"disparity/{split}/{stem}_leftImg8bit.png", frame.disparity)
        path = root / f"depth/{split}/{stem}_depth_stereoscopic.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(path, {"depth_map": frame.disparity.astype(np.float32) / 100})
  return root


def dataset_config(dataset: str, root: Path, depth: str, height: int = 16, width: int = 24):
  return ConfigDict(
    {"dataset": dataset, "root": str(root), "height": height, "width": width, "depth": depth}
  )
