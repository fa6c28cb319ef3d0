"""Writes tiny data sets in the layouts and encodings of the real ones."""

import itertools
import json
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import scipy.io
from ml_collections import ConfigDict
from PIL import Image

from corda_jax import labels
from corda_jax.configuration import settings
from data_pipelines.input_pipeline import as_numpy, evaluation_dataset, train_dataset
from data_pipelines.prepare import prepare
from data_pipelines.settings import Folder, Frames

HEIGHT, WIDTH = 18, 31  # of the files; odd, not square


def folder_section() -> ConfigDict:
  """The `folder` section of a data set."""
  section = settings(Folder)
  del section.part
  return section


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


CAMERA = {"focal": (40.0, 41.0), "center": (15.5, 8.25), "baseline": 0.25}  # of the files
OFFSETS = (-2, -1, 1, 2)  # of the neighbours in time


def write_cityscapes_more(root: Path, splits=("train", "val")) -> Path:
  """Adds to a tree its right images, cameras, official disparity and sequence neighbours."""
  for split in splits:
    for path in sorted((root / "leftImg8bit" / split).rglob("*.png")):
      city, number = path.parent.name, int(path.name.split("_")[1])
      stem = f"{split}/{city}/{city}_{number:06d}"
      save(root / f"rightImg8bit/{stem}_000019_rightImg8bit.png", pixels(300 + number).rgb)
      save(root / f"disparity/{stem}_000019_disparity.png", pixels(400 + number).disparity // 64)
      for offset in OFFSETS:
        frame = pixels(500 + 10 * number + offset).rgb
        save(root / f"leftImg8bit_sequence/{stem}_{19 + offset:06d}_leftImg8bit.png", frame)
      camera = root / f"camera/{stem}_000019_camera.json"
      camera.parent.mkdir(parents=True, exist_ok=True)
      (fx, fy), (u0, v0) = CAMERA["focal"], CAMERA["center"]
      values = {
        "extrinsic": {"baseline": CAMERA["baseline"], "pitch": 0.1},
        "intrinsic": {"fx": fx, "fy": fy, "u0": u0, "v0": v0},
      }
      camera.write_text(json.dumps(values))
  return root


def write_train_extra(root: Path, frames: int = 2) -> Path:
  for i in range(frames):
    stem = f"train_extra/troisdorf/troisdorf_{i:06d}_000019"
    save(root / f"leftImg8bit/{stem}_leftImg8bit.png", pixels(600 + i).rgb)
  return root


def archive(root: Path, *groups: str) -> Path:
  """Moves the folders of each group, "NAME.zip: FOLDER FOLDER", into an archive in the root."""
  for group in groups:
    name, folders = group.split(": ")
    with zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED) as file:
      for folder in folders.split():
        for path in sorted((root / folder).rglob("*")):
          file.write(path, path.relative_to(root))
    for folder in folders.split():
      shutil.rmtree(root / folder)
  return root


def write_any(dataset: str, root: Path, **options) -> Path:
  writers = {"gta5": write_gta5, "synthia": write_synthia, "cityscapes": write_cityscapes}
  return writers[dataset](root, **options)


def run(config: ConfigDict, records: Path, **options):
  """Prepares in this process, without a progress bar."""
  return prepare(config, records_dir=records, **({"processes": 1, "progress": False} | options))


def run_both(config: ConfigDict, records: Path, **options):
  """Prepares the training and the validation split; the builders of both."""
  options = {"contents": ("image", "views")} | options
  return [run(config, records, split=split, **options) for split in ("train", "validation")]


def train_batches(config: ConfigDict, **options):
  return as_numpy(train_dataset(config, **options))


def evaluation_batches(config: ConfigDict, **options):
  return as_numpy(evaluation_dataset(config, **options))


def examples(builder, split="train"):
  return list(builder.as_data_source(split))


def record_files(builder) -> dict[str, bytes]:
  """Every file of the records, by name; of the report all but where the files were."""
  files = {path.name: path.read_bytes() for path in Path(builder.data_path).iterdir()}
  report = json.loads(files.pop("metadata.json"))
  report["notes"] = [note["reason"] for note in report["notes"]]
  return files | {"metadata.json": json.dumps(report).encode()}


def dataset_config(
  dataset: str, root: Path, depth: str, height: int = 16, width: int = 24, **more
) -> ConfigDict:
  section = settings(Frames)
  del section.part
  given = {"dataset": dataset, "root": str(root), "depth": depth, "height": height, "width": width}
  section.update(given | more)
  return section


def data_config(source, target, records, crop=(9, 14), batch_size=4, evaluation_batch_size=2):
  return ConfigDict(
    {
      "records_dir": str(records),
      "classes": {"names": (), "colors": ()},
      "source": source,
      "target": target,
      "crop_height": crop[0],
      "crop_width": crop[1],
      "batch_size": batch_size,
      "evaluation_batch_size": evaluation_batch_size,
      "reader_threads": 0,
    }
  )


def take(config, count, **options):
  return list(itertools.islice(train_batches(config, **{"seed": 5} | options), count))


def assert_equal(first, second):
  assert len(first) == len(second) > 0
  for a, b in zip(first, second, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def joined(parts):
  """Batches of several processes → those of one."""
  return [
    {key: np.concatenate([p[key] for p in step]) for key in step[0]}
    for step in zip(*parts, strict=True)
  ]
