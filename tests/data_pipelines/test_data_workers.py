"""Several processes that prepare one data set."""

import concurrent.futures
import fcntl
import re
import subprocess
import time
from pathlib import Path

import pytest
from stopping import frames_made
from tiny_trees import command, dataset_config, record_files, run, write_gta5

from corda_jax.errors import UserError
from data_pipelines import prepare as prepare_module
from data_pipelines.prepare import main, open_records

REPOSITORY = Path(__file__).parents[2]


class TestWorkers:
  """Two or three workers of one data set."""

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
          *("--processes=1", "--shard_frames=1", "--workers=2", f"--worker={worker}"),
        ),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for worker in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert any(re.search(r"train.*\b11\b.*\b11\b", out) for out, _ in outputs)
    builder = open_records(config, tmp_path / "records")
    whole = run(config, tmp_path / "whole", shard_frames=1)
    assert record_files(builder) == record_files(whole)

  def test_a_worker_that_others_wait_for(self, tmp_path, config, capsys):
    arguments = command(
      config.root, tmp_path / "records", "--shard_frames=2", "--workers=3", "--processes=1"
    )[3:]
    assert main([*arguments, "--worker=0"]) == 0
    (told,) = capsys.readouterr().out.splitlines()
    assert re.search(r"worker.*\b0\b.*\b4\b.*shards", told)
    # One process without workers makes the rest.
    assert run(config, tmp_path / "records", shard_frames=2).is_prepared()

  def test_a_worker_still_at_work_is_not_waited_for(self, tmp_path, config):
    (tmp_path / "records").mkdir()
    with open(tmp_path / "records/.gta5-24x16_disparity.lock", "w") as lock:
      fcntl.flock(lock, fcntl.LOCK_SH)  # as another does
      for worker in (0, 1):
        builder = run(config, tmp_path / "records", shard_frames=2, worker=worker, workers=3)
        assert not builder.is_prepared()
      assert builder.missing_shards() == ["train-00002", "train-00005"]

  def test_shards_that_appear_meanwhile(self, tmp_path, config, monkeypatch):
    """Two workers that finish at once both see all shards: both end with the whole."""
    run(config, tmp_path / "records", shard_frames=2, worker=0, workers=2)
    real = prepare_module.FramesBuilder.missing_shards

    def missing_shards(builder):
      missing = real(builder)
      if builder.builder_config.worker:  # the other one goes first
        run(config, tmp_path / "records", shard_frames=2, worker=0, workers=2)
      return missing

    monkeypatch.setattr(prepare_module.FramesBuilder, "missing_shards", missing_shards)
    builder = run(config, tmp_path / "records", shard_frames=2, worker=1, workers=2)
    assert builder.is_prepared()
    assert builder.report.kept == {"train": 11}

  @pytest.mark.parametrize(
    ("worker", "workers", "told"),
    [(3, 3, r"worker\b.*3.*0.*2"), (-1, 3, r"worker\b.*-1.*0.*2"), (0, 0, r"workers\b.*0.*1")],
  )
  def test_wrong_numbers(self, tmp_path, config, worker, workers, told):
    with pytest.raises(UserError, match=told):
      run(config, tmp_path / "records", worker=worker, workers=workers)


def test_a_second_preparation_waits_for_the_first(tmp_path, capsys, caplog):
  root = write_gta5(tmp_path / "files")
  records = tmp_path / "records"
  records.mkdir()
  writing = records / "gta5/24x16_disparity/incomplete.OTHER_2.0.0"  # of the first
  writing.mkdir(parents=True)
  arguments = command(root, records, "--processes", "1")[3:]
  with concurrent.futures.ThreadPoolExecutor() as executor:
    with open(records / ".gta5-24x16_disparity.lock", "w") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      second = executor.submit(main, arguments)  # the lock is of the file as each opened it
      deadline = time.monotonic() + 60
      while not caplog.messages:
        assert time.monotonic() < deadline
        assert not second.done()
        time.sleep(0.01)
      assert re.search("process.*gta5", caplog.messages[0])
      assert [path.name for path in writing.parent.iterdir()] == [writing.name]
    assert second.result(timeout=60) == 0
  assert re.search(r"train.*\b3\b.*\b3\b", capsys.readouterr().out)
  assert [path.name for path in writing.parent.iterdir()] == ["2.0.0"]
