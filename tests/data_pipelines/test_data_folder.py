"""A user-defined data set: patterns, labels, depth, views, and what is reported about mistakes."""

import json
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import tiny_trees
from PIL import Image
from tiny_trees import HEIGHT, WIDTH, examples, pixels, save

from corda_jax.depth.inverse_depth import to_metres
from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from data_pipelines import inverse_depth
from data_pipelines.prepare import open_records
from tests.data_pipelines.tiny_trees import folder_section

CLASSES = ClassList.from_config({"names": ("way", "house", "tram"), "colors": ()})
# Own ids: two of one class, one that is ignored.
IDS = ((4, "way"), (9, "house"), (200, "tram"), (7, "house"), (0, ""))
TRAIN_IDS = {4: 0, 9: 1, 200: 2, 7: 1, 0: 255, 255: 255}
NAMES = ("a/1", "a/2", "b/1")


def ids_of(seed):
  return np.random.RandomState(seed).choice(list(TRAIN_IDS), (HEIGHT, WIDTH)).astype(np.uint8)


def expected_label(seed):
  return np.vectorize(TRAIN_IDS.get)(ids_of(seed))


@pytest.fixture
def root(tmp_path):
  root = tmp_path / "mine"
  for seed, name in enumerate(NAMES):
    frame = pixels(seed)
    for number, kind in enumerate(("train/images", "val/images", "right", "before", "after")):
      save(root / f"{kind}/{name}_photo.png", pixels(10 * number + seed).rgb)
    for split in ("train", "val"):
      save(root / f"{split}/labels/{name}.png", ids_of(seed))
    save(root / f"depth/{name}.png", frame.disparity)
    metres = frame.disparity / np.float32(256)
    np.save(root / f"depth/{name}.npy", metres)
    scipy.io.savemat(root / f"depth/{name}.mat", {"depth_map": metres})
  return root


def config(root, depth="none", height=HEIGHT, width=WIDTH, **changes):
  views = changes.pop("views", ())
  dataset = tiny_trees.dataset_config("folder", root, depth, height, width, views=views)
  dataset.folder = folder_section()
  values = {
    "train.images": "train/images/{name}_photo.png",
    "train.labels": "train/labels/{name}.png",
    "label_classes": IDS,
  }
  dataset.folder.update_from_flattened_dict(
    values | {key.replace("__", "."): value for key, value in changes.items()}
  )
  return dataset


def run(dataset, records, **options):
  options = {"contents": ("image", "label", "inverse_depth", "views")} | options
  return tiny_trees.run(dataset, records, classes=CLASSES, **options)


