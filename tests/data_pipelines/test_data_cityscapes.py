"""What Cityscapes has beside images and labels: views, cameras, its own disparity, extra frames."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_trees import (
  CAMERA,
  dataset_config,
  examples,
  pixels,
  record_files,
  run,
  run_both,
  save,
  write_cityscapes,
  write_cityscapes_more,
  write_gta5,
  write_train_extra,
)

from corda_jax.depth.inverse_depth import to_metres
from corda_jax.errors import UserError
from data_pipelines.street_world import write as street_world

VIEWS = ("right", "previous", "next")


@pytest.fixture
def root(tmp_path):
  return write_cityscapes_more(write_cityscapes(tmp_path / "files", 2, 1))


def resized(rgb, size=(24, 16)):
  return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))


@pytest.mark.parametrize("offset", [1, 2])
def test_views_and_camera(tmp_path, root, offset):
  config = dataset_config("cityscapes", root, "none", views=VIEWS, neighbour_offset=offset)
  train, validation = run_both(config, tmp_path / "records")
  assert train.builder_config.name == f"24x16_none_right_previous_next_by{offset}"
  for builder, split in ((train, "train"), (validation, "validation")):
    for record in examples(builder, split):
      number = int(record["name"].decode().split("_")[1])
      expected = {
        "right_image": pixels(300 + number).rgb,
        "previous_image": pixels(500 + 10 * number - offset).rgb,
        "next_image": pixels(500 + 10 * number + offset).rgb,
      }
      for key, rgb in expected.items():
        np.testing.assert_array_equal(record[key], resized(rgb))
      (fx, fy), (cx, cy) = CAMERA["focal"], CAMERA["center"]
      x, y = 24 / 31, 16 / 18
      intrinsics = [fx * x, fy * y, (cx + 0.5) * x - 0.5, (cy + 0.5) * y - 0.5]
      np.testing.assert_allclose(record["intrinsics"], intrinsics, rtol=1e-6)
      assert record["intrinsics"].dtype == np.float32
      assert record["baseline"] == np.float32(CAMERA["baseline"])


def test_the_principal_point_stays_on_what_it_shows():
  """A line through the principal point, resized with the image, is found where it is said to be."""
  from data_pipelines.cameras import Camera

  x = 21
  picture = np.zeros((8, 64), np.float32)
  picture[:, x] = 1
  small = np.asarray(Image.fromarray(picture).resize((32, 8), Image.Resampling.BILINEAR))
  center = (small[4] * np.arange(32)).sum() / small[4].sum()
  intrinsics = Camera((1.0, 1.0), (x, 3.0), 1.0).intrinsics((0.5, 1.0))
  assert abs(intrinsics[2] - center) < 0.02
  assert intrinsics[3] == 3.0


@pytest.mark.parametrize("views", [(), ("right",), ("previous",), ("next",), ("previous", "next")])
def test_records_hold_the_views_asked_for(tmp_path, root, views):
  builder = run(dataset_config("cityscapes", root, "none", views=views), tmp_path / "records")
  record = examples(builder)[0]
  more = {f"{view}_image" for view in views} | ({"intrinsics", "baseline"} if views else set())
  assert set(record) == {"name", "image", "label", "inverse_depth"} | more
  if views and "right" not in views:
    assert record["baseline"] == 0


def test_views_lie_apart_from_records_without(tmp_path, root):
  plain = dataset_config("cityscapes", root, "none")
  without = run(plain, tmp_path / "records")
  config = dataset_config("cityscapes", root, "none", views=("right",))
  assert run(config, tmp_path / "records").data_path != without.data_path
  assert without.builder_config.name == "24x16_none"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", ["missing", "size", "broken"])
def test_a_view_that_cannot_be_used(tmp_path, root, view, kind):
  stem = "train/aachen/aachen_000000_0000"
  path = (
    root
    / {
      "right": f"rightImg8bit/{stem}19_rightImg8bit.png",
      "previous": f"leftImg8bit_sequence/{stem}18_leftImg8bit.png",
      "next": f"leftImg8bit_sequence/{stem}20_leftImg8bit.png",
    }[view]
  )
  if kind == "missing":
    path.unlink()
  elif kind == "size":
    save(path, np.zeros((9, 31, 3), np.uint8))
  else:
    path.write_bytes(path.read_bytes()[:100])
  reason = {
    "missing": "missing",
    "size": "31x9.*31x18",
    "broken": "decod",
  }
  config = dataset_config("cityscapes", root, "none", views=VIEWS)
  with pytest.raises(UserError, match=f"{path}.*{reason[kind]}"):
    run(config, tmp_path / "records")


@pytest.mark.parametrize(
  "contents",
  [
    "{",
    "[]",
    '{"intrinsic": {"fx": 1, "fy": 1, "u0": 1, "v0": 1}}',
    '{"intrinsic": {"fx": 1, "fy": 1, "u0": 1}, "extrinsic": {"baseline": 1}}',
    '{"intrinsic": {"fx": 0, "fy": 1, "u0": 1, "v0": 1}, "extrinsic": {"baseline": 1}}',
    '{"intrinsic": {"fx": 1, "fy": 1, "u0": NaN, "v0": 1}, "extrinsic": {"baseline": 1}}',
    '{"intrinsic": {"fx": 1, "fy": 1, "u0": 1, "v0": 1}, "extrinsic": {"baseline": "x"}}',
  ],
)
def test_a_bad_camera(tmp_path, root, contents):
  path = root / "camera/train/aachen/aachen_000000_000019_camera.json"
  path.write_text(contents)
  config = dataset_config("cityscapes", root, "official")
  with pytest.raises(UserError, match=str(path)) as error:
    run(config, tmp_path / "records")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("dataset", "changes", "message"),
  [
    ("gta5", {"views": ("right",)}, r"views.*gta5.*right"),
    ("cityscapes", {"views": ("left",)}, r"views.*cityscapes.*left.*right.*previous.*next"),
    ("cityscapes", {"views": ("right", "right")}, r"views.*right.*right.*right.*previous.*next"),
    (
      "cityscapes",
      {"splits": ("train", "test")},
      r"splits.*cityscapes.*test.*train.*train_extra",
    ),
    ("cityscapes", {"splits": ("train",) * 2}, r"splits.*cityscapes.*once.*train.*train_extra"),
    ("cityscapes", {"views": ("next",), "neighbour_offset": 0}, r"neighbour_offset.*0.*1"),
  ],
)
def test_wrong_values(tmp_path, root, dataset, changes, message):
  if dataset == "gta5":
    root = write_gta5(tmp_path / "gta5")
  with pytest.raises(UserError, match=message):
    run(dataset_config(dataset, root, "none", **changes), tmp_path / "records")


def test_official_disparity(tmp_path, root):
  values = pixels(400).disparity.copy()
  values[0, :3] = 0, 1, 2
  save(root / "disparity/train/aachen/aachen_000000_000019_disparity.png", values)
  config = dataset_config("cityscapes", root, "official", 18, 31)
  record = examples(run(config, tmp_path / "records"))[0]
  disparity = (values.astype(np.float64) - 1) / 256
  with np.errstate(divide="ignore"):
    metres = CAMERA["baseline"] * CAMERA["focal"][0] / disparity
  expected = np.where((values > 1) & (metres < 655.35), 655.36 / (metres + 0.01), 1.0)
  np.testing.assert_allclose(record["inverse_depth"], expected, rtol=1e-6)
  assert (record["inverse_depth"][0, :2] == 1).all()
  for record in examples(run(config, tmp_path / "records", split="validation"), "validation"):
    assert (record["inverse_depth"] > 1).any()


def test_official_disparity_of_the_street_world_is_its_depth(tmp_path):
  """The world writes exact depth as metres and as disparity: both must say the same."""
  root = street_world.write_cityscapes(
    tmp_path / "world", train_frames=1, validation_frames=1, seed=3, height=32, width=64,
    processes=1, progress=False,
  )  # fmt: skip
  depths = [
    examples(run(dataset_config("cityscapes", root, kind, 32, 64), tmp_path / kind))[0]
    for kind in ("stereo", "official")
  ]
  stereo, official = (record["inverse_depth"].astype(np.float64) for record in depths)
  known = (stereo > 1) & (official > 1)
  assert known.mean() > 0.5
  # Half a step of the disparity file is the whole difference.
  camera = json.loads(next((root / "camera/train").rglob("*.json")).read_text())
  metres = to_metres(stereo[known])
  disparity = camera["extrinsic"]["baseline"] * camera["intrinsic"]["fx"] / metres
  tolerance = 0.51 / 256 / disparity
  assert (np.abs(official[known] / stereo[known] - 1) <= tolerance + 1e-5).all()


def test_train_extra(tmp_path):
  root = write_train_extra(write_cityscapes(tmp_path / "files", 2, 1))
  config = dataset_config("cityscapes", root, "none", splits=("train", "train_extra"))
  builder = run(config, tmp_path / "records")
  assert set(builder.info.splits) == {"train", "train_extra"}
  for i, record in enumerate(examples(builder, "train_extra")):
    np.testing.assert_array_equal(record["image"], resized(pixels(600 + i).rgb))
    assert record["label"].shape == (16, 24, 1)
    assert (record["label"] == 255).all()
  assert builder.report.expected == {"train": 2975, "train_extra": 19998}
  assert builder.report.kept == {"train": 2, "train_extra": 2}
  # Without it, neither its folder nor its records matter.
  plain = run(dataset_config("cityscapes", root, "none"), tmp_path / "records")
  assert set(plain.info.splits) == {"train"}
  assert plain.data_path != builder.data_path
  ours, theirs = record_files(plain), record_files(builder)
  for name in (name for name in ours if "array_record" in name):
    assert ours[name] == theirs[name]


def test_train_extra_that_is_not_there(tmp_path):
  root = write_cityscapes(tmp_path / "files", 2, 1)
  config = dataset_config("cityscapes", root, "none", splits=("train", "train_extra"))
  with pytest.raises(UserError, match=f"{root}.*leftImg8bit/train_extra"):
    run(config, tmp_path / "records")


def test_depth_of_train_extra(tmp_path):
  root = write_train_extra(write_cityscapes(tmp_path / "files", 1, 1), 1)
  write_cityscapes_more(root, ("train", "train_extra"))
  config = dataset_config("cityscapes", root, "official", splits=("train", "train_extra"))
  (record,) = examples(run(config, tmp_path / "records"), "train_extra")
  assert (record["inverse_depth"] > 1).any()


def test_validation_alone_needs_no_file_of_training(tmp_path):
  root = write_cityscapes(tmp_path / "files", train=0, validation=2)
  for kind in ("leftImg8bit", "gtFine"):
    assert not (root / kind / "train").exists()
  config = dataset_config("cityscapes", root, "stereo", views=("right",))
  config.depth_root = str(tmp_path / "nowhere")
  builder = run(config, tmp_path / "records", split="validation", contents=("image", "label"))
  assert len(examples(builder, "validation")) == 2
  assert "right_image" not in builder.info.features
  with pytest.raises(UserError, match=f"{root}.*rightImg8bit/val"):
    run(config, tmp_path / "records", split="validation", contents=("image", "views"))
