"""Batches of records: order, crops, resuming, processes, contents, exits."""

import hashlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_trees import (
  assert_equal,
  data_config,
  dataset_config,
  evaluation_batches,
  examples,
  joined,
  pixels,
  run,
  run_both,
  save,
  take,
  train_batches,
  write_cityscapes,
  write_cityscapes_more,
  write_gta5,
  write_synthia,
  write_train_extra,
)

from corda_jax.depth.inverse_depth import to_metres
from corda_jax.errors import UserError
from data_pipelines.input_pipeline import evaluation_dataset, record_names, train_dataset
from data_pipelines.street_world import write as street_world

FRAME = (16, 24)
CROP = (9, 14)  # of `data_config`
SOURCE, TARGET, EXTRA, VALIDATION = 7, 5, 3, 7  # frames
VIEWS = ("right", "previous", "next")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A configuration with prepared records, and the whole frames of each split in record order."""
  folder = tmp_path_factory.mktemp("batches")
  root = write_train_extra(write_cityscapes(folder / "cityscapes", TARGET, VALIDATION), EXTRA)
  write_cityscapes_more(root, ("train", "train_extra", "val"))
  config = data_config(
    dataset_config("gta5", write_gta5(folder / "gta", SOURCE), "disparity", *FRAME),
    dataset_config(
      "cityscapes", root, "official", *FRAME, views=VIEWS, splits=("train", "train_extra")
    ),
    folder / "records",
  )
  target, validation = run_both(config.target, config.records_dir)
  run(config.target, config.records_dir, split="validation")  # without views
  frames = {
    "source": examples(run(config.source, config.records_dir)),
    "target": examples(target) + examples(target, "train_extra"),
    "validation": examples(validation, "validation"),
  }
  return config, frames


@pytest.fixture
def config(prepared):
  return prepared[0].copy_and_resolve_references()


def names(batches):
  return [name for batch in batches for name in batch["name"][batch["valid"]]]


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


def digest(batch):
  made = hashlib.sha256()
  for key in sorted(key for key in batch if not key.endswith("_border")):  # newer
    value = np.asarray(batch[key])
    kind, contents = str(value.dtype), np.ascontiguousarray(value).tobytes()
    if value.dtype.kind == "U":
      kind, contents = "str", b"\n".join(np.char.encode(value, "utf-8").tolist())
    made.update(f"{key} {kind} {value.shape}".encode())
    made.update(contents)
  return made.hexdigest()[:16]


def test_batches_are_those_of_the_first_pipeline(tmp_path):
  """Digests of batches that a thread pool of its own made before tf.data did."""
  size = {"height": 18, "width": 31}
  write_cityscapes_more(write_cityscapes(tmp_path / "views", 5, 5))
  sets = {
    "gta5": dataset_config("gta5", write_gta5(tmp_path / "gta", 7), "disparity", **size),
    "synthia": dataset_config("synthia", write_synthia(tmp_path / "syn", 4), "simulator", **size),
    "cityscapes": dataset_config(
      "cityscapes", write_cityscapes(tmp_path / "cs", 5, 5), "mono", **size
    ),
    "views": dataset_config(
      "cityscapes", tmp_path / "views", "stereo", views=VIEWS, neighbour_offset=2, **size
    ),
  }
  found = {}
  for source, target in (("gta5", "cityscapes"), ("synthia", "views")):
    config = data_config(sets[source], sets[target], tmp_path / "records", evaluation_batch_size=4)
    run(config.source, config.records_dir)
    run_both(config.target, config.records_dir)
    for seed, start, p, n in ((0, 0, 0, 1), (5, 0, 0, 1), (5, 7, 0, 1), (5, 10**6, 0, 1),
                              (5, 7, 1, 2)):  # fmt: skip
      batches = take(config, 3, seed=seed, start_step=start, process_index=p, process_count=n)
      name = f"{source}+{target} seed {seed} start {start} process {p} of {n}"
      found[name] = [*map(digest, batches)]
    contents = ("image", "label", "inverse_depth", *("views",) * (target == "views"))
    for p, n in ((0, 1), (1, 2)):
      batches = evaluation_batches(config, contents=contents, process_index=p, process_count=n)
      found[f"{target} validation process {p} of {n}"] = [*map(digest, batches)]
  assert found == json.loads((Path(__file__).parent / "batch_digests.json").read_text())


def test_anyone_can_map_and_batch_the_datasets(config):
  dataset = train_dataset(config, seed=5)
  assert isinstance(dataset, tf.data.Dataset)
  assert dataset.element_spec["source_image"].shape == (4, *CROP, 3)
  means = dataset.map(lambda batch: tf.reduce_mean(tf.cast(batch["source_image"], tf.float32)))
  (two,) = means.batch(2).take(1)
  expected = [batch["source_image"].mean(dtype=np.float64) for batch in take(config, 2)]
  np.testing.assert_allclose(two, expected, rtol=1e-5)
  frames = evaluation_dataset(config).unbatch().filter(lambda frame: frame["valid"])
  assert sum(1 for _ in frames) == VALIDATION


def test_shapes_and_types(config):
  (batch,) = take(config, 1)
  for domain, views in (("source", ()), ("target", VIEWS)):
    for key, shape, dtype in (
      ("image", (4, *CROP, 3), np.uint8),
      ("label", (4, *CROP), np.uint8),
      ("inverse_depth", (4, *CROP), np.float32),
      ("border", (4, 4), np.int32),
      *((f"{view}_image", (4, *CROP, 3), np.uint8) for view in views),
      *((("intrinsics", (4, 4), np.float32), ("baseline", (4,), np.float32)) if views else ()),
    ):
      value = batch.pop(f"{domain}_{key}")
      assert type(value) is np.ndarray
      assert (value.shape, value.dtype) == (shape, dtype)
    assert batch.pop(f"{domain}_name").shape == (4,)
  assert not batch


def test_each_epoch_shows_every_frame_once_in_another_order(prepared, config):
  for domain, size in (("source", SOURCE), ("target", TARGET + EXTRA)):
    records = [place[0] for place in places(config, prepared[1], domain, size)]  # 4 epochs
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
  # Rows and columns are sampled apart, and the two sets apart from each other.
  assert len({place[1:] for place in found}) > max(len(tops), len(lefts)) * 2
  target = places(config, prepared[1], "target", 1)
  assert [place[1:] for place in target] != [place[1:] for place in found[: len(target)]]


def test_views_are_cut_where_the_image_is_and_the_camera_moves_with_them(prepared, config):
  frames, corners = prepared[1]["target"], set()
  for batch in take(config, 4):
    for i in range(4):
      number, top, left = locate(batch, "target", i, frames)
      corners.add((top, left))
      window = np.s_[top : top + CROP[0], left : left + CROP[1]]
      for view in VIEWS:
        np.testing.assert_array_equal(
          batch[f"target_{view}_image"][i], frames[number][f"{view}_image"][window]
        )
      shift = frames[number]["intrinsics"] - batch["target_intrinsics"][i]
      np.testing.assert_allclose(shift, [0, 0, left, top], atol=1e-6)
      assert batch["target_baseline"][i] == frames[number]["baseline"] > 0
  assert len(corners) > 8


def test_the_order_depends_on_the_seed_and_on_the_set(config):
  config.crop_height, config.crop_width = FRAME  # leaves nothing but the order
  config.target = config.source

  def order(domain, seed):
    return [name for batch in take(config, 5, seed=seed) for name in batch[f"{domain}_name"]]

  assert order("source", 5) == order("source", 5)
  assert order("source", 5) != order("source", 6)
  assert order("source", 5) != order("target", 5)


@pytest.mark.parametrize("start", [1, 9])
def test_resuming_goes_on_where_it_stopped_with_other_threads(config, start):
  whole = take(config, 12)
  config.reader_threads = 3
  assert_equal(whole[start:], take(config, 12 - start, start_step=start))


@pytest.mark.parametrize("start", [0, 10**9])
def test_resuming_reads_nothing_of_what_was_before(config, start, monkeypatch):
  """The records that are read are those of the batches from there on, and of no other."""
  from data_pipelines import input_pipeline, records

  reads = []
  unpack = records.unpack
  monkeypatch.setattr(
    records, "unpack", lambda packed, window: reads.append(1) or unpack(packed, window)
  )
  config.reader_threads = 1
  (batch,) = take(config, 1, start_step=start)
  assert batch["source_image"].shape == (4, *CROP, 3)
  # Nine arrays of a pair; the first batch, those made ahead and one in the making.
  assert len(reads) <= 9 * 4 * (1 + input_pipeline.READY_BATCHES + 2)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_batch(config, count):
  parts = [take(config, 6, process_index=i, process_count=count) for i in range(count)]
  assert_equal(take(config, 6), joined(parts))
  later = [take(config, 3, start_step=3, process_index=i, process_count=2) for i in range(2)]
  assert_equal(take(config, 6)[3:], joined(later))


def test_shards_of_the_files_change_nothing(config, tmp_path):
  before = take(config, 5)
  config.records_dir = str(tmp_path / "records")
  for domain in ("source", "target"):
    builder = run(config[domain], config.records_dir, shard_frames=3)
    assert len(builder.info.splits["train"].filepaths) > 1
  assert_equal(before, take(config, 5))


def test_a_batch_may_be_larger_than_the_set_and_a_crop_the_whole_frame(prepared, config):
  config.crop_height, config.crop_width = FRAME
  config.batch_size = 2 * SOURCE
  (batch,) = take(config, 1)
  expected = sorted(frame["image"].tobytes() for frame in prepared[1]["source"])
  images = [image.tobytes() for image in batch["source_image"]]
  assert sorted(images[:SOURCE]) == sorted(images[SOURCE:]) == expected


@pytest.mark.parametrize("domain", ["source", "target"])
def test_one_domain_gives_what_it_gives_beside_the_other(config, domain):
  both = take(config, 5)
  other = {"source": "target", "target": "source"}[domain]
  config[other].root = config[other].dataset = "nothing"  # not opened
  for one, two in zip(take(config, 5, domains=(domain,)), both, strict=True):
    assert set(one) == {key for key in two if key.startswith(domain)}
    for key in one:
      np.testing.assert_array_equal(one[key], two[key])


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
    ({"records_dir": "gs://bucket/records"}, {}, r"records_dir.*gs://bucket/records.*mount"),
  ],
)
def test_wrong_values_are_reported_before_the_first_batch(config, changes, options, message):
  config.update(changes)
  with pytest.raises(UserError, match=message):
    train_dataset(config, seed=0, **options)


def test_evaluation_shows_every_frame_once_in_order(prepared, config):
  config.evaluation_batch_size = 4
  batches = list(evaluation_batches(config))
  assert [batch["valid"].tolist() for batch in batches] == [[True] * 4, [True] * 3 + [False]]
  frames = prepared[1]["validation"]
  samples = [(batch, i) for batch in batches for i in range(4) if batch["valid"][i]]
  for (batch, i), frame in zip(samples, frames, strict=True):
    assert batch["name"][i] == frame["name"].decode()
    np.testing.assert_array_equal(batch["image"][i], frame["image"])
    np.testing.assert_array_equal(batch["label"][i], frame["label"][..., 0])
    assert set(batch) == {"image", "label", "name", "valid"}
    assert batch["label"][i].shape == (18, 31)
  np.testing.assert_array_equal(batches[1]["image"][3], frames[-1]["image"])
  for count in (2, 4):
    parts = [
      list(evaluation_batches(config, process_index=i, process_count=count)) for i in range(count)
    ]
    assert_equal(batches, joined(parts))


def test_contents(prepared, config):
  keys = {
    "image": {"image"},
    "label": {"label"},
    "inverse_depth": {"inverse_depth"},
    "views": {*(f"{view}_image" for view in VIEWS), "intrinsics", "baseline"},
  }
  frames = prepared[1]["validation"]
  assert len({frame["inverse_depth"].tobytes() for frame in frames}) == VALIDATION
  for contents in ((), ("views",), ("label", "inverse_depth"), ("image", "views"), tuple(keys)):
    batches = list(evaluation_batches(config, contents=contents))
    assert names(batches) == [frame["name"].decode() for frame in frames]
    expected = set().union(*(keys[content] for content in contents))
    for number, frame in enumerate(frames):
      batch = batches[number // 2]
      assert set(batch) == expected | {"name", "valid"}
      for key in expected:
        value = batch[key][number % 2]
        np.testing.assert_array_equal(value, np.asarray(frame[key]).reshape(value.shape))


@pytest.mark.parametrize(
  ("domain", "split", "count"),
  [("target", "train", TARGET), ("target", "train_extra", EXTRA), ("source", "train", SOURCE)],
)
def test_any_split_of_any_domain(prepared, config, domain, split, count):
  batches = list(evaluation_batches(config, domain=domain, split=split))
  assert len(names(batches)) == count
  assert names(batches) == record_names(config, domain=domain, split=split)
  assert batches[0]["label"].shape == (2, *FRAME)


@pytest.mark.parametrize("count", [1, 2])
def test_chosen_frames_fill_the_batches(config, count):
  every = record_names(config, domain="target", split="validation")
  chosen = {every[i] for i in (0, 3, 4, 6)}
  parts = [
    list(evaluation_batches(config, names=chosen, process_index=i, process_count=count))
    for i in range(count)
  ]
  together = joined(parts)
  assert {len(part) for part in parts} == {2}  # of two frames each, over all processes
  assert names(together) == [name for name in every if name in chosen]
  assert list(evaluation_batches(config, names=set())) == []


def test_frames_that_are_spread_over_all(config):
  every = record_names(config, domain="target", split="validation")
  assert names(evaluation_batches(config, spread=3)) == [every[0], every[3], every[6]]
  assert names(evaluation_batches(config, spread=1)) == every[:1]
  assert names(evaluation_batches(config, spread=100)) == every


def test_labels_of_several_sizes_need_single_frames(config, tmp_path):
  root = write_cityscapes(tmp_path / "files", 1, 2)
  stem = "bonn/bonn_000001_000019"
  save(root / f"leftImg8bit/val/{stem}_leftImg8bit.png", pixels(1, 20, 31).rgb)
  save(root / f"gtFine/val/{stem}_gtFine_labelIds.png", pixels(1, 20, 31).train_ids)
  config.target = dataset_config("cityscapes", root, "mono", *FRAME)
  config.records_dir = str(tmp_path / "records")
  run(config.target, config.records_dir, split="validation")
  with pytest.raises(UserError, match=r"labels.*data\.evaluation_batch_size"):
    list(evaluation_batches(config))
  (batch,) = evaluation_batches(config, contents=("image",))  # they are not decoded
  assert batch["valid"].all()
  config.evaluation_batch_size = 1
  assert [batch["label"].shape[1:] for batch in evaluation_batches(config)] == [(18, 31), (20, 31)]


def test_mistakes(config):
  with pytest.raises(ValueError, match=r"domains\b.*sauce.*source.*target"):
    train_dataset(config, seed=0, domains=("sauce",))
  with pytest.raises(ValueError, match=r"domain\b.*sauce.*source.*target"):
    evaluation_dataset(config, domain="sauce")
  with pytest.raises(
    ValueError, match=r"contents.*right_image.*image.*label.*inverse_depth.*views"
  ):
    evaluation_dataset(config, contents=("image", "right_image"))
  with pytest.raises(UserError, match=r"gta5.*data\.source\.views"):
    evaluation_dataset(config, domain="source", split="train", contents=("views",))
  with pytest.raises(UserError, match=r"gta5.*validation.*train"):
    evaluation_dataset(config, domain="source")
  with pytest.raises(UserError, match=r"split.*test.*train.*validation"):
    evaluation_dataset(config, split="test")


def test_too_few_files_may_be_open(config, tmp_path, monkeypatch):
  config.records_dir = str(tmp_path)
  run(config.source, tmp_path, shard_frames=1)
  batches = train_batches(config, seed=5, domains=("source",))
  open_now = len(os.listdir("/proc/self/fd"))
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (open_now, limits[1]))
  try:
    with pytest.raises(UserError, match=r"array_record.*Too many open files.*ulimit -n"):
      next(batches)
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("harm", ["damaged", "cut", "gone"])
def test_a_lost_or_damaged_record_file_is_named(config, tmp_path, harm):
  config.records_dir = str(tmp_path)
  builder = run(config.source, tmp_path, shard_frames=2)
  path = Path(builder.info.splits["train"].filepaths[1])
  batches = train_batches(config, seed=5, domains=("source",))
  if harm == "gone":
    path.unlink()
  else:
    contents = np.frombuffer(path.read_bytes(), np.uint8).copy()
    contents[64 : len(contents) // 2] ^= 85
    path.write_bytes(contents[: len(contents) // 2 if harm == "cut" else None].tobytes())
  with pytest.raises(UserError, match=rf"{path}.*prepare the data set again") as error:
    list(itertools.islice(batches, 10))
  assert "\n" not in str(error.value)
  if harm == "gone":
    with pytest.raises(UserError, match=rf"{path}.*missing"):
      train_dataset(config, seed=5, domains=("source",))


EXITS = {
  "live iterator": "iterator = iter(dataset); next(iterator)",
  "errors ignored": "iterator = iter(dataset.ignore_errors().prefetch(2)); next(iterator)",
  "error": "iterator = as_numpy(dataset); next(iterator); raise SystemExit(3)",
  "interrupt": "print('on', flush=True)\nfor _ in as_numpy(dataset): pass",
}


@pytest.mark.parametrize("how", EXITS)
def test_the_program_ends_in_the_middle_of_an_epoch(config, how):
  """Threads of TensorFlow that call Python must not keep the interpreter from ending."""
  script = (
    "import json, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # tests may run without
    "from ml_collections import ConfigDict\n"
    "from data_pipelines.input_pipeline import as_numpy, train_dataset\n"
    "config = ConfigDict(json.loads(sys.argv[1]))\n"
    f"dataset = train_dataset(config, seed=0)\n{EXITS[how]}\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", script, config.to_json()],
    cwd=Path(__file__).parents[2],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  if how == "interrupt":
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
  try:
    _, errors = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == {"error": 3, "interrupt": -signal.SIGINT}.get(how, 0)
  assert how == "interrupt" or not errors


def test_views_and_true_depth_of_the_street_world(tmp_path):
  """What a depth network is trained on and scored by, in both splits."""
  height, width = 72, 144
  root = street_world.write_cityscapes(
    tmp_path / "world", train_frames=2, validation_frames=2, seed=5, height=height, width=width,
    processes=1, progress=False,
  )  # fmt: skip
  target = dataset_config("cityscapes", root, "official", height, width, views=VIEWS)
  config = data_config(None, target, tmp_path / "records", crop=(height, width))
  run_both(target, config.records_dir)
  contents = ("image", "inverse_depth", "views")
  for split in ("train", "validation"):
    (batch,) = evaluation_batches(config, split=split, contents=contents)
    known = batch["inverse_depth"] > 1
    assert known.mean() > 0.5
    # The right image, moved by the disparity that the true depth gives, shows what the left does.
    metres = to_metres(batch["inverse_depth"])
    shift = (batch["intrinsics"][:, 0] * batch["baseline"])[:, None, None] / metres
    column = np.arange(width) - shift
    known &= (column >= 0) & (shift > 0.5)
    column = np.clip(column.round().astype(int), 0, width - 1)
    moved = np.take_along_axis(batch["right_image"], column[..., None], 2)
    left, right = batch["image"].astype(float), batch["right_image"].astype(float)
    error = np.abs(moved - left)[known].mean()
    assert error < 0.6 * np.abs(right - left)[known].mean()
    for view in ("previous", "next"):
      assert (batch[f"{view}_image"] != batch["image"]).any()