def test_images_and_labels_by_name(root, tmp_path):
  dataset = config(
    root,
    validation__images="val/images/{name}_photo.png",
    validation__labels="val/labels/{name}.png",
    height=9,
    width=20,
  )
  train = examples(run(dataset, tmp_path / "records"))
  validation = examples(run(dataset, tmp_path / "records", split="validation"), "validation")
  assert [x["name"].decode() for x in train] == [x["name"].decode() for x in validation] == [*NAMES]
  for seed, (record, held_out) in enumerate(zip(train, validation, strict=True)):
    image = Image.fromarray(pixels(seed).rgb).resize((20, 9), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(record["image"], image)
    label = Image.fromarray(expected_label(seed).astype(np.uint8))
    label = label.resize((20, 9), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(record["label"][..., 0], label)
    np.testing.assert_array_equal(record["inverse_depth"], 1)
    image = Image.fromarray(pixels(10 + seed).rgb).resize((20, 9), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(held_out["image"], image)
    np.testing.assert_array_equal(
      held_out["label"][..., 0], expected_label(seed)
    )  # of its own size


def test_without_labels_all_is_ignored_and_without_a_mapping_ids_are_training_ids(root, tmp_path):
  bare = examples(run(config(root, train__labels=""), tmp_path / "records"))
  assert len(bare) == 3
  assert all((record["label"] == 255).all() for record in bare)
  for name in NAMES:
    save(root / f"train/labels/{name}.png", expected_label(3).astype(np.uint8))
  for record in examples(run(config(root, label_classes=()), tmp_path / "records")):
    np.testing.assert_array_equal(record["label"][..., 0], expected_label(3))


def test_image_filter(root, tmp_path):
  dataset = config(root, image_filter="bicubic", height=9, width=20)
  first, *_ = examples(run(dataset, tmp_path / "records"))
  image = Image.fromarray(pixels(0).rgb).resize((20, 9), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(first["image"], image)
  dataset.resampling = "opencv"  # takes precedence
  first, *_ = examples(run(dataset, tmp_path / "records"))
  image = cv2.resize(pixels(0).rgb, (20, 9), interpolation=cv2.INTER_LINEAR)
  np.testing.assert_array_equal(first["image"], image)


@pytest.mark.parametrize(
  ("depth", "pattern", "expected"),
  [
    ("inverse_png16", "depth/{name}.png", lambda x: x / 256 + 1),
    ("metres_png16", "depth/{name}.png", lambda x: 655.36 / (np.clip(x / 500, 0, 655.35) + 0.01)),
    ("metres_npy", "depth/{name}.npy", lambda x: 655.36 / (np.clip(x / 256, 0, 655.35) + 0.01)),
    ("metres_mat", "depth/{name}.mat", lambda x: 655.36 / (np.clip(x / 256, 0, 655.35) + 0.01)),
  ],
)
def test_depth_kinds(root, tmp_path, depth, pattern, expected):
  dataset = config(root, depth, train__depth=pattern, metres_per_unit=1 / 500)
  for seed, record in enumerate(examples(run(dataset, tmp_path / "records"))):
    values = pixels(seed).disparity
    assert (values > 0).all()
    np.testing.assert_allclose(record["inverse_depth"], expected(values), rtol=1e-6)


def test_what_is_no_distance_is_no_depth():
  values = np.array([0, -3, np.nan, np.inf, -np.inf, 700, 655.34, 0.5])
  inverse = inverse_depth.from_measured(values)
  assert inverse.dtype == np.float32
  np.testing.assert_allclose(inverse[:6], 1)
  np.testing.assert_allclose(to_metres(inverse[6:]), [655.34, 0.5], rtol=1e-5)
  doubled = inverse_depth.from_measured(np.array([250], np.uint16), metres_per_unit=0.02)
  np.testing.assert_allclose(to_metres(doubled), 5, rtol=1e-6)


VIEWS = {
  "views": ("right", "previous", "next"),
  "train__right": "right/{name}_photo.png",
  "train__previous": "before/{name}_photo.png",
  "train__next": "after/{name}_photo.png",
}


def test_views_with_one_camera_or_a_file_each(root, tmp_path):
  camera = {"intrinsics": (30.0, 31.0, 14.5, 8.0), "baseline": 0.25}
  dataset = config(root, **VIEWS, height=9, width=62)
  dataset.folder.camera.update(camera)
  one = examples(run(dataset, tmp_path / "records"))
  for seed, record in enumerate(one):
    for number, view in enumerate(("right", "previous", "next"), 2):
      image = Image.fromarray(pixels(10 * number + seed).rgb)
      image = image.resize((62, 9), Image.Resampling.BILINEAR)
      np.testing.assert_array_equal(record[f"{view}_image"], image)
    np.testing.assert_allclose(record["intrinsics"], [60, 15.5, 29.5, 3.75])
    assert record["baseline"] == 0.25

  fx, fy, u0, v0 = camera["intrinsics"]
  for name in NAMES:
    path = root / f"camera/{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    intrinsic = {"fx": fx, "fy": fy, "u0": u0, "v0": v0}
    path.write_text(json.dumps({"intrinsic": intrinsic, "extrinsic": {"baseline": 0.25}}))
  dataset = config(root, **VIEWS, train__camera="camera/{name}.json", height=9, width=62)
  for first, second in zip(one, examples(run(dataset, tmp_path / "records")), strict=True):
    np.testing.assert_array_equal(first["intrinsics"], second["intrinsics"])
    assert first["baseline"] == second["baseline"]


def test_patterns_that_overlap_hidden_files_and_archives(tmp_path):
  for seed, name in enumerate(("1", "2")):
    save(tmp_path / f"flat/{name}.png", pixels(seed).rgb)
    save(tmp_path / f"flat/{name}_L.png", ids_of(seed))
  save(tmp_path / "flat/._1.png", ids_of(0))
  save(tmp_path / "flat/.trash/3.png", ids_of(0))
  dataset = config(tmp_path / "flat", train__images="{name}.png", train__labels="{name}_L.png")
  plain = examples(run(dataset, tmp_path / "plain"))
  assert [record["name"].decode() for record in plain] == ["1", "2"]
  np.testing.assert_array_equal(plain[1]["label"][..., 0], expected_label(1))

  (tmp_path / "zipped").mkdir()
  with zipfile.ZipFile(tmp_path / "zipped/all.zip", "w") as archive:
    for path in (tmp_path / "flat").rglob("*.png"):
      archive.write(path, path.relative_to(tmp_path / "flat"))
  dataset.root = str(tmp_path / "zipped")
  for a, b in zip(plain, examples(run(dataset, tmp_path / "archived")), strict=True):
    assert a["name"] == b["name"]
    np.testing.assert_array_equal(a["image"], b["image"])


def test_records_depend_on_what_the_configuration_says_of_the_files(root, tmp_path):
  variants = [
    {},
    {"train__labels": ""},
    {"label_classes": (*IDS[:3], (7, "way"), (0, ""))},
    {"other_labels": "ignore"},
    {"image_filter": "bicubic"},
  ]
  paths = {run(config(root, **variant), tmp_path / "records").data_path for variant in variants}
  assert len(paths) == len(variants)
  unused = config(root, train__depth="depth/{name}.png", train__right="right/{name}.png")
  assert open_records(unused, tmp_path / "records", classes=CLASSES).data_path in paths


@pytest.mark.parametrize(
  ("depth", "changes", "message"),
  [
    ("none", {"train__images": ""}, r"folder\.train\.images.*''.*\{name\}"),
    ("none", {"train__images": "a/*.png"}, r"folder\.train\.images.*a/\*\.png.*\{name\}"),
    (
      "none",
      {"train__labels": "{name}/{name}.png"},
      r"folder\.train\.labels.*\{name\}/\{name\}\.png.*\{name\}",
    ),
    ("none", {"train__labels": "gt/{name}.png"}, r"gt/\{name\}\.png.*folder\.train\b"),
    ("metres_npy", {}, r"folder\.train\.depth.*''.*metres_npy"),
    ("disparity", {}, r"depth.*folder.*disparity.*inverse_png16.*metres_png16"),
    ("metres_png16", {"metres_per_unit": 0.0}, r"folder\.metres_per_unit.*0\.0.*0"),
    ("none", {"views": ("right",)}, r"folder\.train\.right.*''.*views.*'right'"),
    ("none", {"views": ("left",)}, r"views.*folder.*left.*right"),
    (
      "none",
      {"views": ("next",), "train__next": "after/{name}.png"},
      r"folder\.train\.camera.*''.*views.*'next'",
    ),
    (
      "none",
      {**VIEWS, "camera__intrinsics": (1.0, 1.0, 0.0, 0.0)},
      r"folder\.camera\.baseline.*0\.0.*right",
    ),
    (
      "none",
      {**VIEWS, "camera__intrinsics": (1.0, 1.0)},
      r"folder\.camera\.intrinsics.*\(1\.0, 1\.0\).*\(fx, fy, cx, cy\)",
    ),
    (
      "none",
      {"label_classes": ((1, "tree"),)},
      r"folder\.label_classes.*1.*'tree'.*way.*house.*tram",
    ),
    (
      "none",
      {"label_classes": ((1, "way"), (1, "tram"))},
      r"folder\.label_classes.*\b1\b.*once",
    ),
    ("none", {"label_classes": ((256, "way"),)}, r"folder\.label_classes.*256, 'way'.*0.*255"),
    ("none", {"label_classes": ("way",)}, r"folder\.label_classes.*'way'.*0.*255"),
    ("none", {"other_labels": "drop"}, r"folder\.other_labels.*drop.*refuse.*ignore"),
    ("none", {"image_filter": "cubic"}, r"folder\.image_filter.*cubic.*bilinear.*bicubic"),
  ],
)
def test_mistakes_are_reported_before_anything_is_written(root, tmp_path, depth, changes, message):
  with pytest.raises(UserError, match=message) as error:
    run(config(root, depth, **changes), tmp_path / "records")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
  ("mapping", "stray", "message"),
  [
    (IDS, 77, r"label id 77\b.*0, 4, 7, 9, 200, 255"),
    ((), 3, r"label id 3\b.*0.*2, 255"),
  ],
)
def test_labels_outside_the_list(root, tmp_path, mapping, stray, message):
  for name in NAMES:
    save(root / f"train/labels/{name}.png", np.full((HEIGHT, WIDTH), 0, np.uint8))
  path = root / f"train/labels/{NAMES[1]}.png"
  ids = np.zeros((HEIGHT, WIDTH), np.uint8)
  ids[2, 3] = stray
  save(path, ids)
  dataset = config(root, label_classes=mapping)
  with pytest.raises(UserError, match=message) as error:
    run(dataset, tmp_path / "records")
  assert str(path) in str(error.value)
  builder = run(dataset, tmp_path / "records", bad_frames="skip")
  assert [x["name"].decode() for x in examples(builder)] == [NAMES[0], NAMES[2]]
  dataset.folder.other_labels = "ignore"
  label = examples(run(dataset, tmp_path / "records"))[1]["label"][..., 0]
  assert label[2, 3] == 255


def test_missing_and_misshapen_files(root, tmp_path):
  depth = {"train__depth": "depth/{name}.npy"}
  (root / f"depth/{NAMES[2]}.npy").unlink()
  with pytest.raises(UserError, match=rf"depth/{NAMES[2]}\.npy.*missing"):
    run(config(root, "metres_npy", **depth), tmp_path / "records")
  np.save(root / f"depth/{NAMES[2]}.npy", np.zeros((2, 3, 1)))
  with pytest.raises(UserError, match=rf"depth/{NAMES[2]}\.npy.*float64\(2, 3, 1\).*H W"):
    run(config(root, "metres_npy", **depth), tmp_path / "records")
  Path(root / f"train/images/{NAMES[0]}_photo.png").unlink()
  with pytest.raises(UserError, match=rf"{NAMES[0]}_photo\.png.*missing"):
    run(config(root), tmp_path / "records")


@pytest.mark.parametrize(
  ("depth", "low", "high", "interpolated"),
  [("inverse_png16", 256, 2560, True), ("metres_npy", 4.0, 8.0, False)],
)
def test_depth_of_another_size(root, tmp_path, depth, low, high, interpolated):
  """A network's inverse depth is interpolated, measured depth is not."""
  for name in NAMES:
    values = np.array([[low, high]] * 2)
    save(root / f"depth/{name}.png", values.astype(np.uint16))
    np.save(root / f"depth/{name}.npy", values)
  pattern = "depth/{name}." + ("png" if interpolated else "npy")
  first, *_ = examples(run(config(root, depth, train__depth=pattern), tmp_path / "records"))
  assert (len(np.unique(first["inverse_depth"])) > 2) == interpolated
  ends = sorted([2, 11] if interpolated else [655.36 / 4.01, 655.36 / 8.01])
  found = [first["inverse_depth"].min(), first["inverse_depth"].max()]
  np.testing.assert_allclose(found, ends, rtol=1e-6)


def test_holes_in_inverse_depth_do_not_blend(root, tmp_path):
  for name in NAMES:
    save(root / f"depth/{name}.png", np.array([[0, 2560]] * 2, np.uint16))
  dataset = config(root, "inverse_png16", train__depth="depth/{name}.png")
  first, *_ = examples(run(dataset, tmp_path / "records"))
  assert set(np.unique(first["inverse_depth"])) == {1, 11}


def test_frames_of_both_splits_are_refused(root, tmp_path):
  dataset = config(root)
  dataset.folder.validation.images = dataset.folder.train.images
  dataset.folder.validation.labels = dataset.folder.train.labels
  with pytest.raises(UserError, match=r"folder\.train\b.*folder\.validation\b"):
    run(dataset, tmp_path / "records")


def test_folders_of_other_names_have_other_records(root, tmp_path):
  first = run(config(root), tmp_path / "records")
  shutil.copytree(root, tmp_path / "other")
  second = run(config(tmp_path / "other"), tmp_path / "records")
  assert first.data_path != second.data_path


def test_a_name_is_not_empty(tmp_path):
  for name in ("f_.png", "f_1.png", "f.png"):
    save(tmp_path / "mine" / name, pixels(0).rgb)
  dataset = config(tmp_path / "mine", train__images="f_{name}.png", train__labels="")
  assert [x["name"].decode() for x in examples(run(dataset, tmp_path / "records"))] == ["1"]
