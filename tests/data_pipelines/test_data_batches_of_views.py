"""Training batches of what Cityscapes has beside images and labels."""

import itertools

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_trees import (
  BAD_RECORDS,
  dataset_config,
  examples,
  run,
  write_cityscapes,
  write_cityscapes_more,
  write_gta5,
  write_train_extra,
)

from data_pipelines import inverse_depth
from data_pipelines.batches import evaluation_batches, train_batches
from data_pipelines.street_world import write as street_world

CROP = (9, 14)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("views")
  write_gta5(folder / "gta5", 2)
  write_train_extra(write_cityscapes(folder / "cityscapes", 3, 2), 2)
  write_cityscapes_more(folder / "cityscapes")
  return folder


def make_config(folder, records, **more):
  config = ConfigDict(
    {
      "records_dir": str(records),
      "classes": {"names": (), "colors": ()},
      "cache_dir": "",
      "source": dataset_config("gta5", folder / "gta5", "disparity"),
      "target": dataset_config("cityscapes", folder / "cityscapes", "none", **more),
      "crop_height": CROP[0],
      "crop_width": CROP[1],
      "batch_size": 4,
      "evaluation_batch_size": 2,
      "reader_threads": 1,
      "bad_records": BAD_RECORDS,
    }
  )
  run(config.source, records)
  return config, run(config.target, records)


def test_views_are_cut_where_the_image_is(tmp_path, files):
  views = ("right", "previous", "next")
  config, builder = make_config(files, tmp_path, views=views)
  frames = examples(builder)
  corners = set()
  for batch in itertools.islice(train_batches(config, seed=1), 4):
    assert not [key for key in batch if key.startswith("source_") and "right" in key]
    for i in range(4):
      (record,) = {
        number
        for number, frame in enumerate(frames)
        for top, left in itertools.product(range(8), range(11))
        if np.array_equal(
          frame["image"][top : top + CROP[0], left : left + CROP[1]], batch["target_image"][i]
        )
      }
      frame = frames[record]
      shift = frame["intrinsics"] - batch["target_intrinsics"][i]
      assert (shift[:2] == 0).all()
      left, top = shift[2:].round().astype(int)
      corners.add((left, top))
      window = np.s_[top : top + CROP[0], left : left + CROP[1]]
      for key in ("image", *(f"{view}_image" for view in views)):
        np.testing.assert_array_equal(batch[f"target_{key}"][i], frame[key][window])
      assert batch["target_baseline"][i] == frame["baseline"] > 0
  assert len(corners) > 8
  (batch, *_) = evaluation_batches(config)
  assert set(batch) == {"image", "label", "name", "valid"}


def test_extra_frames_are_trained_on(tmp_path, files):
  config, builder = make_config(files, tmp_path, splits=("train", "train_extra"))
  config.crop_height, config.crop_width = 16, 24
  config.batch_size = 5
  wanted = [
    (frame["image"].tobytes(), frame["label"].tobytes())
    for split in ("train", "train_extra")
    for frame in examples(builder, split)
  ]
  batch = next(train_batches(config, seed=0))  # one epoch
  found = zip(batch["target_image"], batch["target_label"], strict=True)
  assert sorted((image.tobytes(), label.tobytes()) for image, label in found) == sorted(wanted)


def test_views_and_true_depth_of_the_street_world(tmp_path):
  """What a depth network is trained on and scored by, in both splits."""
  height, width = 72, 144
  root = street_world.write_cityscapes(
    tmp_path / "world", train_frames=2, validation_frames=3, seed=5, height=height, width=width,
    processes=1, progress=False,
  )  # fmt: skip
  views = ("right", "previous", "next")
  target = dataset_config("cityscapes", root, "official", height, width, views=views)
  builder = run(target, tmp_path / "records")
  assert builder.report.kept == {"train": 2, "validation": 3}
  config = ConfigDict(
    {
      "records_dir": str(tmp_path / "records"),
      "classes": {"names": (), "colors": ()},
      "cache_dir": "",
      "target": target,
      "crop_height": height,
      "crop_width": width,
      "batch_size": 2,
      "evaluation_batch_size": 2,
      "reader_threads": 1,
      "bad_records": BAD_RECORDS,
    }
  )
  contents = ("image", "inverse_depth", "views")
  for split in ("train", "validation"):
    for batch in evaluation_batches(config, split=split, contents=contents):
      assert batch["image"].shape == (2, height, width, 3)
      known = batch["inverse_depth"] > 1
      assert known.mean() > 0.5
      # The right image, moved by the disparity that the true depth gives, shows what the left does.
      metres = inverse_depth.to_metres(batch["inverse_depth"])
      shift = (batch["intrinsics"][:, 0] * batch["baseline"])[:, None, None] / metres
      column = np.arange(width) - shift
      known &= (column >= 0) & (shift > 0.5)
      column = np.clip(column.round().astype(int), 0, width - 1)
      moved = np.take_along_axis(batch["right_image"], column[..., None], 2)
      left, right = batch["image"].astype(float), batch["right_image"].astype(float)
      error = np.abs(moved - left)[known].mean()
      assert error < 0.6 * np.abs(right - left)[known].mean()
      for view in ("previous", "next"):
        assert (batch[f"{view}_image"] != batch["image"]).any()
  batch = next(train_batches(config, seed=0, domains=("target",)))
  assert batch["target_next_image"].shape == (2, height, width, 3)
