"""Preparation that is stopped and goes on."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from stopping import finished, frames_made, interrupted, partial
from tiny_trees import command, dataset_config, examples, record_files, run, save, write_gta5

from corda_jax.errors import UserError
from data_pipelines import shards
from data_pipelines.prepare import open_records

REPOSITORY = Path(__file__).parents[2]


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


def wait_until(condition, seconds=60.0):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_preparation_goes_on_to_the_same_records(tmp_path, processes):
  frames, shard_frames = 40, 4
  root = write_gta5(tmp_path / "files", frames)
  for i in range(frames):  # large enough to be killed among them
    save(root / f"images/{i:05d}.png", np.full((700, 900, 3), i, np.uint8))
    save(root / f"labels/{i:05d}.png", np.full((700, 900), i % 34, np.uint8))
  (root / "disparity/00002.png").unlink()  # in a shard that is finished before the kill
  records = tmp_path / "records"
  options = {"bad_frames": "skip", "shard_frames": shard_frames}
  arguments = [f"--{key}={value}" for key, value in options.items()]
  process = subprocess.Popen(
    command(root, records, f"--processes={processes}", *arguments),
    cwd=REPOSITORY,
    stderr=subprocess.DEVNULL,
  )
  workers = []
  try:
    wait_until(lambda: len(finished(records)) >= 3 or process.poll() is not None)
    assert process.poll() is None
    workers = children(process.pid)
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))

  before = finished(records)
  assert 3 <= len(before) < frames / shard_frames
  config = dataset_config("gta5", root, "disparity")
  with pytest.raises(UserError, match=rf"gta5.*24x16_disparity.*{records}"):
    open_records(config, records)

  resumed = run(config, records, processes=2, **options)
  assert len(examples(resumed)) == frames - 1
  files = sorted(Path(resumed.data_path).glob("*.array_record*"))
  assert len(files) == frames / shard_frames
  for name, state in before.items():  # the shard's file, renamed and not written anew
    stat = files[int(name.removeprefix("train-"))].stat()
    assert (stat.st_ino, stat.st_mtime_ns) == state
  assert [path.name for path in Path(resumed.data_path).parent.iterdir()] == ["2.0.0"]
  assert resumed.report.bad[0]["file"] == str(root / "disparity/00002.png")
  assert record_files(resumed) == record_files(run(config, tmp_path / "whole", **options))


def test_finished_shards_are_not_made_again(tmp_path, monkeypatch):
  config = dataset_config("gta5", write_gta5(tmp_path / "files", 10), "disparity")
  interrupted(monkeypatch, config, tmp_path / "records", 8, shard_frames=3)
  assert len(finished(tmp_path / "records")) == 2
  builder, made = frames_made(monkeypatch, config, tmp_path / "records", shard_frames=3)
  assert made == [f"{i:05d}" for i in range(6, 10)]
  assert builder.info.splits["train"].shard_lengths == [3, 3, 3, 1]
  whole = run(config, tmp_path / "whole", shard_frames=3)
  assert record_files(builder) == record_files(whole)


@pytest.mark.parametrize("change", ["size of a file", "new file", "another shard size", "nothing"])
def test_shards_of_other_files_are_made_again(tmp_path, monkeypatch, change):
  root = write_gta5(tmp_path / "files", 10)
  config = dataset_config("gta5", root, "disparity")
  interrupted(monkeypatch, config, tmp_path / "records", 7, shard_frames=3)
  shard_frames = 3
  if change == "size of a file":
    save(root / "images/00004.png", np.zeros((18, 31, 3), np.uint8))  # of the second shard
    wanted = [3, 4, 5, 6, 7, 8, 9]
  elif change == "new file":
    for kind in ("images", "labels", "disparity"):
      (root / kind / "00000a.png").write_bytes((root / kind / "00001.png").read_bytes())
    wanted = [0, "0a", *range(1, 10)]
  elif change == "another shard size":
    shard_frames, wanted = 4, list(range(10))
  else:
    wanted = [6, 7, 8, 9]
  builder, made = frames_made(monkeypatch, config, tmp_path / "records", shard_frames=shard_frames)
  assert made == [f"{i:05d}" if isinstance(i, int) else f"0000{i}" for i in wanted]
  whole = run(config, tmp_path / "whole", shard_frames=shard_frames)
  assert record_files(builder) == record_files(whole)


def test_mending_a_bad_frame_keeps_what_was_finished(tmp_path, monkeypatch):
  root = write_gta5(tmp_path / "files", 6)
  config = dataset_config("gta5", root, "disparity")
  label = root / "labels/00004.png"
  good = label.read_bytes()
  label.write_bytes(good[:60])
  with pytest.raises(UserError, match=r"labels/00004\.png.*decod"):
    run(config, tmp_path / "records", shard_frames=2)
  assert set(finished(tmp_path / "records")) == {"train-00000", "train-00001"}
  assert not list(partial(tmp_path / "records").glob("*unfinished*"))
  label.write_bytes(good)
  builder, made = frames_made(monkeypatch, config, tmp_path / "records", shard_frames=2)
  assert made == ["00004", "00005"]
  assert builder.report.kept == {"train": 6}


def test_from_skipping_to_stopping(tmp_path, monkeypatch):
  root = write_gta5(tmp_path / "files", 6)
  config = dataset_config("gta5", root, "disparity")
  (root / "labels/00001.png").write_bytes(b"")
  interrupted(monkeypatch, config, tmp_path / "records", 5, shard_frames=2, bad_frames="skip")
  with pytest.raises(UserError, match=r"labels/00001\.png"):
    run(config, tmp_path / "records", shard_frames=2)


def test_a_shard_without_a_good_frame_leaves_no_file(tmp_path):
  root = write_gta5(tmp_path / "files", 6)
  for i in (2, 3):
    (root / f"labels/{i:05d}.png").write_bytes(b"")
  config = dataset_config("gta5", root, "disparity")
  builder = run(config, tmp_path / "records", shard_frames=2, bad_frames="skip")
  assert builder.info.splits["train"].shard_lengths == [2, 2]
  names = [record["name"].decode() for record in examples(builder)]
  assert names == ["00000", "00001", "00004", "00005"]


def test_the_bar_shows_what_was_there(tmp_path, monkeypatch, capfd):
  config = dataset_config("gta5", write_gta5(tmp_path / "files", 10), "disparity")
  interrupted(monkeypatch, config, tmp_path / "records", 7, shard_frames=3)
  run(config, tmp_path / "records", shard_frames=3, progress=True)
  shown = capfd.readouterr().err
  assert re.search(r"gta5.* 60%", shown)
  assert "| 6/10 [" in shown
  assert "| 10/10 [" in shown


@pytest.mark.parametrize("lost", ["json", "array_record"])
def test_a_shard_that_lost_one_of_its_files_is_not_whole(tmp_path, monkeypatch, lost):
  config = dataset_config("gta5", write_gta5(tmp_path / "files", 4), "disparity")
  interrupted(monkeypatch, config, tmp_path / "records", 3, shard_frames=2)
  (partial(tmp_path / "records") / f"train-00000.{lost}").unlink()
  _, made = frames_made(monkeypatch, config, tmp_path / "records", shard_frames=2)
  assert len(made) == 4


def test_what_is_said_of_other_records_goes_before_them(tmp_path, monkeypatch):
  """Files change, a shard is half replaced, and the files change back."""
  root = write_gta5(tmp_path / "files", 4)
  config = dataset_config("gta5", root, "disparity")
  interrupted(monkeypatch, config, tmp_path / "records", 3, shard_frames=2)
  before = (root / "images/00000.png").read_bytes()
  save(root / "images/00000.png", np.zeros((18, 31, 3), np.uint8))
  with monkeypatch.context() as patch:
    patch.setattr(shards.json, "dumps", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run(config, tmp_path / "records", shard_frames=2)
  (root / "images/00000.png").write_bytes(before)
  builder = run(config, tmp_path / "records", shard_frames=2)
  assert record_files(builder) == record_files(run(config, tmp_path / "whole", shard_frames=2))


def test_the_report_lies_beside_the_records(tmp_path):
  builder = run(
    dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity"), tmp_path / "records"
  )
  report = json.loads((builder.data_path / "preparation.json").read_text())
  assert report["expected"] == {"train": 24_966}
  assert report["found"] == report["kept"] == {"train": 3}
