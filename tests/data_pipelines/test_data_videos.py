"""User-defined data sets for self-supervised depth: videos, and validation without labels."""

import re

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_trees import (
  dataset_config,
  evaluation_batches,
  examples,
  pixels,
  run,
  run_both,
  save,
  train_batches,
  write_gta5,
)

from corda_jax.errors import UserError
from data_pipelines.prepare import provide
from tests.data_pipelines.tiny_trees import folder_section

CLIPS = {"one/a_007": 1, "one/a_008": 2, "one/a_009": 3, "one/a_010": 4, "one/b_011": 5,
         "two/a_010": 6, "two/a_011": 7, "two/a_012": 8, "x2/9.L": 9, "x2/10.L": 10,
         "x2/0011.L": 11, "cover": 12, "12/none": 13}  # fmt: skip
# frame → its neighbours
INNER = {
  "one/a_008": ("one/a_007", "one/a_009"),
  "one/a_009": ("one/a_008", "one/a_010"),
  "two/a_011": ("two/a_010", "two/a_012"),
  "x2/10.L": ("x2/9.L", "x2/0011.L"),
}


def write(root, clips=CLIPS, kind="images"):
  for name, seed in clips.items():
    save(root / f"{kind}/{name}.png", pixels(seed).rgb)
  return root


def video_config(root, views=("previous", "next"), depth="none", **changes):
  config = dataset_config(
    "folder", root, depth, 18, 31, views=views, neighbour_offset=1, folder=folder_section()
  )
  config.folder.camera.intrinsics = (30.0, 31.0, 15.0, 8.5)
  config.folder.update_from_flattened_dict({"train.images": "images/{name}.png", **changes})
  return config


def data_config(target, records):
  return ConfigDict(
    {
      "records_dir": str(records),
      "classes": {"names": (), "colors": ()},
      "street_world": {"enabled": False},
      "bad_frames": "stop",
      "prepare_processes": 1,
      "beam_options": (),
      "source": target,
      "target": target,
      "crop_height": 18,
      "crop_width": 31,
      "batch_size": 2,
      "evaluation_batch_size": 2,
      "reader_threads": 1,
    }
  )


def test_neighbours_are_images_of_the_same_clip(tmp_path):
  builder = run(video_config(write(tmp_path / "mine")), tmp_path / "records")
  found = {record["name"].decode(): record for record in examples(builder)}
  assert list(found) == sorted(INNER)
  for name, neighbours in INNER.items():
    for key, expected in zip(
      ("image", "previous_image", "next_image"), (name, *neighbours), strict=True
    ):
      np.testing.assert_array_equal(found[name][key], pixels(CLIPS[expected]).rgb)
    np.testing.assert_array_equal(found[name]["intrinsics"], [30, 31, 15, 8.5])
  (line,) = builder.report.lines()
  assert re.match(r"train.*\b4\b.*\b4\b.*\b9\b", line)


def test_the_offset_and_one_neighbour_alone(tmp_path):
  config = video_config(write(tmp_path / "mine"), views=("next",))
  config.neighbour_offset = 2
  builder = run(config, tmp_path / "records")
  names = [record["name"].decode() for record in examples(builder)]
  assert names == ["one/a_007", "one/a_008", "two/a_010", "x2/9.L"]
  np.testing.assert_array_equal(examples(builder)[3]["next_image"], pixels(11).rgb)
  assert builder.report.ends == {"train": 9}


def test_a_pattern_goes_before_the_names(tmp_path):
  root = write(tmp_path / "mine")
  write(root, {name: seed + 50 for name, seed in CLIPS.items()}, "later")
  config = video_config(root, **{"train.next": "later/{name}.png"})
  found = {r["name"].decode(): r for r in examples(run(config, tmp_path / "records"))}
  assert set(found) == set(INNER) | {"one/a_010", "two/a_012", "x2/0011.L"}
  np.testing.assert_array_equal(found["one/a_008"]["next_image"], pixels(52).rgb)
  np.testing.assert_array_equal(found["one/a_008"]["previous_image"], pixels(1).rgb)


