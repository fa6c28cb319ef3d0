import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_trees import (
  dataset_config,
  pixels,
  save,
  write_cityscapes,
  write_gta5,
  write_synthia,
)

from corda_jax.errors import UserError
from data_pipelines import preprocess
from data_pipelines.prepare import BUILDERS, main, open_records, prepare

REPOSITORY = Path(__file__).parents[2]


def run(config, records, **options):
  return prepare(config, records_dir=records, **({"processes": 1, "progress": False} | options))


def examples(builder, split="train"):
  return list(builder.as_data_source(split))


def assert_records_equal_files(builder):
  config = builder.builder_config
  for split, frames in builder.frames().items():
    recipe = builder.recipe((config.height, config.width), config.depth, split)
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
  builder = run(dataset_config(dataset, root, depth), tmp_path / "records")
  assert_records_equal_files(builder)
  wanted = {"train", "validation"} if dataset == "cityscapes" else {"train"}
  assert set(builder.info.splits) == wanted
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
  builder = run(dataset_config("cityscapes", root, "mono"), tmp_path / "records")
  for i, record in enumerate(
    sorted(examples(builder, "validation"), key=lambda r: r["name"][-11:])
  ):
    np.testing.assert_array_equal(record["label"][..., 0], pixels(200 + i).train_ids)
    np.testing.assert_array_equal(record["inverse_depth"], np.ones((16, 24)))


def test_validation_reads_depth_where_there_is_any(tmp_path):
  root = write_cityscapes(tmp_path / "files", validation=1)
  # The official disparity lies in the same folder and is another thing.
  official = root / "disparity/val/aachen/aachen_000000_000019_disparity.png"
  save(official, pixels(7).disparity)
  config = dataset_config("cityscapes", root, "mono", 18, 31)
  (record,) = examples(run(config, tmp_path / "a"), "validation")
  np.testing.assert_array_equal(record["inverse_depth"], 1)
  save(official.with_name("aachen_000000_000019_leftImg8bit.png"), pixels(8).disparity)
  (record,) = examples(run(config, tmp_path / "b"), "validation")
  np.testing.assert_array_equal(record["inverse_depth"], pixels(8).disparity / 256 + 1)


def test_processes_change_nothing(tmp_path):
  config = dataset_config("gta5", write_gta5(tmp_path / "files", 11), "disparity")
  one, two = (run(config, tmp_path / str(n), processes=n) for n in (1, 2))
  name = "gta5-train.array_record-00000-of-00001"
  assert (one.data_path / name).read_bytes() == (two.data_path / name).read_bytes()


def test_prepared_once(tmp_path):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  first = run(config, tmp_path / "records")
  report = first.data_path / "preparation.json"
  written = os.stat(report).st_mtime_ns
  run(config, tmp_path / "records")
  assert os.stat(report).st_mtime_ns == written
  shutil.rmtree(config.root)
  again = run(config, tmp_path / "records")
  assert len(examples(again)) == 3
  assert len(examples(open_records(config, tmp_path / "records"))) == 3


def test_moved_files_are_the_same_files(tmp_path):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  report = run(config, tmp_path / "records").data_path / "preparation.json"
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
  with pytest.raises(UserError, match="prepared from other files"):
    run(config, tmp_path / "records")


def test_sizes_and_depth_kinds_lie_apart(tmp_path):
  root = write_cityscapes(tmp_path / "files")
  paths = {
    str(run(dataset_config("cityscapes", root, *how), tmp_path / "records").data_path)
    for how in (("mono", 16, 24), ("stereo", 16, 24), ("mono", 24, 16))
  }
  assert len(paths) == 3


def write_any(dataset, root):
  writers = {"gta5": write_gta5, "synthia": write_synthia, "cityscapes": write_cityscapes}
  return writers[dataset](root)


