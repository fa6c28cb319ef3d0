"""Disks that are full, or may not be written."""

import errno
import os
import resource

import pytest
from stopping import finished, frames_made
from tiny_trees import dataset_config, record_files, run, write_gta5

from corda_jax.errors import UserError
from data_pipelines import prepare as prepare_module
from data_pipelines import shards
from data_pipelines.prepare import open_records


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
  assert str(tmp_path / "records") in str(error.value)
  assert os.strerror(errno.EFBIG) in str(error.value)
  assert "\n" not in str(error.value)
  with pytest.raises(UserError, match=rf"gta5.*240x180_disparity.*{tmp_path}/records"):
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
  with pytest.raises(UserError, match=rf"{tmp_path}/records.*{os.strerror(errno.EACCES)}"):
    run(config, tmp_path / "records")
