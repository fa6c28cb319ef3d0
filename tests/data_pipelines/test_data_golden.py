"""The prepared records against what the released loaders give for the same files."""

import numpy as np
import pytest
from tiny_trees import dataset_config

from corda_jax import labels
from data_pipelines import inverse_depth, preprocess
from data_pipelines.frame_config import FrameConfig
from data_pipelines.frames import Frame
from data_pipelines.prepare import BUILDERS, prepare

# case → data set, root, depth kind, height, width
CASES = {
  "gta5": ("gta5", "gta", "disparity", 720, 1280),
  "synthia": ("synthia", "RAND_CITYSCAPES", "simulator", 720, 1280),
  "cityscapes_stereo": ("cityscapes", "CityScapes", "stereo", 512, 1024),
  "cityscapes_mono": ("cityscapes", "CityScapes", "mono", 512, 1024),
}
RELEASED_VOID = 250


@pytest.fixture(scope="module")
def golden(golden_dir):
  with np.load(golden_dir / "loaders.npz") as file:
    return dict(file)


def released_label(golden, case):
  label = golden[f"{case}/0/label"]
  return np.where(label == RELEASED_VOID, labels.IGNORE, label)


def assert_same_image(image, wanted):
  """Equal but for the rounding of resizing filters, which Pillow's versions may do differently."""
  difference = np.abs(image.astype(int) - wanted)
  assert difference.max() <= 1
  assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("case", CASES)
def test_records_equal_the_released_loaders(case, golden, golden_dir, tmp_path):
  dataset, root, depth, height, width = CASES[case]
  config = dataset_config(dataset, golden_dir / "datasets" / root, depth, height, width)
  builder = prepare(config, records_dir=tmp_path, processes=1, progress=False)
  (example,) = builder.as_data_source("train")

  x, y = golden[f"{case}/0/crop_xy"]
  window = np.s_[y : y + 512, x : x + 512]
  assert_same_image(example["image"][window], golden[f"{case}/0/image"])
  np.testing.assert_array_equal(example["label"][window][..., 0], released_label(golden, case))
  assert example["inverse_depth"].dtype == np.float32
  np.testing.assert_array_equal(example["inverse_depth"][window], golden[f"{case}/0/depth"])

  if dataset == "cityscapes":
    (example,) = builder.as_data_source("validation")
    assert_same_image(example["image"], golden["cityscapes_val/0/image"])
    assert example["label"].shape == (1024, 2048, 1)
    # The release scores at half size; nearest as Pillow takes it reads the odd rows and columns.
    np.testing.assert_array_equal(
      example["label"][1::2, 1::2, 0], released_label(golden, "cityscapes_val")
    )
    np.testing.assert_array_equal(example["inverse_depth"], 1)


def test_original_synthia_labels_give_the_same(golden, golden_dir, tmp_path):
  from tiny_trees import save_png16

  root = golden_dir / "datasets" / "RAND_CITYSCAPES"
  ids = preprocess.read_label_ids(str(root / "synthia_mapped_to_cityscapes/0000000.png"))
  instances = np.arange(ids.size, dtype=np.uint16).reshape(ids.shape)
  save_png16(tmp_path / "a.png", np.stack([ids, instances, instances], -1))
  frame = Frame("0", str(root / "RGB/0000000.png"), str(tmp_path / "a.png"), None)
  config = FrameConfig(root="", height=720, width=1280, depth="none")
  recipe = BUILDERS["synthia"].recipe(config, "train")
  _, label, depth = preprocess.load_frame(frame, recipe)
  x, y = golden["synthia/0/crop_xy"]
  np.testing.assert_array_equal(label[y : y + 512, x : x + 512], released_label(golden, "synthia"))
  np.testing.assert_array_equal(depth, np.full((720, 1280), inverse_depth.NO_DEPTH))