@pytest.mark.parametrize(
  ("dataset", "depth", "removed", "wanted"),
  [
    ("gta5", "disparity", "images", "'images'"),
    ("gta5", "disparity", "labels", "'labels'"),
    ("gta5", "disparity", "disparity", "'disparity'"),
    ("synthia", "simulator", "RGB", "'RGB'"),
    (
      "synthia",
      "simulator",
      "synthia_mapped_to_cityscapes",
      "'synthia_mapped_to_cityscapes' or 'GT/LABELS'",
    ),
    ("synthia", "simulator", "Depth", "'Depth/Depth'"),
    (
      "cityscapes",
      "mono",
      "leftImg8bit",
      "'leftImg8bit/train' or 'leftImg8bit_trainvaltest/leftImg8bit/train'",
    ),
    ("cityscapes", "mono", "gtFine/val", "'gtFine/val' or 'gtFine_trainvaltest/gtFine/val'"),
    ("cityscapes", "mono", "disparity", "'disparity/train'"),
    ("cityscapes", "stereo", "depth", "'depth/train'"),
  ],
)
def test_wrong_layout_says_what_was_looked_for(tmp_path, dataset, depth, removed, wanted):
  root = write_any(dataset, tmp_path / "files")
  shutil.rmtree(root / removed)
  with pytest.raises(UserError) as error:
    run(dataset_config(dataset, root, depth), tmp_path / "records")
  assert wanted in str(error.value)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "records").exists()


def test_missing_root(tmp_path):
  with pytest.raises(UserError, match="there is no such folder"):
    run(dataset_config("gta5", tmp_path / "nowhere", "disparity"), tmp_path / "records")


def test_empty_split(tmp_path):
  root = write_cityscapes(tmp_path / "files", validation=0)
  for kind in ("leftImg8bit", "gtFine"):
    (root / kind / "val").mkdir()
  with pytest.raises(UserError, match="holds no frame of cityscapes validation"):
    run(dataset_config("cityscapes", root, "mono"), tmp_path / "records")


@pytest.mark.parametrize(
  ("changes", "options", "message"),
  [
    ({"dataset": "gta"}, {}, "dataset is 'gta', wanted one of gta5, synthia, cityscapes"),
    ({"depth": "mono"}, {}, "depth of gta5 is 'mono', wanted one of disparity, none"),
    ({"height": 0}, {}, "24x0"),
    ({}, {"bad_frames": "ignore"}, "wanted 'stop' or 'skip'"),
    ({}, {"processes": -1}, "wanted 0"),
  ],
)
def test_wrong_values(tmp_path, changes, options, message):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")
  config.update(changes)
  with pytest.raises(UserError, match=message):
    run(config, tmp_path / "records", **options)


def damage(root: Path) -> dict[str, str]:
  """Breaks five of the frames 0 … 7; file → reason."""
  (root / "labels/00001.png").unlink()
  (root / "images/00002.png").unlink()
  (root / "images/00003.png").write_bytes(b"not an image")
  save(root / "labels/00004.png", np.zeros((5, 6), np.uint8))
  (root / "disparity/00006.png").unlink()
  return {
    str(root / "labels/00001.png"): "file is missing",
    str(root / "images/00002.png"): "file is missing",
    str(root / "images/00003.png"): "cannot be decoded",
    str(root / "labels/00004.png"): "label is 6x5 but its image is 31x18",
    str(root / "disparity/00006.png"): "file is missing",
  }


@pytest.mark.parametrize("processes", [1, 2])
def test_skipping_names_every_bad_file(tmp_path, processes):
  root = write_gta5(tmp_path / "files", 8)
  wanted = damage(root)
  config = dataset_config("gta5", root, "disparity")
  builder = run(config, tmp_path / "records", bad_frames="skip", processes=processes)
  kept = [record["name"].decode() for record in examples(builder)]
  assert kept == ["00000", "00005", "00007"]
  report = json.loads((builder.data_path / "preparation.json").read_text())
  assert report["found"] == {"train": 8}
  assert report["kept"] == {"train": 3}
  assert [bad["file"] for bad in report["bad"]] == list(wanted)
  for bad in report["bad"]:
    assert bad["split"] == "train"
    assert wanted[bad["file"]] in bad["reason"]
  lines = builder.report.lines()
  assert lines[0] == "train: 3 of 8 frames kept"
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
  with pytest.raises(UserError, match="no records of gta5 24x16_disparity"):
    open_records(config, tmp_path / "records")


