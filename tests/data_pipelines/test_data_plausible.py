"""Files of another encoding than configured, cameras that cannot be, files that are left out."""

import json
import zipfile

import numpy as np
import pytest
import tiny_trees
from PIL import Image
from tiny_trees import HEIGHT, WIDTH, dataset_config, examples, pixels, save, write_any, write_gta5

from corda_jax import labels
from corda_jax.errors import UserError
from data_pipelines.cameras import Camera
from tests.data_pipelines.tiny_trees import folder_section


def run(config, records, **options):
  return tiny_trees.run(config, records, contents=("image", "label", "views"), **options)


def folder_config(root, depth="none", views=(), **changes):
  config = dataset_config("folder", root, depth, HEIGHT, WIDTH, views=views)
  config.folder = folder_section()
  changes = {"train__images": "images/{name}.png"} | changes
  config.folder.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return config


def notes(builder):
  return [(note["file"], note["reason"]) for note in builder.report.notes]


def street(seed):
  """Training ids as a street has them: sky, trees, road, and between them all that is on it."""
  ids = np.zeros((HEIGHT, WIDTH), np.uint8)
  ids[: HEIGHT // 4] = labels.NAMES.index("sky")
  ids[HEIGHT // 4 : HEIGHT // 2] = labels.NAMES.index("vegetation")
  ids[HEIGHT // 2] = (np.arange(WIDTH) + seed) % 14
  return ids


@pytest.mark.parametrize("dataset", ["gta5", "cityscapes"])
def test_training_ids_are_no_label_ids(tmp_path, dataset):
  root = write_any(dataset, tmp_path / "files")
  files = sorted(path for path in root.rglob("*.png") if "label" in path.as_posix())
  for number, path in enumerate(files):
    save(path, street(number))
  config = dataset_config(dataset, root, "none")
  with pytest.raises(UserError, match=r"(labels|gtFine)/.*\b14 ids\b.*\b13\b.*training.*original"):
    run(config, tmp_path / "records")
  for number, path in enumerate(files):
    save(path, labels.TRAIN_TO_CITYSCAPES[street(number)])
  assert not notes(run(config, tmp_path / "records"))


@pytest.mark.parametrize(
  ("mapping", "ids"),
  [
    ((), lambda seed: np.where(street(seed) < 9, 255, street(seed))),  # training ids, weak labels
    (("cityscapes",), lambda seed: np.where(street(seed) == 0, 7, 0)),  # the road alone
    (tuple(enumerate(("",) * 12 + labels.NAMES[:1])), lambda seed: street(seed) % 12 + (seed == 2)),
  ],
)
def test_labels_of_ones_own_that_are_right(tmp_path, mapping, ids):
  for seed in range(3):
    save(tmp_path / f"files/images/{seed}.png", pixels(seed).rgb)
    save(tmp_path / f"files/labels/{seed}.png", ids(seed).astype(np.uint8))
  config = folder_config(tmp_path / "files", train__labels="labels/{name}.png")
  config.folder.label_classes = mapping
  assert not notes(run(config, tmp_path / "records"))


def test_training_ids_are_no_ids_of_ones_own_table(tmp_path):
  for seed in range(3):
    save(tmp_path / f"files/images/{seed}.png", pixels(seed).rgb)
    save(tmp_path / f"files/labels/{seed}.png", street(seed))
  config = folder_config(tmp_path / "files", train__labels="labels/{name}.png")
  config.folder.label_classes = tuple((labels.CITYSCAPES_IDS[name], name) for name in labels.NAMES)
  config.folder.other_labels = "ignore"
  with pytest.raises(UserError, match=r"\b14 ids\b.*in folder\.label_classes.*training"):
    run(config, tmp_path / "records")


def test_labels_without_a_class_are_noted(tmp_path, caplog):
  root = write_gta5(tmp_path / "files")
  for path in (root / "labels").iterdir():
    save(path, np.zeros((HEIGHT, WIDTH), np.uint8))
  ((file, reason),) = notes(run(dataset_config("gta5", root, "none"), tmp_path / "records"))
  assert file == str(root / "labels/00000.png")
  assert "no pixel of 3 labels" in reason
  assert reason in caplog.text


def street_depth(kind, seed):
  """What a depth file of a street holds: 80 m at the top, 4 m at the bottom."""
  metres = np.linspace(80, 4, HEIGHT)[:, None] * np.ones(WIDTH) + seed
  return {
    "metres_npy": metres,
    "metres_png16": np.rint(100 * metres).astype(np.uint16),
    "inverse_png16": np.rint(256 * (655.36 / (metres + 0.01) - 1)).astype(np.uint16),
  }[kind]


def depth_notes(root, records, kind, values, **changes):
  suffix = "npy" if kind.endswith("npy") else "png"
  for number in range(5):
    save(root / f"images/{number}.png", pixels(number).rgb)
    path = root / f"depth/{number}.{suffix}"
    path.parent.mkdir(exist_ok=True)
    np.save(path, values(number)) if suffix == "npy" else save(path, values(number))
  changes["train__depth"] = f"depth/{{name}}.{suffix}"
  return [reason for _, reason in notes(run(folder_config(root, kind, **changes), records))]


@pytest.mark.parametrize("kind", ["metres_npy", "metres_png16", "inverse_png16"])
def test_depth_of_a_street_needs_no_note(tmp_path, kind):
  values = lambda seed: street_depth(kind, seed)  # noqa: E731
  assert not depth_notes(tmp_path / "files", tmp_path / "records", kind, values)


@pytest.mark.parametrize(
  ("kind", "given", "changes", "expected"),
  [
    # Centimetres as metres, metres as centimetres; inverse depth as distance, and the reverse.
    ("metres_png16", "metres_png16", {"metres_per_unit": 0.5}, "median distance"),
    ("metres_png16", "metres_png16", {"metres_per_unit": 0.0001}, "median distance"),
    ("metres_png16", "inverse_png16", {}, "bottom is farther"),
    ("inverse_png16", "metres_png16", {}, "bottom is farther"),
  ],
)
def test_depth_of_another_encoding_is_noted(tmp_path, kind, given, changes, expected):
  (reason,) = depth_notes(
    tmp_path / "files",
    tmp_path / "records",
    kind,
    lambda seed: street_depth(given, seed),
    **changes,
  )
  assert expected in reason


CAMERAS = {
  "normalised": (0.58, 1.92, 0.5, 0.5),
  "of twice the size": (80.0, 80.0, 2 * 15.5, 2 * 8.5),
  "of half the size": (20.0, 20.0, 7.5, 4.0),
  "a focal length of two pixels": (2.0, 40.0, 15.0, 8.5),
  "a principal point below": (40.0, 40.0, 15.0, 19.0),
  "a principal point on the left": (40.0, 40.0, -3.0, 8.5),
  "a telescope": (40.0, 4000.0, 15.0, 8.5),
}
GOOD = {
  "cut out of a corner": (40.0, 40.0, 28.0, 12.5),
  "middle": (40.0, 41.0, 15.0, 8.5),
  "cropped at the top": (40.0, 40.0, 15.0, 0.0),
  "wide": (10.0, 10.0, 17.0, 9.0),
}


@pytest.mark.parametrize(
  ("size", "numbers"),
  [
    ((2048, 1024), (2262.52, 2265.30, 1096.98, 513.137)),  # Cityscapes
    ((1242, 375), (721.54, 721.54, 609.56, 172.85)),  # KITTI
    ((1226, 370), (707.09, 707.09, 601.89, 183.11)),
    ((1914, 1052), (1158.0, 1158.0, 957.0, 526.0)),
  ],
)
def test_cameras_of_real_data_sets(size, numbers):
  camera = Camera(numbers[:2], numbers[2:], 0.5)
  assert camera.fault(size) is None
  for factor in (0.5, 2):
    assert camera.fault((int(size[0] * factor), int(size[1] * factor))) is not None


def camera_file(path, numbers, baseline=0.5):
  fx, fy, u0, v0 = numbers
  path.parent.mkdir(parents=True, exist_ok=True)
  camera = {"intrinsic": {"fx": fx, "fy": fy, "u0": u0, "v0": v0}}
  path.write_text(json.dumps(camera | {"extrinsic": {"baseline": baseline}}))


@pytest.mark.parametrize("where", ["configuration", "file"])
@pytest.mark.parametrize("kind", [*CAMERAS, *GOOD])
def test_cameras_that_cannot_be(tmp_path, kind, where):
  numbers = {**CAMERAS, **GOOD}[kind]
  save(tmp_path / "images/a.png", pixels(0).rgb)
  save(tmp_path / "right/a.png", pixels(1).rgb)
  config = folder_config(tmp_path, views=("right",), train__right="right/{name}.png")
  named = tmp_path / "images/a.png"
  if where == "file":
    named = tmp_path / "camera/a.json"
    camera_file(named, numbers)
    config.folder.train.camera = "camera/{name}.json"
  else:
    config.folder.camera.update({"intrinsics": numbers, "baseline": 0.5})
  if kind in GOOD:
    (record,) = examples(run(config, tmp_path / "records"))
    np.testing.assert_allclose(record["intrinsics"], numbers)
    return
  shown = ", ".join(f"{number:g}" for number in numbers)
  with pytest.raises(UserError, match=rf"{named}.*{shown}.*{WIDTH}x{HEIGHT}") as error:
    run(config, tmp_path / "records")
  assert ("folder.camera" in str(error.value)) == (where == "configuration")


def test_a_baseline_in_millimetres(tmp_path):
  save(tmp_path / "images/a.png", pixels(0).rgb)
  save(tmp_path / "right/a.png", pixels(1).rgb)
  camera_file(tmp_path / "camera/a.json", GOOD["middle"], baseline=540)
  config = folder_config(
    tmp_path, views=("right",), train__right="right/{name}.png",
    train__camera="camera/{name}.json",
  )  # fmt: skip
  with pytest.raises(UserError, match=r"camera/a\.json.*540.*metres"):
    run(config, tmp_path / "records")


def test_labels_of_other_tools_beside_the_right_ones(tmp_path):
  root = write_gta5(tmp_path / "files")
  for ending in ("_labelTrainIds", "_color", ".vis"):
    save(root / f"labels/00001{ending}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
  builder = run(dataset_config("gta5", root, "disparity"), tmp_path / "records")
  assert [record["name"] for record in examples(builder)] == [b"00000", b"00001", b"00002"]
  ((file, reason),) = notes(builder)
  assert file == str(root / "labels/00001.vis.png")
  assert "3 files" in reason
  save(root / "labels/00003.png", np.zeros((HEIGHT, WIDTH), np.uint8))  # of an image that is lost
  with pytest.raises(UserError, match=r"images/00003\.png.*missing"):
    run(dataset_config("gta5", root, "none"), tmp_path / "records")


def test_images_of_other_formats_are_counted(tmp_path):
  save(tmp_path / "files/images/a.png", pixels(0).rgb)
  for name in ("b.jpg", "c.JPEG", "d.heic", "e.txt", ".f.jpg", "thumbs/a.jpg"):
    (tmp_path / "files/images" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "files/images" / name).write_bytes(b"")
  ((file, reason),) = notes(run(folder_config(tmp_path / "files"), tmp_path / "records"))
  assert file == str(tmp_path / "files/images/b.jpg")
  assert "3 files" in reason


def test_images_of_a_pattern_without_a_suffix(tmp_path):
  save(tmp_path / "files/images/a.png", pixels(0).rgb)
  config = folder_config(tmp_path / "files", train__images="images/{name}")
  assert not notes(run(config, tmp_path / "records"))


@pytest.mark.parametrize(("name", "message"), [("a.jpeg", ""), ("a.HEIC", ".*convert HEIC")])
def test_a_folder_of_another_format_alone(tmp_path, name, message):
  save(tmp_path / "files/images/a.png", pixels(0).rgb)
  (tmp_path / "files/images/a.png").rename(tmp_path / "files/images" / name)
  with pytest.raises(
    UserError, match=rf"images/\{{name\}}\.png.*there is 'images/{name}'{message}"
  ):
    run(folder_config(tmp_path / "files"), tmp_path / "records")


def test_suffixes_that_differ_in_their_case_alone(tmp_path):
  for name in ("a.png", "a.PNG"):
    save(tmp_path / "files/images" / name, pixels(0).rgb)
  with pytest.raises(UserError, match=r"(?i)a\.png.*a\.png.*suffix"):
    run(folder_config(tmp_path / "files"), tmp_path / "records")


def test_a_linked_folder_on_a_disk_that_is_not_mounted(tmp_path):
  save(tmp_path / "files/images/a.png", pixels(0).rgb)
  (tmp_path / "files/images/more").symlink_to(tmp_path / "gone")
  with pytest.raises(UserError, match=rf"images/more is a link to {tmp_path}/gone.*mount"):
    run(folder_config(tmp_path / "files"), tmp_path / "records")


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_around_all_is_named(tmp_path, packed):
  root = tmp_path / "data"
  files = write_gta5(root / "GTA5")
  if packed:
    with zipfile.ZipFile(root / "gta.zip", "w") as archive:
      for path in sorted(files.rglob("*.png")):
        archive.write(path, path.relative_to(root))
        path.unlink()
  remedy = "unpack.*'GTA5'" if packed else f"root to '{files}'"
  with pytest.raises(UserError, match=rf"'GTA5/images/00000\.png'.*{remedy}"):
    run(dataset_config("gta5", root, "none"), tmp_path / "records")


def test_what_there_is_instead_is_named(tmp_path):
  save(tmp_path / "files/pictures/a.png", pixels(0).rgb)
  with pytest.raises(UserError, match=r"'images/\{name\}\.png'.*there is 'pictures/a\.png'"):
    run(folder_config(tmp_path / "files"), tmp_path / "records")


def test_heic_is_named(tmp_path):
  path = tmp_path / "files/images/a.png"
  path.parent.mkdir(parents=True)
  path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
  with pytest.raises(UserError, match=r"images/a\.png: is HEIC.*convert"):
    run(folder_config(tmp_path / "files"), tmp_path / "records")
  Image.new("RGB", (WIDTH, HEIGHT)).save(path)
  run(folder_config(tmp_path / "files"), tmp_path / "records")
