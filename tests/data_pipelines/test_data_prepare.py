import errno
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_trees import (
  dataset_config,
  examples,
  pixels,
  run,
  save,
  write_any,
  write_cityscapes,
  write_cityscapes_more,
  write_gta5,
  write_synthia,
)

from corda_jax import locks
from corda_jax.errors import UserError
from corda_jax.labels import CITYSCAPES, ClassList, distinct_colors
from data_pipelines import prepare, preprocess
from data_pipelines.datasets.builders import BUILDERS
from data_pipelines.datasets.frame_config import FrameConfig
from data_pipelines.prepare import open_records


def assert_records_equal_files(builder):
  config = builder.builder_config
  for split, frames in builder.find().splits.items():
    recipe = builder.recipe(config, split)
    records = examples(builder, split)
    assert [record["name"].decode() for record in records] == [frame.name for frame in frames]
    for record, frame in zip(records, frames, strict=True):
      image, label, depth = preprocess.load_frame(frame, recipe)
      np.testing.assert_array_equal(record["image"], image)
      np.testing.assert_array_equal(record["label"][..., 0], label)
      np.testing.assert_array_equal(record["inverse_depth"], depth)


@pytest.mark.parametrize(
  ("dataset", "writer", "options", "depth"),
  [
    ("gta5", write_gta5, {}, "disparity"),
    ("gta5", write_gta5, {}, "none"),
    ("synthia", write_synthia, {}, "simulator"),
    ("synthia", write_synthia, {"original": True}, "simulator"),
    ("cityscapes", write_cityscapes, {}, "mono"),
    ("cityscapes", write_cityscapes, {}, "stereo"),
    ("cityscapes", write_cityscapes, {"released": True}, "mono"),
    ("cityscapes", write_cityscapes, {"released": True}, "none"),
  ],
)
def test_layouts(tmp_path, dataset, writer, options, depth):
  root = writer(tmp_path / "files", **options)
  config = dataset_config(dataset, root, depth)
  builder = run(config, tmp_path / "records")
  assert_records_equal_files(builder)
  if dataset == "cityscapes":
    assert_records_equal_files(run(config, tmp_path / "records", split="validation"))
  train, *_ = examples(builder)
  assert (train["inverse_depth"] == 1).all() == (depth == "none")
  assert train["image"].shape == (16, 24, 3)
  assert train["label"].shape == (16, 24, 1)


def test_both_synthia_layouts_give_the_same_labels(tmp_path):
  records = [
    examples(
      run(
        dataset_config("synthia", write_synthia(tmp_path / name, original=original), "simulator"),
        tmp_path / f"records_{name}",
      )
    )
    for name, original in (("mapped", False), ("original", True))
  ]
  for a, b in zip(*records, strict=True):
    np.testing.assert_array_equal(a["label"], b["label"])
    assert len(np.unique(a["label"])) == 19


def test_validation_keeps_labels_and_has_no_depth(tmp_path):
  root = write_cityscapes(tmp_path / "files")
  config = dataset_config("cityscapes", root, "mono")
  builder = run(config, tmp_path / "records", split="validation")
  for i, record in enumerate(
    sorted(examples(builder, "validation"), key=lambda r: r["name"][-11:])
  ):
    np.testing.assert_array_equal(record["label"][..., 0], pixels(200 + i).train_ids)
    np.testing.assert_array_equal(record["inverse_depth"], np.ones((16, 24)))


def test_validation_reads_depth_where_there_is_any(tmp_path):
  root = write_cityscapes(tmp_path / "files", validation=1)
  # The official disparity is stored in the same folder and is different data.
  official = root / "disparity/val/aachen/aachen_000000_000019_disparity.png"
  save(official, pixels(7).disparity)
  config = dataset_config("cityscapes", root, "mono", 18, 31)
  (record,) = examples(run(config, tmp_path / "a", split="validation"), "validation")
  np.testing.assert_array_equal(record["inverse_depth"], 1)
  save(official.with_name("aachen_000000_000019_leftImg8bit.png"), pixels(8).disparity)
  (record,) = examples(run(config, tmp_path / "b", split="validation"), "validation")
  np.testing.assert_array_equal(record["inverse_depth"], pixels(8).disparity / 256 + 1)