def test_neighbours_are_of_the_same_split(tmp_path):
  root = write(tmp_path / "mine", {"1": 1, "2": 2, "3": 3})
  write(root, {"3": 13, "4": 14, "5": 15, "6": 16}, "val")
  config = video_config(root, **{"validation.images": "val/{name}.png"})
  train, validation = run_both(config, tmp_path / "records")
  assert [r["name"] for r in examples(train)] == [b"2"]
  first, second = examples(validation, "validation")
  assert [first["name"], second["name"]] == [b"4", b"5"]
  np.testing.assert_array_equal(first["previous_image"], pixels(13).rgb)
  assert (train.report.ends, validation.report.ends) == ({"train": 2}, {"validation": 2})


def test_names_that_will_not_do(tmp_path):
  config = video_config(write(tmp_path / "mine", {"a1/x": 1, "a2/x": 2, "a3/x": 3}))
  message = r"folder\.train\b.*folder\.train\.previous.*folder\.train\.next.*''.*a1/x"
  with pytest.raises(UserError, match=message) as error:
    run(config, tmp_path / "records")
  assert "\n" not in str(error.value)
  write(tmp_path / "mine", {"1": 1, "01": 2, "2": 3})
  with pytest.raises(UserError, match=r"/01\.png.*/1\.png.*\b1\b"):
    run(config, tmp_path / "records")


def test_batches_of_a_video_with_measured_depth_in_validation_alone(tmp_path):
  """What self-supervised training needs: no labels, no depth to train on."""
  root = write(tmp_path / "mine")
  write(root, {"3": 13, "4": 14, "5": 15}, "val")
  for number in (3, 4, 5):
    np.save(root / f"val/{number}.npy", np.full((18, 31), float(number)))
  target = video_config(
    root,
    depth="metres_npy",
    **{"validation.images": "val/{name}.png", "validation.depth": "val/{name}.npy"},
  )
  data = data_config(target, tmp_path / "records")
  needs = [("target", split, ("image", "views")) for split in ("train", "validation")]
  train, validation = provide(data, needs)
  assert train.report.depth_share == {"train": 0.0}
  assert validation.report.depth_share == {"validation": 1.0}
  (batch,) = evaluation_batches(data, contents=("image", "inverse_depth", "views"))
  assert batch["name"].tolist() == ["4", "4"]
  assert batch["valid"].tolist() == [True, False]
  np.testing.assert_allclose(batch["inverse_depth"], 655.36 / 4.01, rtol=1e-6)
  np.testing.assert_array_equal(batch["next_image"][0], pixels(15).rgb)
  batches = evaluation_batches(data, split="train", contents=("image", "inverse_depth", "views"))
  assert all((batch["inverse_depth"] == 1).all() for batch in batches)
  # Frames that are measured by their depth need no neighbours.
  provide(data, [("target", "validation", ("image", "inverse_depth"))])
  batches = evaluation_batches(data, contents=("image", "inverse_depth"))
  assert [n for b in batches for n in b["name"][b["valid"]]] == ["3", "4", "5"]
  batch = next(train_batches(data, seed=0, domains=("target",)))
  assert {"target_image", "target_previous_image", "target_intrinsics"} < set(batch)


@pytest.mark.parametrize("split", ["validation.labels", "train.depth"])
def test_the_adaptation_needs_labels_and_depth(tmp_path, split):
  """It is reported before the records of the other domain are prepared."""
  changes = {
    "validation.images": "val/{name}.png",
    "validation.labels": "gt/{name}.png",
    "train.depth": "depth/{name}.npy",
    "validation.depth": "depth/{name}.npy",
    split: "",
  }
  data = data_config(
    video_config(tmp_path / "mine", depth="metres_npy", **changes), tmp_path / "records"
  )
  data.source = dataset_config("gta5", write_gta5(tmp_path / "gta5"), "disparity")
  contents = ("image", "label", "inverse_depth")
  needs = [("source", "train"), ("target", "train"), ("target", "validation")]
  with pytest.raises(UserError, match=rf"data\.target.*folder\.{split}.*''.*\{{name\}}"):
    provide(data, [(*need, contents) for need in needs])
  assert not (tmp_path / "records").exists()
