"""TFDS's own tests of a builder, for each of ours."""

import tempfile
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from tiny_trees import (
  write_cityscapes,
  write_cityscapes_more,
  write_gta5,
  write_synthia,
  write_train_extra,
)

from data_pipelines.datasets.cityscapes import Cityscapes
from data_pipelines.datasets.folder import Folder
from data_pipelines.datasets.frame_config import FrameConfig
from data_pipelines.datasets.gta5 import Gta5
from data_pipelines.datasets.synthia import Synthia
from tests.data_pipelines.tiny_trees import folder_section

SMALL = {"height": 16, "width": 24, "progress": False, "processes": 1, "shard_frames": 2}


class _BuilderTest(tfds.testing.DatasetBuilderTestCase):
  """Makes the files; the builders find them where TFDS puts what is downloaded by hand."""

  __test__ = False

  @classmethod
  def setUpClass(cls):
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.EXAMPLE_DIR = folder.name
    cls.write(Path(folder.name))
    super().setUpClass()


class Gta5Test(_BuilderTest):
  __test__ = True
  DATASET_CLASS = Gta5
  SPLITS: ClassVar = {"train": 5}
  BUILDER_CONFIG_NAMES_TO_TEST: ClassVar = [
    FrameConfig(depth=depth, **SMALL) for depth in ("disparity", "none")
  ]

  @classmethod
  def write(cls, root):
    write_gta5(root, 5)


class SynthiaTest(_BuilderTest):
  __test__ = True
  DATASET_CLASS = Synthia
  SPLITS: ClassVar = {"train": 3}
  BUILDER_CONFIG_NAMES_TO_TEST: ClassVar = [FrameConfig(depth="simulator", **SMALL)]

  @classmethod
  def write(cls, root):
    write_synthia(root, 3)


class CityscapesTest(_BuilderTest):
  __test__ = True
  DATASET_CLASS = Cityscapes
  SPLITS: ClassVar = {"train": 3, "train_extra": 2}
  BUILDER_CONFIG_NAMES_TO_TEST: ClassVar = [
    FrameConfig(depth=depth, splits=("train", "train_extra"), views=views, **SMALL)
    for depth, views in (("official", ("right",)), ("none", ()))
  ]

  @classmethod
  def write(cls, root):
    write_train_extra(write_cityscapes(root, 3, 2), 2)
    write_cityscapes_more(root, ("train", "train_extra"))


class CityscapesValidationTest(_BuilderTest):
  __test__ = True
  DATASET_CLASS = Cityscapes
  SPLITS: ClassVar = {"validation": 2}
  BUILDER_CONFIG_NAMES_TO_TEST: ClassVar = [
    FrameConfig(depth="stereo", splits=("validation",), **SMALL)
  ]

  @classmethod
  def write(cls, root):
    write_cityscapes(root, 0, 2)


def _folder_section() -> FrameConfig:
  folder = folder_section()
  folder.train.images = folder.train.next = "images/{name}.png"
  folder.train.labels = "labels/{name}.png"
  folder.train.depth = "disparity/{name}.png"
  folder.other_labels = "ignore"
  folder.camera.intrinsics = (20.0, 20.0, 15.0, 8.5)
  values = {"depth": "inverse_png16", "views": ("next",), "splits": ("train",)}
  return Folder.make_config(ConfigDict({"folder": folder}), contents=(), **values, **SMALL)


class FolderTest(_BuilderTest):
  __test__ = True
  DATASET_CLASS = Folder
  SPLITS: ClassVar = {"train": 3}
  BUILDER_CONFIG_NAMES_TO_TEST: ClassVar = [_folder_section()]

  @classmethod
  def write(cls, root):
    write_gta5(root, 3)


def test_builders_work_as_those_of_tfds(tmp_path):
  """By TFDS's own calls: the released size by default, records as TFDS's readers know them."""
  manual = write_gta5(tmp_path / "gta", 3)
  builder = Gta5(data_dir=tmp_path / "records")
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
  assert builder.info.features["image"].shape == (720, 1280, 3)
  assert [x["name"] for x in builder.as_dataset(split="train[1:]").as_numpy_iterator()] == [
    b"00001", b"00002"
  ]  # fmt: skip
  builder = Gta5(data_dir=tmp_path / "others", file_format="array_record")
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
  assert [x["name"] for x in builder.as_data_source("train[1:]")] == [b"00001", b"00002"]
