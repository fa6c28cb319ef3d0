"""TFDS's own tests of a builder, for each of ours."""

import shutil
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

from configs.default import get_folder_config
from data_pipelines.cityscapes import Cityscapes
from data_pipelines.folder import Folder
from data_pipelines.frame_config import FrameConfig
from data_pipelines.gta5 import Gta5
from data_pipelines.synthia import Synthia


class _BuilderTest(tfds.testing.DatasetBuilderTestCase):
  """What all builders need: files, made for the test, and a configuration that names them."""

  __test__ = False
  DEPTH: ClassVar[str]
  MORE: ClassVar[dict] = {}  # of the configuration

  @classmethod
  def write(cls, root: Path) -> None:
    raise NotImplementedError

  @classmethod
  def make_config(cls, **values) -> FrameConfig:
    return FrameConfig(**values)

  @classmethod
  def setUpClass(cls):
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.EXAMPLE_DIR = folder.name
    cls.write(Path(folder.name))
    common = {"root": folder.name, "height": 16, "width": 24, "progress": False, "processes": 1}
    cls.BUILDER_CONFIG_NAMES_TO_TEST = [
      cls.make_config(depth=depth, shard_frames=2, **common, **cls.MORE)
      for depth in (cls.DEPTH, "none")
    ]
    super().setUpClass()

  def _make_builder(self, config=None):  # without a configuration there is no data set
    return super()._make_builder(config or self.BUILDER_CONFIG_NAMES_TO_TEST[0])


class Gta5Test(_BuilderTest):
  __test__ = True
  DATASET_CLASS = Gta5
  SPLITS: ClassVar = {"train": 5}
  DEPTH = "disparity"

  @classmethod
  def write(cls, root):
    write_gta5(root, 5)


class SynthiaTest(_BuilderTest):
  __test__ = True
  DATASET_CLASS = Synthia
  SPLITS: ClassVar = {"train": 3}
  DEPTH = "simulator"

  @classmethod
  def write(cls, root):
    write_synthia(root, 3)


class CityscapesTest(_BuilderTest):
  __test__ = True
  DATASET_CLASS = Cityscapes
  SPLITS: ClassVar = {"train": 3, "validation": 2}
  DEPTH = "stereo"

  @classmethod
  def write(cls, root):
    write_cityscapes(root, 3, 2)


class CityscapesWithAllTest(_BuilderTest):
  __test__ = True
  DATASET_CLASS = Cityscapes
  SPLITS: ClassVar = {"train": 3, "train_extra": 2, "validation": 2}
  DEPTH = "official"
  MORE: ClassVar = {"splits": ("train", "train_extra"), "views": ("right",)}

  @classmethod
  def write(cls, root):
    write_cityscapes(root, 3, 2)
    write_train_extra(root, 2)
    write_cityscapes_more(root, ("train", "train_extra", "val"))


class FolderTest(_BuilderTest):
  __test__ = True
  DATASET_CLASS = Folder
  SPLITS: ClassVar = {"train": 3, "validation": 3}
  DEPTH = "inverse_png16"
  MORE: ClassVar = {"views": ("next",)}

  @classmethod
  def make_config(cls, **values):
    folder = get_folder_config()
    for split, digit in (("train", 0), ("validation", 1)):
      folder[split].images = folder[split].next = f"images/{digit}{{name}}.png"
      folder[split].labels = f"labels/{digit}{{name}}.png"
      folder[split].depth = f"disparity/{digit}{{name}}.png"
    folder.other_labels = "ignore"
    folder.camera.intrinsics = (20.0, 20.0, 15.0, 8.5)
    return Folder.make_config(ConfigDict({"folder": folder}), **values)

  @classmethod
  def write(cls, root):
    write_gta5(root, 3)
    for kind in ("images", "labels", "disparity"):  # 00000 … train, 10000 … validation
      for path in sorted((root / kind).iterdir()):
        shutil.copy(path, path.with_name("1" + path.name[1:]))