def test_nothing_usable(tmp_path):
  root = write_gta5(tmp_path / "files", 2)
  for path in (root / "images").iterdir():
    path.write_bytes(b"x")
  with pytest.raises(UserError, match="none of the 2 frames of gta5 train can be used"):
    run(dataset_config("gta5", root, "disparity"), tmp_path / "records", bad_frames="skip")


def command(root, records, *more):
  return [
    *(sys.executable, "-m", "data_pipelines.prepare", "--dataset", "gta5", "--root", str(root)),
    *("--height", "16", "--width", "24", "--depth", "disparity", "--records_dir", str(records)),
    *more,
  ]


def test_command(tmp_path, capsys):
  root = write_gta5(tmp_path / "files")
  arguments = command(root, tmp_path / "records", "--processes", "1")[3:]
  assert main(arguments) == 0
  assert "train: 3 of 3 frames kept" in capsys.readouterr().out
  arguments = command(tmp_path / "nowhere", tmp_path / "other")[3:]
  assert main(arguments) == 1
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith("error: no data set at ")
  assert captured.err.count("\n") == 1


def children(pid: int) -> list[int]:
  found = []
  for entry in Path("/proc").glob("[0-9]*/stat"):
    try:
      fields = entry.read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
      continue
    if int(fields[1]) == pid:
      found.append(int(entry.parent.name))
  return found


def wait_until(condition, seconds=20.0):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def link_frames(root: Path, numbers: range, to: int) -> None:
  for i in numbers:
    for kind in ("images", "labels", "disparity"):
      path = root / f"{kind}/{i:05d}.png"
      path.unlink(missing_ok=True)
      os.link(root / f"{kind}/{to:05d}.png", path)


def test_killed_preparation_leaves_nothing_that_looks_whole(tmp_path):
  root = write_gta5(tmp_path / "files", 2)
  # Frames that take some seconds together, so that the process is killed among them.
  save(root / "images/00001.png", np.zeros((4000, 4000, 3), np.uint8))
  save(root / "labels/00001.png", np.zeros((4000, 4000), np.uint8))
  link_frames(root, range(2, 10), to=0)
  link_frames(root, range(10, 40), to=1)
  records = tmp_path / "records"
  process = subprocess.Popen(
    command(root, records, "--processes", "2"), cwd=REPOSITORY, stderr=subprocess.DEVNULL
  )
  config = dataset_config("gta5", root, "disparity")
  try:
    wait_until(lambda: list(records.rglob("incomplete.*")) and len(children(process.pid)) >= 2)
    time.sleep(0.3)
    workers = children(process.pid)
    assert process.poll() is None
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))

  assert list(records.rglob("incomplete.*"))
  with pytest.raises(UserError, match="no records"):
    open_records(config, records)
  link_frames(root, range(1, 40), to=0)
  builder = run(config, records)
  assert builder.info.splits["train"].num_examples == 40
  assert not list(records.rglob("incomplete.*"))


def test_a_second_preparation_waits_for_the_first(tmp_path):
  root = write_gta5(tmp_path / "files")
  records = tmp_path / "records"
  records.mkdir()
  writing = records / "gta5/24x16_disparity/incomplete.OTHER_2.0.0"  # of the first
  writing.mkdir(parents=True)
  with open(records / ".gta5-24x16_disparity.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = subprocess.Popen(
      command(root, records, "--processes", "1"),
      cwd=REPOSITORY,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    assert "another process prepares gta5" in process.stderr.readline()
    assert [path.name for path in writing.parent.iterdir()] == [writing.name]
  out, err = process.communicate(timeout=60)
  assert process.returncode == 0, err
  assert "train: 3 of 3 frames kept" in out
  assert [path.name for path in writing.parent.iterdir()] == ["2.0.0"]


def test_builders_are_complete():
  for builder in BUILDERS.values():
    for depth in builder.DEPTH_KINDS:
      assert builder.recipe((1, 1), depth, "train").depth is not None
