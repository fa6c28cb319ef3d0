"""Preparation that is stopped and goes on, and that several workers share."""

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_trees import (
  command,
  dataset_config,
  examples,
  record_files,
  run,
  save,
  write_gta5,
)

from corda_jax.errors import UserError
from data_pipelines import builder as builder_module
from data_pipelines import prepare as prepare_module
from data_pipelines import shards
from data_pipelines.prepare import main, open_records

REPOSITORY = Path(__file__).parents[2]


def partial(records: Path) -> Path:
  return records / "gta5/24x16_disparity/partial.1.1.0"


def finished(records: Path) -> dict[str, tuple[int, int]]:
  """Record file of each finished shard → what changes when it is written anew."""
  stats = {
    path.stem: path.with_suffix(".array_record").stat() for path in partial(records).glob("*.json")
  }
  return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


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
  with pytest.raises(UserError, match="no records"):
    open_records(config, records)

  resumed = run(config, records, processes=2, **options)
  assert len(examples(resumed)) == frames - 1
  files = sorted(Path(resumed.data_path).glob("*.array_record*"))
  assert len(files) == frames / shard_frames
  for name, state in before.items():  # the shard's file, renamed and not written anew
    stat = files[int(name.removeprefix("train-"))].stat()
    assert (stat.st_ino, stat.st_mtime_ns) == state
  assert [path.name for path in Path(resumed.data_path).parent.iterdir()] == ["1.1.0"]
  assert resumed.report.bad[0]["file"] == str(root / "disparity/00002.png")
  assert record_files(resumed) == record_files(run(config, tmp_path / "whole", **options))


def stop_after(monkeypatch, count):
  """Makes preparation fail, as a kill would, after so many frames; returns those it made."""
  made = []
  real = builder_module.prepare_item

  def prepare_item(item):
    if len(made) == count:
      raise KeyboardInterrupt
    made.append(item[0].name)
    return real(item)

  monkeypatch.setattr(builder_module, "prepare_item", prepare_item)
  return made


def interrupted(monkeypatch, config, records, frames, **options):
  with monkeypatch.context() as patch:
    made = stop_after(patch, frames)
    with pytest.raises(KeyboardInterrupt):
      run(config, records, **options)
  return made


def frames_made(monkeypatch, config, records, **options):
  with monkeypatch.context() as patch:
    made = stop_after(patch, -1)
    return run(config, records, **options), made


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
  with pytest.raises(UserError, match=r"00004\.png: cannot be decoded"):
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
  assert "preparing gta5:  60%" in shown
  assert "| 6/10 [" in shown
  assert "| 10/10 [" in shown