def test_processes_change_nothing(tmp_path):
  config = dataset_config("gta5", write_gta5(tmp_path / "files", 11), "disparity")
  one, two = (run(config, tmp_path / str(n), processes=n) for n in (1, 2))
  name = "gta5-train.array_record-00000-of-00001"
  assert (one.data_path / name).read_bytes() == (two.data_path / name).read_bytes()


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
  elsewhere = tmp_path / "temporary"
  elsewhere.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
  root = write_gta5(tmp_path / "gta")
  run(dataset_config("gta5", root, "disparity"), tmp_path / "records")
  assert list(elsewhere.iterdir()) == []


def test_prepared_once(tmp_path):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  first = run(config, tmp_path / "records")
  report = first.data_path / "metadata.json"
  written = os.stat(report).st_mtime_ns
  run(config, tmp_path / "records")
  assert os.stat(report).st_mtime_ns == written
  shutil.rmtree(config.root)
  again = run(config, tmp_path / "records")
  assert len(examples(again)) == 3
  assert len(examples(open_records(config, tmp_path / "records"))) == 3


def test_moved_files_are_the_same_files(tmp_path):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  report = run(config, tmp_path / "records").data_path / "metadata.json"
  written = os.stat(report).st_mtime_ns
  shutil.move(tmp_path / "files", tmp_path / "moved")
  config.root = str(tmp_path / "moved")
  again = run(config, tmp_path / "records")
  assert len(examples(again)) == 3
  assert os.stat(report).st_mtime_ns == written


@pytest.mark.parametrize("change", ["size", "number", "names"])
def test_records_of_other_files_are_refused(tmp_path, change):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  run(config, tmp_path / "records")
  if change == "number":
    write_gta5(tmp_path / "files", 4)
  elif change == "names":
    for kind in ("images", "labels", "disparity"):
      (tmp_path / f"files/{kind}/00002.png").rename(tmp_path / f"files/{kind}/00003.png")
  else:
    save(tmp_path / "files/images/00001.png", np.zeros((18, 31, 3), np.uint8))
  with pytest.raises(UserError, match=rf"{tmp_path}/records.*{tmp_path}/files"):
    run(config, tmp_path / "records")


def test_sizes_and_depth_kinds_lie_apart(tmp_path):
  root = write_cityscapes(tmp_path / "files")
  paths = {
    str(run(dataset_config("cityscapes", root, *how), tmp_path / "records").data_path)
    for how in (("mono", 16, 24), ("stereo", 16, 24), ("mono", 24, 16))
  }
  assert len(paths) == 3


