"""Records in a bucket; TensorFlow's file system in memory stands in for one."""

import itertools
import re
import shutil

import pytest
import tensorflow as tf
from ml_collections import ConfigDict
from tiny_trees import BAD_RECORDS, dataset_config, examples, record_files, run, write_gta5

from configs.default import get_config
from corda_jax.errors import UserError
from data_pipelines.batches import train_batches
from data_pipelines.bucket import Retry
from data_pipelines.prepare import open_records
from data_pipelines.provide import provide

_NUMBERS = itertools.count()


@pytest.fixture
def bucket():
  return f"ram://bucket{next(_NUMBERS)}/records"


@pytest.fixture
def config(tmp_path):
  return dataset_config("gta5", write_gta5(tmp_path / "files", 5), "disparity")


def remote_files(bucket):
  folder = f"{bucket}/gta5/24x16_disparity/2.0.0"
  return {
    name: tf.io.gfile.GFile(f"{folder}/{name}", "rb").read() for name in tf.io.gfile.listdir(folder)
  }


def test_prepared_records_are_in_the_bucket_and_read_from_a_cache(tmp_path, bucket, config):
  here = record_files(run(config, tmp_path / "local", shard_frames=2))
  run(config, bucket, cache_dir=tmp_path / "here", shard_frames=2)
  assert remote_files(bucket) == here
  # Another machine has neither the files nor records.
  shutil.rmtree(config.root)
  builder = open_records(config, bucket, tmp_path / "there")
  assert len(examples(builder)) == 5
  assert record_files(builder) == here
  data = {"crop_height": 16, "crop_width": 24, "batch_size": 5, "reader_threads": 1}
  data["bad_records"] = BAD_RECORDS
  data |= {
    "classes": {"names": (), "colors": ()},
    "records_dir": bucket,
    "cache_dir": str(tmp_path / "third"),
  }
  batch = next(train_batches(ConfigDict(data | {"source": config, "target": config}), seed=0))
  assert batch["source_image"].shape == (5, 16, 24, 3)


def test_records_are_fetched_once(tmp_path, bucket, config):
  run(config, bucket, cache_dir=tmp_path / "cache")
  builder = open_records(config, bucket, tmp_path / "cache")
  inode = builder.data_path.stat()
  again = open_records(config, bucket, tmp_path / "cache").data_path.stat()
  assert again.mtime == inode.mtime


def test_other_records_in_the_bucket_replace_the_cache(tmp_path, bucket, config):
  run(config, bucket, cache_dir=tmp_path / "cache")
  write_gta5(tmp_path / "files", 6)
  tf.io.gfile.rmtree(bucket)
  run(config, bucket, cache_dir=tmp_path / "other")
  assert len(examples(open_records(config, bucket, tmp_path / "cache"))) == 6


def test_a_copy_that_was_stopped_is_not_whole(tmp_path, bucket, config, monkeypatch):
  real, copied = tf.io.gfile.copy, []

  def copy(source, target, **options):
    if len(copied) == 3:
      raise tf.errors.ResourceExhaustedError(None, None, "no room in\nthe bucket")
    copied.append(target)
    real(source, target, **options)

  with monkeypatch.context() as patch:
    patch.setattr(tf.io.gfile, "copy", copy)
    with pytest.raises(UserError, match=rf"{bucket}.*no room in the bucket") as error:
      run(config, bucket, cache_dir=tmp_path / "cache", shard_frames=2, retry=Retry(0))
  assert "\n" not in str(error.value)
  assert remote_files(bucket)  # some, and no report among them
  with pytest.raises(UserError, match=rf"gta5.*24x16_disparity.*{bucket}"):
    open_records(config, bucket, tmp_path / "there")
  run(config, bucket, cache_dir=tmp_path / "cache", shard_frames=2)
  assert len(examples(open_records(config, bucket, tmp_path / "there"))) == 5


def test_a_fetch_that_was_stopped_is_not_whole(tmp_path, bucket, config, monkeypatch):
  run(config, bucket, cache_dir=tmp_path / "cache", shard_frames=2)
  real, copied = tf.io.gfile.copy, []

  def copy(source, target, **options):
    if len(copied) == 3:
      raise KeyboardInterrupt
    copied.append(target)
    real(source, target, **options)

  with monkeypatch.context() as patch:
    patch.setattr(tf.io.gfile, "copy", copy)
    with pytest.raises(KeyboardInterrupt):
      open_records(config, bucket, tmp_path / "there")
  assert not list((tmp_path / "there").rglob("2.0.0"))
  builder = open_records(config, bucket, tmp_path / "there")
  assert len(examples(builder)) == 5
  assert [path.name for path in builder.data_path.parent.iterdir()] == ["2.0.0"]


def test_a_bucket_that_is_lost_for_a_while(tmp_path, bucket, config, monkeypatch, capfd):
  real, lost = tf.io.gfile.copy, [True, False, False, False, True, False]

  def copy(source, target, **options):
    if lost and lost.pop(0):
      raise tf.errors.UnavailableError(None, None, "no answer")
    real(source, target, **options)

  monkeypatch.setattr(tf.io.gfile, "copy", copy)
  retry = Retry(2, seconds=0.0)
  run(config, bucket, cache_dir=tmp_path / "cache", retry=retry, shard_frames=2)
  assert len(examples(open_records(config, bucket, tmp_path / "there", retry=retry))) == 5
  told = capfd.readouterr().err
  for left in (2, 1):
    assert len(re.findall(rf"no answer.*\b0\b.*\b{left}\b", told)) == 1
  assert not lost
  lost += [True] * 3
  with pytest.raises(UserError, match="no answer"):
    open_records(config, bucket, tmp_path / "elsewhere", retry=retry)


def test_the_configuration_tells_how_often_a_bucket_is_asked(tmp_path, bucket, config, monkeypatch):
  asked = []

  def copy(source, target, **options):
    asked.append(source)
    raise tf.errors.UnavailableError(None, None, "no answer")

  data = get_config().data
  data.records_dir, data.cache_dir, data.prepare_processes = bucket, str(tmp_path / "cache"), 1
  data.source.update(config)
  data.bad_records.update(retries=3, retry_seconds=0.0)
  monkeypatch.setattr(tf.io.gfile, "copy", copy)
  with pytest.raises(UserError, match="no answer"):
    provide(data, ["source"])
  assert len(asked) == 1 + 3
  monkeypatch.undo()
  run(config, bucket, cache_dir=tmp_path / "cache")
  monkeypatch.setattr(tf.io.gfile, "copy", copy)
  data.cache_dir = str(tmp_path / "there")
  with pytest.raises(UserError, match="no answer"):
    next(train_batches(data, seed=0))
  assert len(asked) == 2 * (1 + 3)


def test_workers_cannot_share_a_bucket(tmp_path, bucket, config):
  with pytest.raises(UserError, match=rf"workers.*{bucket}.*records_dir"):
    run(config, bucket, cache_dir=tmp_path, worker=0, workers=2)
