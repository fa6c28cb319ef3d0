"""Depth files that lie apart from the data set."""

import re
import shutil

import numpy as np
import pytest
import tiny_trees
from ml_collections import ConfigDict
from tiny_trees import dataset_config, examples, run

from corda_jax.errors import UserError
from data_pipelines.prepare import open_records
from tests.data_pipelines.tiny_trees import folder_section

# data set → kind and folder of its depth
KINDS = {
  "gta5": ("disparity", "disparity"),
  "synthia": ("simulator", "Depth"),
  "cityscapes": ("stereo", "depth"),
  "folder": ("metres_mat", "depth"),
}


def write(dataset, root):
  """A data set and its configuration."""
  depth, _ = KINDS[dataset]
  if dataset != "folder":
    return dataset_config(dataset, tiny_trees.write_any(dataset, root), depth)
  tiny_trees.write_cityscapes(root)
  folder = folder_section()
  folder.train.images = "leftImg8bit/train/{name}_leftImg8bit.png"
  folder.train.depth = "depth/train/{name}_depth_stereoscopic.mat"
  return dataset_config(dataset, root, depth, folder=folder)


def apart(config, folder):
  """Moves the depth files of a data set to a folder of their own; the configuration of it."""
  name = KINDS[config.dataset][1]
  folder.mkdir()
  shutil.move(f"{config.root}/{name}", folder / name)
  return ConfigDict({**config.to_dict(), "depth_root": str(folder)})


@pytest.mark.parametrize("dataset", KINDS)
def test_depth_files_apart_give_the_same_frames(tmp_path, dataset):
  config = write(dataset, tmp_path / "files")
  whole = run(config, tmp_path / "records")
  expected = examples(whole)
  assert any((record["inverse_depth"] > 1).any() for record in expected)
  moved = run(apart(config, tmp_path / "depth"), tmp_path / "records")
  assert moved.data_path != whole.data_path
  for one, two in zip(examples(moved), expected, strict=True):
    assert set(one) == set(two)
    for key in one:
      np.testing.assert_array_equal(one[key], two[key])


@pytest.mark.parametrize("dataset", KINDS)
def test_the_root_s_own_depth_is_not_read(tmp_path, dataset):
  """What a depth root lacks is missing, even where the root has it."""
  config = write(dataset, tmp_path / "files")
  shutil.copytree(tmp_path / "files", tmp_path / "copy")
  config = apart(config, tmp_path / "depth")
  config.root = str(tmp_path / "copy")
  path = min(path for path in (tmp_path / "depth").rglob("*") if path.is_file())
  path.unlink()
  with pytest.raises(UserError, match=f"{path}.*missing"):
    run(config, tmp_path / "records")


def test_only_a_depth_root_that_is_used_changes_the_records(tmp_path):
  config = write("gta5", tmp_path / "files")
  names = set()
  for depth, depth_root in (
    ("disparity", ""),
    ("disparity", tmp_path / "files"),
    ("disparity", f"{tmp_path}/./files/"),
    ("none", ""),
    ("none", tmp_path / "nowhere"),
  ):
    config.depth, config.depth_root = depth, str(depth_root)
    names.add(run(config, tmp_path / "records").builder_config.name)
  assert len(names) == 3
  assert {"24x16_disparity", "24x16_none"} < names


def test_records_are_used_without_the_roots_but_not_with_other_depth_files(tmp_path):
  config = apart(write("gta5", tmp_path / "files"), tmp_path / "depth")
  builder = run(config, tmp_path / "records")
  tiny_trees.save(tmp_path / "depth/disparity/00000.png", tiny_trees.pixels(9).disparity[:4])
  message = rf"{tmp_path}/records.*{tmp_path}/files\b.*{tmp_path}/depth\b"
  with pytest.raises(UserError, match=message):
    run(config, tmp_path / "records")
  shutil.rmtree(tmp_path / "depth")
  assert run(config, tmp_path / "records").data_path == builder.data_path
  assert open_records(config, tmp_path / "records").data_path == builder.data_path


def test_mistakes(tmp_path):
  config = write("cityscapes", tmp_path / "files")
  config.depth_root = str(tmp_path / "nowhere")
  with pytest.raises(UserError, match=rf"{tmp_path}/nowhere.*depth_root"):
    run(config, tmp_path / "records")
  (tmp_path / "nowhere").mkdir()
  with pytest.raises(UserError, match=rf"{tmp_path}/nowhere.*depth/train\b"):
    run(config, tmp_path / "records")
  config = write("folder", tmp_path / "mine")
  config.depth_root = str(tmp_path / "nowhere")
  pattern = re.escape(config.folder.train.depth)
  with pytest.raises(UserError, match=rf"{tmp_path}/nowhere.*{pattern}.*folder\.train\b"):
    run(config, tmp_path / "records")
  assert not (tmp_path / "records").exists()