class TestWorkers:
  """Three workers of one data set."""

  @pytest.fixture
  def config(self, tmp_path):
    return dataset_config("gta5", write_gta5(tmp_path / "files", 11), "disparity")

  def test_one_after_the_other(self, tmp_path, config, monkeypatch):
    made = []
    for worker in (2, 0, 1):
      builder, frames = frames_made(
        monkeypatch, config, tmp_path / "records", shard_frames=2, worker=worker, workers=3
      )
      made.append([int(name) for name in frames])
      assert builder.is_prepared() == (worker == 1)
    assert made == [[4, 5, 10], [0, 1, 6, 7], [2, 3, 8, 9]]
    assert record_files(builder) == record_files(run(config, tmp_path / "whole", shard_frames=2))
    again = run(config, tmp_path / "records", shard_frames=2, worker=0, workers=3)
    assert again.is_prepared()

  def test_at_once(self, tmp_path, config):
    processes = [
      subprocess.Popen(
        command(
          config.root,
          tmp_path / "records",
          *("--processes=1", "--shard_frames=1", "--workers=3", f"--worker={worker}"),
        ),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for worker in range(3)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert any("train: 11 of 11 frames kept" in out for out, _ in outputs)
    builder = open_records(config, tmp_path / "records")
    whole = run(config, tmp_path / "whole", shard_frames=1)
    assert record_files(builder) == record_files(whole)

  def test_a_worker_that_others_wait_for(self, tmp_path, config, capsys):
    arguments = command(
      config.root, tmp_path / "records", "--shard_frames=2", "--workers=3", "--processes=1"
    )[3:]
    assert main([*arguments, "--worker=0"]) == 0
    assert capsys.readouterr().out == ("worker 0 is done; 4 shards of other workers are missing\n")
    # One process without workers makes the rest.
    assert run(config, tmp_path / "records", shard_frames=2).is_prepared()

  def test_a_worker_still_at_work_is_not_waited_for(self, tmp_path, config):
    for worker in (0, 1):
      run(config, tmp_path / "records", shard_frames=2, worker=worker, workers=3)
    with open(tmp_path / "records/.gta5-24x16_disparity.lock") as lock:
      fcntl.flock(lock, fcntl.LOCK_SH)  # as another does
      builder = run(config, tmp_path / "records", shard_frames=2, worker=2, workers=3)
      assert not builder.is_prepared()
      assert builder.missing_shards() == []
    assert run(config, tmp_path / "records", shard_frames=2, worker=2, workers=3).is_prepared()

  @pytest.mark.parametrize(("worker", "workers"), [(3, 3), (-1, 3), (0, 0)])
  def test_wrong_numbers(self, tmp_path, config, worker, workers):
    with pytest.raises(UserError, match="wanted"):
      run(config, tmp_path / "records", worker=worker, workers=workers)


def test_a_second_preparation_waits_for_the_first(tmp_path):
  root = write_gta5(tmp_path / "files")
  records = tmp_path / "records"
  records.mkdir()
  writing = records / "gta5/24x16_disparity/incomplete.OTHER_1.1.0"  # of the first
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
  assert [path.name for path in writing.parent.iterdir()] == ["1.1.0"]


def test_a_full_disk(tmp_path):
  """A limit on the size of files stands in for it: the writer gets an error from the system."""
  root = write_gta5(tmp_path / "files", 6)
  config = dataset_config("gta5", root, "disparity", 180, 240)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
  try:
    with pytest.raises(UserError) as error:
      run(config, tmp_path / "records", shard_frames=4)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert "records cannot be written to" in str(error.value)
  assert "File too large" in str(error.value)
  assert "\n" not in str(error.value)
  with pytest.raises(UserError, match="no records"):
    open_records(config, tmp_path / "records")
  assert not list((tmp_path / "records").rglob("*.array_record*"))
  builder = run(config, tmp_path / "records", shard_frames=4)
  assert record_files(builder) == record_files(run(config, tmp_path / "whole", shard_frames=4))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_disk_that_fails_at_any_file(tmp_path, monkeypatch, code, number):
  config = dataset_config("gta5", write_gta5(tmp_path / "files", 4), "disparity")
  calls = []

  def replace(source, target):
    calls.append(target)
    if len(calls) == number + 1:
      raise OSError(code, os.strerror(code))
    return real(source, target)

  real = os.replace
  with monkeypatch.context() as patch:
    patch.setattr(shards.os, "replace", replace)
    with pytest.raises(UserError, match=os.strerror(code)) as error:
      run(config, tmp_path / "records", shard_frames=2)
  assert "\n" not in str(error.value)
  assert len(finished(tmp_path / "records")) == number // 2
  builder, made = frames_made(monkeypatch, config, tmp_path / "records", shard_frames=2)
  assert len(made) == 4 - 2 * (number // 2)
  assert record_files(builder) == record_files(run(config, tmp_path / "whole", shard_frames=2))


def test_a_records_folder_that_may_not_be_written(tmp_path, monkeypatch):
  config = dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity")

  def touch(path, **_):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

  monkeypatch.setattr(prepare_module.Path, "touch", touch)
  with pytest.raises(UserError, match=r"cannot be written to .* \(Permission denied\): mend that"):
    run(config, tmp_path / "records")


def test_a_shard_whose_records_were_lost_is_not_whole(tmp_path, monkeypatch):
  """Killed between a shard's two names: the records are new, what is said of them is gone."""
  config = dataset_config("gta5", write_gta5(tmp_path / "files", 4), "disparity")
  interrupted(monkeypatch, config, tmp_path / "records", 3, shard_frames=2)
  (partial(tmp_path / "records") / "train-00000.json").unlink()
  _, made = frames_made(monkeypatch, config, tmp_path / "records", shard_frames=2)
  assert len(made) == 4


def test_the_report_lies_beside_the_records(tmp_path):
  builder = run(
    dataset_config("gta5", write_gta5(tmp_path / "files"), "disparity"), tmp_path / "records"
  )
  report = json.loads((builder.data_path / "preparation.json").read_text())
  assert report["expected"] == {"train": 24_966}
  assert report["found"] == report["kept"] == {"train": 3}
