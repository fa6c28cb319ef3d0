"""The prepared records against what the released loaders give for the same files."""

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from tiny_trees import dataset_config, evaluation_batches, run, save_png16

from corda_jax import labels
from corda_jax.depth.inverse_depth import NO_DEPTH
from data_pipelines import preprocess, readers
from data_pipelines.datasets.builders import BUILDERS
from data_pipelines.datasets.frame_config import FrameConfig
from data_pipelines.frames import Frame
from tests import golden
from tests.golden import files

# case → data set, root, depth kind, height, width
CASES = {
  "gta5": ("gta5", "gta", "disparity", 720, 1280),
  "synthia": ("synthia", "RAND_CITYSCAPES", "simulator", 720, 1280),
  "cityscapes_stereo": ("cityscapes", "CityScapes", "stereo", 512, 1024),
  "cityscapes_mono": ("cityscapes", "CityScapes", "mono", 512, 1024),
}
RELEASED_VOID = 250


ENTRIES = [
  (path, *entry)
  for path in files("loaders")
  for entry in sorted({tuple(key.split("/")[:2]) for key in np.load(path).files})
]


def ids(value):
  return value.name if isinstance(value, Path) else value


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A function (folder of the reference values, kind) → builder of its data set's records."""

  @functools.cache
  def make(folder, kind, split="train"):
    dataset, root, depth, height, width = CASES[kind]
    config = dataset_config(dataset, folder / "datasets" / root, depth, height, width)
    records_dir = tmp_path_factory.mktemp(kind)
    return run(config, records_dir, split=split)

  return make


def reference(path, kind, index):
  """Image, label (void as 255), inverse depth and corner (top, left) of an entry."""
  with np.load(path) as file:
    image, label, depth, (x, y) = (
      file[f"{kind}/{index}/{key}"] for key in ("image", "label", "depth", "crop_xy")
    )
  return image, np.where(label == RELEASED_VOID, labels.IGNORE, label), depth, (int(y), int(x))


def test_there_are_reference_values_beside_the_tests():
  with np.load(Path(golden.__file__).parent / "loaders.npz") as file:
    assert {key.split("/")[0] for key in file.files} == {*CASES, "cityscapes_val"}


@pytest.mark.parametrize(
  ("path", "kind", "index"), [e for e in ENTRIES if e[1] != "cityscapes_val"], ids=ids
)
def test_crops_equal_the_released_loaders(path, kind, index, prepared):
  """All values are equal, the images' too, where Pillow resizes as it did for the reference."""
  image, label, depth, corner = reference(path, kind, index)
  builder = prepared(path.parent, kind)
  window = np.s_[corner[0] : corner[0] + image.shape[0], corner[1] : corner[1] + image.shape[1]]
  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  record = builder.as_data_source("train", deserialize_method=raw)[int(index)]
  deserialize = builder.info.features.deserialize_example
  (graph,) = tf.data.Dataset.from_tensors(record).map(deserialize)
  # By NumPy, and by TensorFlow.
  numpy = builder.as_data_source("train")[int(index)]
  for example in (numpy, {key: value.numpy() for key, value in graph.items()}):
    assert_same_image(example["image"][window], image)
    np.testing.assert_array_equal(example["label"][window][..., 0], label)
    assert example["inverse_depth"].dtype == np.float32
    np.testing.assert_array_equal(example["inverse_depth"][window], depth)
  np.testing.assert_array_equal(numpy["image"], graph["image"])


@pytest.mark.parametrize(
  ("path", "kind", "index"), [e for e in ENTRIES if e[1] == "cityscapes_val"], ids=ids
)
def test_evaluated_frames_equal_the_released_loader(path, kind, index, prepared):
  image, label, _, (top, left) = reference(path, kind, index)
  builder = prepared(path.parent, "cityscapes_stereo", "validation")
  data = ConfigDict(
    {
      "target": dataset_config("cityscapes", builder.builder_config.root, "stereo", 512, 1024),
      "records_dir": str(builder.data_path.parents[2]),
      "classes": {"names": (), "colors": ()},
      "evaluation_batch_size": 1,
      "reader_threads": 1,
    }
  )
  batch = next(itertools.islice(evaluation_batches(data), int(index), None))
  window = np.s_[top : top + image.shape[0], left : left + image.shape[1]]
  assert_same_image(batch["image"][0][window], image)
  assert batch["label"].shape[1:] == (1024, 2048)
  # The release scores at half size; nearest as Pillow takes it reads the odd rows and columns.
  np.testing.assert_array_equal(batch["label"][0][1::2, 1::2][window], label)


def assert_same_image(image, expected):
  """Equal but for the rounding of resizing filters, which Pillow's versions may do differently.

  With Pillow 13 no pixel differs.
  """
  difference = np.abs(image.astype(int) - expected)
  assert difference.max() <= 1
  assert (difference > 0).mean() < 1e-3


def test_original_synthia_labels_give_the_same(tmp_path):
  folder = Path(golden.__file__).parent
  root = folder / "datasets" / "RAND_CITYSCAPES"
  ids = readers.read_label_ids(str(root / "synthia_mapped_to_cityscapes/0000000.png"))
  instances = np.arange(ids.size, dtype=np.uint16).reshape(ids.shape)
  save_png16(tmp_path / "a.png", np.stack([ids, instances, instances], -1))
  frame = Frame("0", str(root / "RGB/0000000.png"), str(tmp_path / "a.png"), None)
  config = FrameConfig(height=720, width=1280, depth="none")
  recipe = BUILDERS["synthia"].recipe(config, "train")
  _, label, depth = preprocess.load_frame(frame, recipe)
  _, expected, _, (y, x) = reference(folder / "loaders.npz", "synthia", 0)
  np.testing.assert_array_equal(label[y : y + 512, x : x + 512], expected)
  np.testing.assert_array_equal(depth, np.full((720, 1280), NO_DEPTH))