@pytest.mark.parametrize("size", [(16, 24), (9, 40), (36, 62)])
@pytest.mark.parametrize(
  ("dataset", "depth"), [("gta5", "disparity"), ("synthia", "simulator"), ("cityscapes", "mono")]
)
def test_opencv_resizes_images_and_labels(tmp_path, dataset, depth, size):
  root = write_any(dataset, tmp_path / "files")
  config = dataset_config(dataset, root, depth, *size)
  by_pillow = run(config, tmp_path / "records")
  config.resampling = "opencv"
  by_opencv = run(config, tmp_path / "records")
  assert by_opencv.builder_config.name == by_pillow.builder_config.name + "_opencv"
  different = 0
  for frame, other in zip(examples(by_opencv), examples(by_pillow), strict=True):
    number = int(re.search(r"\d+", frame["name"].decode())[0])
    made = pixels(number + 100 * (dataset == "cityscapes"))
    image = cv2.resize(made.rgb, size[::-1], interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(made.train_ids, size[::-1], interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(frame["image"], image)
    np.testing.assert_array_equal(frame["label"][..., 0], label)
    np.testing.assert_array_equal(frame["inverse_depth"], other["inverse_depth"])
    different += (frame["image"] != other["image"]).any()
  assert different == len(examples(by_pillow)) > 1


def test_opencv_resizes_views_and_validation_keeps_its_labels(tmp_path):
  root = write_cityscapes_more(write_cityscapes(tmp_path / "files", train=1, validation=1))
  config = dataset_config("cityscapes", root, "official", views=("right",), resampling="opencv")
  (train,) = examples(run(config, tmp_path / "records"))
  expected = cv2.resize(pixels(300).rgb, (24, 16), interpolation=cv2.INTER_LINEAR)
  np.testing.assert_array_equal(train["right_image"], expected)
  (record,) = examples(run(config, tmp_path / "records", split="validation"), "validation")
  expected = cv2.resize(pixels(200).rgb, (24, 16), interpolation=cv2.INTER_LINEAR)
  np.testing.assert_array_equal(record["image"], expected)
  np.testing.assert_array_equal(record["label"][..., 0], pixels(200).train_ids)


def test_an_unknown_resampling(tmp_path):
  config = dataset_config("gta5", tmp_path, "none", resampling="nearest")
  with pytest.raises(UserError, match=r"resampling of gta5.*nearest.*pillow.*opencv"):
    run(config, tmp_path / "records")


@pytest.mark.parametrize(
  ("dataset", "depth", "removed", "expected"),
  [
    ("gta5", "disparity", "images", "images"),
    ("gta5", "disparity", "labels", "labels"),
    ("gta5", "disparity", "disparity", "disparity"),
    ("synthia", "simulator", "RGB", "RGB"),
    (
      "synthia",
      "simulator",
      "synthia_mapped_to_cityscapes",
      "synthia_mapped_to_cityscapes.*GT/LABELS",
    ),
    ("synthia", "simulator", "Depth", "Depth/Depth"),
    (
      "cityscapes",
      "mono",
      "leftImg8bit",
      "leftImg8bit/train.*leftImg8bit_trainvaltest/leftImg8bit/train",
    ),
    ("cityscapes", "mono", "gtFine/train", "gtFine/train.*gtFine_trainvaltest/gtFine/train"),
    ("cityscapes", "mono", "disparity", "disparity/train"),
    ("cityscapes", "stereo", "depth", "depth/train"),
  ],
)
def test_wrong_layout_says_what_was_looked_for(tmp_path, dataset, depth, removed, expected):
  root = write_any(dataset, tmp_path / "files")
  shutil.rmtree(root / removed)
  with pytest.raises(UserError, match=f"{root}.*{expected}") as error:
    run(dataset_config(dataset, root, depth), tmp_path / "records")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "records").exists()


def test_missing_root(tmp_path):
  with pytest.raises(UserError, match=rf"{tmp_path}/nowhere.*\broot\b"):
    run(dataset_config("gta5", tmp_path / "nowhere", "disparity"), tmp_path / "records")


def test_empty_split(tmp_path):
  root = write_cityscapes(tmp_path / "files", validation=0)
  for kind in ("leftImg8bit", "gtFine"):
    (root / kind / "val").mkdir()
  with pytest.raises(UserError, match=f"{root}.*leftImg8bit/val"):
    run(dataset_config("cityscapes", root, "mono"), tmp_path / "records", split="validation")


@pytest.mark.parametrize(
  ("changes", "options", "message"),
  [
    ({"dataset": "gta"}, {}, r"dataset.*\bgta\b.*gta5.*synthia.*cityscapes"),
    ({"depth": "mono"}, {}, r"depth.*gta5.*mono.*disparity.*none"),
    ({"height": 0}, {}, r"gta5.*24x0.*1x1"),
    ({}, {"bad_frames": "ignore"}, r"bad_frames.*gta5.*ignore.*stop.*skip"),
    ({}, {"processes": -1}, r"prepare_processes.*-1.*0"),
  ],
)
def test_wrong_values(tmp_path, changes, options, message):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  config.update(changes)
  with pytest.raises(UserError, match=message):
    run(config, tmp_path / "records", **options)


def damage(root: Path) -> dict[str, str]:
  """Breaks five of the frames 0 … 7; file → what its reason says."""
  (root / "labels/00001.png").unlink()
  (root / "images/00002.png").unlink()
  (root / "images/00003.png").write_bytes(b"not an image")
  save(root / "labels/00004.png", np.zeros((5, 6), np.uint8))
  (root / "disparity/00006.png").unlink()
  return {
    str(root / "labels/00001.png"): "missing",
    str(root / "images/00002.png"): "missing",
    str(root / "images/00003.png"): "decod",
    str(root / "labels/00004.png"): "6x5.*31x18",
    str(root / "disparity/00006.png"): "missing",
  }


@pytest.mark.parametrize("processes", [1, 2])
def test_skipping_names_every_bad_file(tmp_path, processes):
  root = write_gta5(tmp_path / "files", 8)
  expected = damage(root)
  config = dataset_config("gta5", root, "disparity")
  builder = run(config, tmp_path / "records", bad_frames="skip", processes=processes)
  kept = [record["name"].decode() for record in examples(builder)]
  assert kept == ["00000", "00005", "00007"]
  report = json.loads((builder.data_path / "metadata.json").read_text())
  assert report["found"] == {"train": 8}
  assert report["names"] == {"train": kept}
  assert [bad["file"] for bad in report["bad"]] == list(expected)
  for bad in report["bad"]:
    assert bad["split"] == "train"
    assert re.search(expected[bad["file"]], bad["reason"])
  lines = builder.report.lines()
  assert re.match(r"train.*\b3\b.*\b8\b.*\b24966\b", lines[0])
  assert len(lines) == 6


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", ["missing", "broken"])
def test_stopping_names_the_bad_file_and_writes_nothing(tmp_path, kind, processes):
  root = write_gta5(tmp_path / "files", 5)
  path = root / "labels/00003.png"
  if kind == "missing":
    path.unlink()
  else:
    path.write_bytes(path.read_bytes()[:50])
  config = dataset_config("gta5", root, "disparity")
  with pytest.raises(UserError) as error:
    run(config, tmp_path / "records", processes=processes)
  assert str(path) in str(error.value)
  assert "\n" not in str(error.value)
  assert list((tmp_path / "records").rglob("*.array_record*")) == []
  with pytest.raises(UserError, match=rf"gta5.*24x16_disparity.*{tmp_path}/records"):
    open_records(config, tmp_path / "records")


def test_nothing_usable(tmp_path):
  root = write_gta5(tmp_path / "files", 2)
  for path in (root / "images").iterdir():
    path.write_bytes(b"x")
  with pytest.raises(UserError, match=rf"2.*gta5.*train.*{root}/images/00001\.png"):
    run(dataset_config("gta5", root, "disparity"), tmp_path / "records", bad_frames="skip")


def test_builders_are_complete():
  for dataset in ("gta5", "synthia", "cityscapes"):
    builder = BUILDERS[dataset]
    for depth in builder.depth_kinds():
      config = FrameConfig(root="", height=1, width=1, depth=depth)
      assert builder.recipe(config, "train").depth is not None


@pytest.mark.parametrize(
  ("dataset", "depth"), [("gta5", "disparity"), ("synthia", "simulator"), ("cityscapes", "mono")]
)
def test_labels_follow_the_class_list_by_name(tmp_path, dataset, depth):
  config = dataset_config(dataset, write_any(dataset, tmp_path / "files"), depth)
  names = ("bicycle", "road", "car")
  some = ClassList(names, distinct_colors(names))
  by_default, by_names = (
    run(config, tmp_path / "records", classes=classes) for classes in (CITYSCAPES, some)
  )
  assert by_default.data_path.parent.name == f"24x16_{depth}"
  assert by_names.data_path.parent.name.startswith(f"24x16_{depth}_")
  table = np.full(256, 255)
  table[[CITYSCAPES.names.index(name) for name in names]] = range(3)
  for split in by_default.info.splits:
    both = zip(examples(by_default, split), examples(by_names, split), strict=True)
    for default, named in both:
      np.testing.assert_array_equal(named["label"], table[default["label"]])
  assert open_records(config, tmp_path / "records", classes=some).data_path == by_names.data_path
  recoloured = ClassList(names, ((1, 2, 3),) * 3)
  assert (
    open_records(config, tmp_path / "records", classes=recoloured).data_path == by_names.data_path
  )
  reordered = ClassList(names[::-1], some.colors)
  with pytest.raises(UserError, match=rf"{dataset}.*24x16_{depth}_.*{tmp_path}/records"):
    open_records(config, tmp_path / "records", classes=reordered)


def test_a_class_that_the_data_set_lacks(tmp_path):
  config = dataset_config("synthia", tmp_path / "nowhere", "simulator")
  classes = ClassList.from_config({"names": ("car", "tram"), "colors": ()})
  with pytest.raises(UserError, match=r"data\.classes\.names.*tram.*SYNTHIA"):
    run(config, tmp_path / "records", classes=classes)


def test_records_of_which_frames_were_left_out_are_refused_where_that_stops(tmp_path):
  root = write_gta5(tmp_path / "files", frames=6)
  for number in (1, 2, 3):  # two of them are a shard
    (root / f"labels/{number:05d}.png").unlink()
  config = dataset_config("gta5", root, "disparity")
  for _ in range(2):
    builder = run(config, tmp_path / "records", bad_frames="skip", shard_frames=2)
  assert [x["name"] for x in examples(builder)] == [b"00000", b"00004", b"00005"]
  with pytest.raises(UserError, match=rf"{tmp_path}/records.*\b3\b.*data\.bad_frames.*skip"):
    run(config, tmp_path / "records")


def test_a_killed_preparation_leaves_nothing_that_looks_whole(tmp_path):
  frames = 40
  root = write_gta5(tmp_path / "files", frames)
  for i in range(frames):  # large enough to be killed among them
    save(root / f"images/{i:05d}.png", np.full((700, 900, 3), i, np.uint8))
    save(root / f"labels/{i:05d}.png", np.full((700, 900), i % 34, np.uint8))
  records = tmp_path / "records"
  config = dataset_config("gta5", root, "disparity")
  script = (
    "import json, sys\n"
    "from ml_collections import ConfigDict\n"
    "from data_pipelines.prepare import prepare\n"
    "config = ConfigDict(json.loads(sys.argv[1]))\n"
    "prepare(config, records_dir=sys.argv[2], processes=2)\n"
  )
  arguments = [sys.executable, "-c", script, config.to_json(), str(records)]
  with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
    while not list(records.rglob("*.array_record*")):  # the first shard is being written
      assert process.poll() is None
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
  with pytest.raises(UserError, match=rf"gta5.*24x16_disparity.*{records}"):
    open_records(config, records)
  assert len(examples(run(config, records))) == frames
  (folder,) = (records / "gta5/24x16_disparity").iterdir()
  assert folder == Path(open_records(config, records).data_path)


def test_a_second_preparation_waits_for_the_first(tmp_path):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  (tmp_path / "records").mkdir()
  with open(tmp_path / "records/.gta5-24x16_disparity.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    thread = threading.Thread(target=run, args=(config, tmp_path / "records"))
    thread.start()
    thread.join(1)
    assert thread.is_alive()
    assert not (tmp_path / "records/gta5").exists()
  thread.join()
  assert len(examples(open_records(config, tmp_path / "records"))) == 3


def test_a_full_disk(tmp_path):
  """A limit on the size of files replaces it: the writer gets an error from the system."""
  root = write_gta5(tmp_path / "files", 6)
  config = dataset_config("gta5", root, "disparity", 180, 240)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
  try:
    with pytest.raises(UserError, match=f"{tmp_path}/records.*{os.strerror(errno.EFBIG)}") as error:
      run(config, tmp_path / "records")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert "\n" not in str(error.value)
  assert not list((tmp_path / "records").rglob("*.array_record*"))
  assert len(examples(run(config, tmp_path / "records"))) == 6


def test_a_records_folder_that_may_not_be_written(tmp_path, monkeypatch):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")

  def mkdir(path, **_):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

  monkeypatch.setattr(locks.Path, "mkdir", mkdir)
  with pytest.raises(UserError, match=rf"{tmp_path}/records.*{os.strerror(errno.EACCES)}"):
    run(config, tmp_path / "records")


def test_records_on_a_disk_that_is_not_mounted(tmp_path):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  folder = Path(run(config, tmp_path / "records").data_path)
  folder.rename(tmp_path / "elsewhere")
  folder.symlink_to(tmp_path / "elsewhere")
  run(config, tmp_path / "records")
  (tmp_path / "elsewhere").rename(tmp_path / "gone")
  with pytest.raises(UserError, match=rf"{folder} is a link to {tmp_path}/elsewhere.*mount"):
    run(config, tmp_path / "records")


def test_owners_without_names_prepare(tmp_path, monkeypatch):
  """As users of containers, who have numbers alone."""

  def nameless(number):
    raise KeyError(f"uid not found: {number}")

  monkeypatch.setattr(prepare.pwd, "getpwuid", nameless)
  monkeypatch.setattr(prepare.grp, "getgrgid", nameless)
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  assert len(examples(run(config, tmp_path / "records"))) == 3
  assert prepare.pwd.getpwuid is nameless


@pytest.mark.parametrize("name", ["dataset_info.json", "metadata.json", "features.json"])
@pytest.mark.parametrize("harm", ["gone", "cut", "empty"])
def test_damaged_descriptions_of_records_are_named(tmp_path, name, harm):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  path = Path(run(config, tmp_path / "records").data_path) / name
  contents = path.read_bytes()
  if harm == "gone":
    path.unlink()
  else:
    path.write_bytes(contents[: len(contents) // 2 if harm == "cut" else 0])
  if name == "features.json":  # of use to readers of TFDS alone
    assert len(examples(open_records(config, tmp_path / "records"))) == 3
    return
  for use in (run, open_records):
    with pytest.raises(UserError, match=rf"{tmp_path}/records/gta5/24x16_disparity.*delete"):
      use(config, tmp_path / "records")


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  write_gta5(tmp_path / "files")
  config = dataset_config("gta5", "~/files", "disparity", depth_root="~/files")
  builder = run(config, "~/records")
  assert str(builder.data_path).startswith(f"{tmp_path}/records/")
  whole = dataset_config("gta5", tmp_path / "files", "disparity", depth_root=f"{tmp_path}/files")
  assert run(whole, tmp_path / "records").data_path == builder.data_path
  write_gta5(tmp_path / "files", 4)
  with pytest.raises(UserError, match=f"{tmp_path}/files"):  # of which the records are not
    run(config, "~/records")


def test_two_files_of_one_name_are_refused(tmp_path):
  root = write_gta5(tmp_path / "files")
  for kind in ("images", "labels", "disparity"):
    (root / kind / "more").mkdir()
    shutil.copy(root / kind / "00000.png", root / kind / "more")
  with pytest.raises(UserError, match=r"images/00000\.png.*images/more/00000\.png.*one name"):
    run(dataset_config("gta5", root, "disparity"), tmp_path / "records")


def test_records_are_used_where_the_disk_of_the_files_is_not_mounted(tmp_path):
  root = write_gta5(tmp_path / "files")
  config = dataset_config("gta5", root, "disparity")
  run(config, tmp_path / "records")
  shutil.rmtree(root)
  root.mkdir()
  assert len(examples(run(config, tmp_path / "records"))) == 3


def test_beam_that_is_not_installed_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None)
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  with pytest.raises(UserError, match=r"data\.beam_options.*pip install"):
    run(config, tmp_path / "records", beam=("--runner=DirectRunner",))
