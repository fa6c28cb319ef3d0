import itertools
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from array_record.python import array_record_data_source
from ml_collections import ConfigDict
from tiny_trees import BAD_RECORDS, dataset_config, pixels, save, write_cityscapes, write_gta5

from corda_jax.errors import UserError
from data_pipelines.batch_threads import READY_BATCHES
from data_pipelines.batches import (
  evaluation_batches,
  num_examples,
  train_batches,
)
from data_pipelines.prepare import prepare
from data_pipelines.records import Records

FRAME = (16, 24)
CROP = (9, 14)
SOURCE, TARGET, VALIDATION = 7, 5, 5  # frames


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A configuration with prepared records, and the whole frames of each set in record order."""
  folder = tmp_path_factory.mktemp("batches")
  source = dataset_config("gta5", write_gta5(folder / "gta", SOURCE), "disparity", *FRAME)
  cityscapes = write_cityscapes(folder / "cityscapes", TARGET, VALIDATION)
  target = dataset_config("cityscapes", cityscapes, "mono", *FRAME)
  config = ConfigDict(
    {
      "records_dir": str(folder / "records"),
      "classes": {"names": (), "colors": ()},
      "source": source,
      "target": target,
      "crop_height": CROP[0],
      "crop_width": CROP[1],
      "cache_dir": "",
      "batch_size": 4,
      "evaluation_batch_size": 4,
      "reader_threads": 0,
      "bad_records": BAD_RECORDS,
    }
  )
  frames = {}
  for domain in ("source", "target"):
    builder = prepare(config[domain], records_dir=config.records_dir, processes=1, progress=False)
    frames[domain] = list(builder.as_data_source("train"))
    if domain == "target":
      frames["validation"] = list(builder.as_data_source("validation"))
  return config, frames


@pytest.fixture
def config(prepared):
  return prepared[0].copy_and_resolve_references()


def take(config, count, **options):
  return list(itertools.islice(train_batches(config, seed=5, **options), count))


def assert_equal(first, second):
  assert len(first) == len(second) > 0
  for a, b in zip(first, second, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def differ(first, second):
  return any((a[key] != b[key]).any() for a, b in zip(first, second, strict=True) for key in a)


def locate(batch, domain, index, frames):
  """(record, top, left) of a sample, where image, label and inverse depth all match."""
  height, width = CROP
  found = []
  for number, frame in enumerate(frames):
    for top, left in itertools.product(range(FRAME[0] - height + 1), range(FRAME[1] - width + 1)):
      window = np.s_[top : top + height, left : left + width]
      if all(
        np.array_equal(
          frame[key][window].reshape(batch[f"{domain}_{key}"][index].shape),
          batch[f"{domain}_{key}"][index],
        )
        for key in ("image", "label", "inverse_depth")
      ):
        found.append((number, top, left))
  (place,) = found
  return place


def places(config, frames, domain, count, **options):
  return [
    locate(batch, domain, index, frames[domain])
    for batch in take(config, count, **options)
    for index in range(config.batch_size)
  ]


def test_shapes_and_types(config):
  (batch,) = take(config, 1)
  for domain in ("source", "target"):
    for key, shape, dtype in (
      ("image", (4, *CROP, 3), np.uint8),
      ("label", (4, *CROP), np.uint8),
      ("inverse_depth", (4, *CROP), np.float32),
    ):
      value = batch.pop(f"{domain}_{key}")
      assert type(value) is np.ndarray
      assert value.shape == shape
      assert value.dtype == dtype
    assert batch.pop(f"{domain}_name").shape == (4,)
  assert not batch


def test_each_epoch_shows_every_frame_once_in_another_order(prepared, config):
  frames = prepared[1]
  for domain, size in (("source", SOURCE), ("target", TARGET)):
    records = [place[0] for place in places(config, frames, domain, size)]  # 4 epochs
    epochs = [tuple(records[i : i + size]) for i in range(0, 4 * size, size)]
    for epoch in epochs:
      assert sorted(epoch) == list(range(size))
    assert len(set(epochs)) > 1


def test_crops_are_paired_and_reach_every_place(prepared, config):
  config.batch_size = 32
  found = places(config, prepared[1], "source", 6)
  tops, lefts = ({place[axis] for place in found} for axis in (1, 2))
  assert tops == set(range(FRAME[0] - CROP[0] + 1))
  assert lefts == set(range(FRAME[1] - CROP[1] + 1))
  # Rows and columns are drawn apart, and the two sets apart from each other.
  assert len({place[1:] for place in found}) > max(len(tops), len(lefts)) * 2
  target = places(config, prepared[1], "target", 1)
  assert [place[1:] for place in target] != [place[1:] for place in found[: len(target)]]


def test_the_order_depends_on_the_seed_and_on_the_set(config):
  config.crop_height, config.crop_width = FRAME  # leaves nothing but the order
  config.source = config.target

  def order(domain, seed):
    batches = itertools.islice(train_batches(config, seed=seed), 5)
    return [image.tobytes() for batch in batches for image in batch[f"{domain}_image"]]

  assert order("source", 5) == order("source", 5)
  assert order("source", 5) != order("source", 6)
  assert order("source", 5) != order("target", 5)


def test_same_seed_same_batches(config):
  assert_equal(take(config, 6), take(config, 6))
  other = list(itertools.islice(train_batches(config, seed=6), 6))
  assert differ(take(config, 6), other)


@pytest.mark.parametrize("start", [1, 4, 9])
def test_resuming_goes_on_where_it_stopped(config, start):
  assert_equal(take(config, 12)[start:], take(config, 12 - start, start_step=start))


def test_resuming_far_away_is_at_once(config):
  (batch,) = take(config, 1, start_step=10**9)
  assert batch["source_image"].shape == (4, *CROP, 3)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(config, threads):
  expected = take(config, 8)
  config.reader_threads = threads
  assert_equal(expected, take(config, 8))


@pytest.mark.parametrize("start", [0, 3, 10**6])
def test_resuming_reads_nothing_of_what_was_before(config, monkeypatch, start):
  """The records that are read are those of the batches from there on, and of no other."""
  reads = []

  class Watched(Records):  # threads of other tests may still read ahead
    def read(self, numbers):
      reads.append(len(numbers))
      return super().read(numbers)

  monkeypatch.setattr("data_pipelines.batches.Records", Watched)
  config.reader_threads = 1
  batches = train_batches(config, seed=5, start_step=start)
  for _ in range(3):
    next(batches)
  batches.close()
  most = 3 + config.reader_threads + READY_BATCHES  # taken, and made ahead
  assert 2 * 3 <= len(reads) <= 2 * most  # one of the source and one of the target a batch
  assert set(reads) == {config.batch_size}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_read_disjoint_parts_of_the_epoch(prepared, config, count):
  """Over the steps of an epoch, all processes together read each record once."""
  config.batch_size = 4
  steps = SOURCE  # four epochs of seven records
  height, width = CROP
  read = [[] for _ in range(steps)]
  for index in range(count):
    batches = take(config, steps, process_index=index, process_count=count)
    for step, batch in enumerate(batches):
      assert batch["source_image"].shape == (4 // count, height, width, 3)
      for sample in range(4 // count):
        read[step].append(locate(batch, "source", sample, prepared[1]["source"])[0])
  order = list(itertools.chain.from_iterable(read))
  for epoch in range(4):
    assert sorted(order[epoch * SOURCE : (epoch + 1) * SOURCE]) == list(range(SOURCE))


def test_a_resumed_run_may_use_other_processes_and_threads(config):
  expected = take(config, 6)
  config.reader_threads = 3
  parts = [take(config, 3, start_step=3, process_index=i, process_count=2) for i in range(2)]
  together = [
    {key: np.concatenate([part[step][key] for part in parts]) for key in parts[0][step]}
    for step in range(3)
  ]
  assert_equal(expected[3:], together)


def test_sets_of_other_sizes_count_their_own_epochs(prepared, config):
  """Source of seven frames, target of five: batch 35 begins an epoch of both again."""
  config.batch_size = 1
  for domain, size in (("source", SOURCE), ("target", TARGET)):
    records = [place[0] for place in places(config, prepared[1], domain, SOURCE * TARGET)]
    for start in range(0, len(records), size):
      assert sorted(records[start : start + size]) == list(range(size))


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_of_the_files_change_nothing(config, tmp_path, shards):
  """Records count through their files, however many there are."""
  before = take(config, 5)
  config.records_dir = str(tmp_path / "records")
  for domain, count in (("source", SOURCE), ("target", TARGET)):
    builder = prepare(
      config[domain],
      records_dir=config.records_dir,
      processes=1,
      progress=False,
      shard_frames=-(-count // shards),
    )
    assert len(builder.info.splits["train"].filepaths) == shards
  assert_equal(before, take(config, 5))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_batch(config, count):
  parts = [take(config, 6, process_index=i, process_count=count) for i in range(count)]
  together = [
    {key: np.concatenate([part[step][key] for part in parts]) for key in parts[0][step]}
    for step in range(6)
  ]
  assert_equal(take(config, 6), together)


def test_batch_larger_than_the_set(prepared, config):
  config.batch_size = 2 * TARGET
  records = [place[0] for place in places(config, prepared[1], "target", 1)]
  assert sorted(records[:TARGET]) == sorted(records[TARGET:]) == list(range(TARGET))


def test_whole_frames_as_crops(prepared, config):
  config.crop_height, config.crop_width = FRAME
  config.batch_size = SOURCE
  (batch,) = take(config, 1)
  wanted = sorted(frame["image"].tobytes() for frame in prepared[1]["source"])
  assert sorted(image.tobytes() for image in batch["source_image"]) == wanted
  assert batch["source_label"].shape == (SOURCE, *FRAME)


@pytest.mark.parametrize(
  ("changes", "options", "message"),
  [
    ({"crop_height": 17}, {}, r"crop.*14x17.*source.*24x16"),
    ({"crop_width": 25}, {}, r"crop.*25x9.*source.*24x16"),
    ({"crop_width": 0}, {}, r"crop.*\b0x9"),
    ({"batch_size": 5}, {"process_count": 2}, r"data\.batch_size.*5.*2"),
    ({"batch_size": 0}, {}, r"data\.batch_size.*\b0\b"),
    ({}, {"process_index": 2, "process_count": 2}, r"process_index.*2.*0.*1"),
    ({"records_dir": "nowhere"}, {}, r"gta5.*24x16_disparity.*nowhere"),
  ],
)
def test_wrong_values_are_told_before_the_first_batch(config, changes, options, message):
  config.update(changes)
  with pytest.raises(UserError, match=message):
    train_batches(config, seed=0, **options)


def test_evaluation_shows_every_frame_once_in_order(prepared, config):
  batches = list(evaluation_batches(config))
  assert [batch["valid"].tolist() for batch in batches] == [[True] * 4, [True] + [False] * 3]
  samples = [(batch, i) for batch in batches for i in range(4) if batch["valid"][i]]
  frames = prepared[1]["validation"]
  assert len(samples) == len(frames) == VALIDATION
  for (batch, i), frame in zip(samples, frames, strict=True):
    assert batch["name"][i] == frame["name"].decode()
    np.testing.assert_array_equal(batch["image"][i], frame["image"])
    np.testing.assert_array_equal(batch["label"][i], frame["label"][..., 0])
    assert set(batch) == {"image", "label", "name", "valid"}
    assert batch["label"][i].shape == (18, 31)
  for i in (1, 2, 3):
    np.testing.assert_array_equal(batches[1]["image"][i], frames[-1]["image"])


@pytest.mark.parametrize("count", [2, 4])
def test_evaluation_is_shared(config, count):
  parts = [
    list(evaluation_batches(config, process_index=i, process_count=count)) for i in range(count)
  ]
  assert {len(part) for part in parts} == {2}
  together = [
    {key: np.concatenate([part[step][key] for part in parts]) for key in parts[0][step]}
    for step in range(2)
  ]
  assert_equal(list(evaluation_batches(config)), together)


def test_evaluation_of_the_first_frames(config):
  batches = list(evaluation_batches(config, limit=3))
  assert [batch["valid"].tolist() for batch in batches] == [[True, True, True, False]]
  assert sum(batch["valid"].sum() for batch in evaluation_batches(config, limit=100)) == VALIDATION


def test_evaluation_of_the_training_split(config):
  batches = list(evaluation_batches(config, split="train"))
  assert sum(batch["valid"].sum() for batch in batches) == TARGET
  assert batches[0]["label"].shape == (4, *FRAME)
  with pytest.raises(UserError, match=r"split.*test.*train.*validation"):
    evaluation_batches(config, split="test")


def test_labels_of_several_sizes_need_single_frames(config, tmp_path):
  root = write_cityscapes(tmp_path / "files", 1, 2)
  stem = "bonn/bonn_000001_000019"
  save(root / f"leftImg8bit/val/{stem}_leftImg8bit.png", pixels(1, 20, 31).rgb)
  save(root / f"gtFine/val/{stem}_gtFine_labelIds.png", pixels(1, 20, 31).train_ids)
  config.target = dataset_config("cityscapes", root, "mono", *FRAME)
  config.records_dir = str(tmp_path / "records")
  prepare(config.target, records_dir=config.records_dir, processes=1, progress=False)
  with pytest.raises(UserError, match=r"cityscapes.*validation.*data\.evaluation_batch_size.*1"):
    list(evaluation_batches(config))
  config.evaluation_batch_size = 1
  assert [batch["label"].shape[1:] for batch in evaluation_batches(config)] == [(18, 31), (20, 31)]


def test_num_examples(config):
  assert num_examples(config, domain="source", split="train") == SOURCE
  assert num_examples(config, domain="target", split="train") == TARGET
  assert num_examples(config, domain="target", split="validation") == VALIDATION
  with pytest.raises(UserError, match=r"gta5.*validation.*train"):
    num_examples(config, domain="source", split="validation")


def test_the_program_ends_in_the_middle_of_an_epoch(config, tmp_path):
  """Threads that read ahead must neither keep the interpreter from ending nor complain."""
  script = (
    "import json, sys\n"
    "from ml_collections import ConfigDict\n"
    "from data_pipelines.batches import train_batches\n"
    "batches = train_batches(ConfigDict(json.loads(sys.argv[1])), seed=0)\n"
    "next(batches)\n"
    "print('one batch')\n"
  )
  output = subprocess.run(
    [sys.executable, "-c", script, config.to_json()],
    cwd=Path(__file__).parents[2],
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert output.returncode == 0
  assert output.stdout == "one batch\n"
  assert "Exception" not in output.stderr


def harmed(monkeypatch, bad, times=10**9):
  """Lets the records of these numbers fail so many times each."""
  left = dict.fromkeys(bad, times)

  class Harmed:
    def __init__(self, source):
      self._source = source

    def __len__(self):
      return len(self._source)

    def __getitem__(self, number):
      if left.get(number, 0) > 0:
        left[number] -= 1
        raise RuntimeError("the disk is gone")
      return self._source[number]

  opened = array_record_data_source.ArrayRecordDataSource

  def harmed_source(*arguments, **options):
    return Harmed(opened(*arguments, **options))

  monkeypatch.setattr(array_record_data_source, "ArrayRecordDataSource", harmed_source)


def test_an_unreadable_record_stops_the_run_in_one_line(config, monkeypatch):
  harmed(monkeypatch, range(100))
  with pytest.raises(UserError, match=rf"{config.records_dir}.*the disk is gone") as error:
    take(config, 1)
  assert "\n" not in str(error.value)


def test_a_disk_that_comes_back_changes_nothing(config, monkeypatch, capfd):
  expected = take(config, 4)
  harmed(monkeypatch, range(100), times=2)
  config.reader_threads = 1
  config.bad_records = {"retries": 2, "retry_seconds": 0.0, "then": "stop"}
  assert_equal(expected, take(config, 4))
  assert re.search(r"record.*the disk is gone.*\b0\b.*\b2\b", capfd.readouterr().err)


def test_a_record_that_stays_unreadable_is_replaced_and_told(config, monkeypatch, capfd):
  expected = take(config, 6)
  harmed(monkeypatch, [1])
  config.reader_threads = 1
  config.bad_records = {"retries": 0, "retry_seconds": 0.0, "then": "skip"}
  found = take(config, 6)
  for domain in ("source", "target"):
    before = np.concatenate([batch[f"{domain}_name"] for batch in expected])
    after = np.concatenate([batch[f"{domain}_name"] for batch in found])
    lost = before != after
    assert lost.any()  # the record was among them
    assert len(set(before[lost])) == len(set(after[lost])) == 1
    assert set(before[lost]).isdisjoint(after)
  told = [line for line in capfd.readouterr().err.splitlines() if "record 1" in line]
  assert len(told) == 2  # once a domain
  for domain, count in (("gta5", SOURCE), ("cityscapes", TARGET)):
    assert sum(bool(re.search(rf"\b1 of {count}\b.*{domain}", line)) for line in told) == 1


@pytest.mark.parametrize("threads", [1, 4])
def test_a_lost_record_is_waited_for_once(config, monkeypatch, capfd, threads):
  harmed(monkeypatch, [1])
  config.reader_threads = threads
  config.bad_records = {"retries": 2, "retry_seconds": 0.0, "then": "skip"}
  lost_with = Records.lost_with

  def slow(records, number):
    time.sleep(0.3)  # so that others find it lost meanwhile
    return lost_with(records, number)

  monkeypatch.setattr(Records, "lost_with", slow)
  take(config, 12)  # several times over
  told = [line for line in capfd.readouterr().err.splitlines() if "record 1" in line]
  left_out = [line for line in told if re.search(rf"\b1 of ({SOURCE}|{TARGET})\b", line)]
  assert len(left_out) == 2  # once a domain
  assert len(told) - len(left_out) == 2 * 2 or threads > 1  # tried again


def test_a_lost_file_of_records_is_waited_for_once(config, tmp_path, monkeypatch, capfd):
  config.records_dir = str(tmp_path)
  options: dict = {"records_dir": str(tmp_path), "processes": 1, "progress": False}
  builder = prepare(config.source, shard_frames=2, **options)
  lost = Path(builder.info.splits["train"].filepaths[1])
  prepare(config.target, **options)
  harmed(monkeypatch, [2, 3])
  config.reader_threads = 1
  config.bad_records = {"retries": 2, "retry_seconds": 0.0, "then": "skip"}
  batches = train_batches(config, seed=5)
  records = Records(builder, "train")
  lost.unlink()
  assert [records.lost_with(number) for number in range(SOURCE)] == [
    range(2, 4) if number in (2, 3) else range(number, number + 1) for number in range(SOURCE)
  ]
  names = np.concatenate([batch["source_name"] for batch in itertools.islice(batches, 12)])
  assert len(set(names)) == SOURCE - 2
  told = [line for line in capfd.readouterr().err.splitlines() if "record" in line]
  mine = [line for line in told if "gta5" in line]
  left_out = [line for line in mine if re.search(rf"2 records.*\b2 of {SOURCE}\b", line)]
  assert len(left_out) == 1
  assert len(mine) - len(left_out) == 2  # tried again


def test_evaluation_waits_for_a_disk_that_comes_back_and_ends_with_one_that_does_not(
  config, monkeypatch
):
  def names():
    return [str(n) for batch in evaluation_batches(config) for n in batch["name"]]

  expected = names()
  with monkeypatch.context() as patch:
    harmed(patch, range(100), times=2)
    config.bad_records = {"retries": 2, "retry_seconds": 0.0, "then": "skip"}
    assert names() == expected
  harmed(monkeypatch, [0])
  with pytest.raises(UserError, match=rf"{config.records_dir}.*the disk is gone"):
    names()


def test_where_no_record_can_be_read_there_is_no_batch(config, monkeypatch):
  harmed(monkeypatch, range(1000))
  config.bad_records = {"retries": 0, "retry_seconds": 0.0, "then": "skip"}
  with pytest.raises(UserError, match=r"record.*training set"):
    take(config, 1)
