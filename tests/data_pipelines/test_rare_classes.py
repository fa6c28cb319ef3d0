"""Rare class sampling: probabilities, frames, crops, and that batches depend on seed and step."""

import json

import numpy as np
import pytest
import scipy.special
from tiny_trees import (
  assert_equal,
  data_config,
  dataset_config,
  examples,
  joined,
  run,
  save,
  take,
  write_cityscapes,
  write_gta5,
  write_train_extra,
)

from corda_jax import labels
from corda_jax.errors import UserError
from data_pipelines.input_pipeline import train_dataset
from data_pipelines.random_words import random_words
from data_pipelines.rare_classes import RareClassSampler, class_probabilities
from data_pipelines.settings import RareClasses
from tests.golden import files

ROAD, CAR, RIDER, BICYCLE = 0, 13, 12, 18
MIN_PIXELS = 60  # of 558 in a file


def write_frames(root):
  """Six frames of road, with rectangles of one or two other classes in them."""
  write_gta5(root, 6)
  parts = [
    {CAR: (9, 15)},
    {CAR: (9, 20), RIDER: (6, 11)},
    {BICYCLE: (8, 12)},
    {},
    {RIDER: (6, 10), BICYCLE: (8, 9)},  # of the rider just as many as `MIN_PIXELS`
    {CAR: (10, 10), BICYCLE: (7, 9)},
  ]
  pixels = np.zeros((6, 19), int)
  for number, rectangles in enumerate(parts):
    ids = np.full((18, 31), ROAD, np.uint8)
    ids[:, 30] = labels.IGNORE
    for side, (name, (height, width)) in enumerate(rectangles.items()):
      left = 1 if side == 0 else 30 - width
      ids[2 : 2 + height, left : left + width] = name
    pixels[number] = np.bincount(ids.ravel(), minlength=256)[:19]
    files_ids = np.where(ids == labels.IGNORE, 0, labels.TRAIN_TO_CITYSCAPES[ids % 19])
    save(root / f"labels/{number:05d}.png", files_ids.astype(np.uint8))
  return root, pixels


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A configuration with prepared records, pixels of the labels' files, labels of the records."""
  folder = tmp_path_factory.mktemp("rare")
  root, pixels = write_frames(folder / "gta")
  config = data_config(
    dataset_config("gta5", root, "disparity"),
    dataset_config("cityscapes", write_cityscapes(folder / "cs", 4, 1), "mono"),
    folder / "records",
  )
  config.source.rare_classes.update(
    enabled=True, temperature=0.2, min_pixels=MIN_PIXELS, min_crop_ratio=0.5
  )
  source = run(config.source, config.records_dir, shard_frames=4)
  run(config.target, config.records_dir)
  assert source.report.label_pixels["train"] == pixels.tolist()
  return config, pixels, [frame["label"][..., 0] for frame in examples(source)]


@pytest.fixture
def config(prepared):
  return prepared[0].copy_and_resolve_references()


@pytest.mark.parametrize("path", files("daformer/functions"), ids=lambda path: path.stem)
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_probabilities_are_those_of_the_release(path, temperature):
  with np.load(path) as values:
    statistics = json.loads(str(values["rare_classes/statistics"]))
    classes = values["rare_classes/classes"]
    expected = values[f"rare_classes/probability_{temperature}"]
  pixels = [[frame.get(str(number), 0) for number in range(19)] for frame in statistics]
  found = class_probabilities(pixels, temperature=temperature)
  np.testing.assert_allclose(found[classes], expected, rtol=1e-5)


def test_classes_that_do_not_occur_or_have_no_frame_are_left_out():
  pixels = np.array([[500, 20, 0, 9], [300, 0, 0, 9], [0, 31, 0, 9]])
  share = pixels.sum(0) / pixels.sum()
  for least, kept in ((0, [0, 1, 3]), (9, [0, 1]), (30, [0, 1]), (31, [0])):
    found = class_probabilities(pixels, temperature=0.3, min_pixels=least)
    expected = np.zeros(4)
    expected[kept] = scipy.special.softmax((1 - share[kept]) / 0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
  cold = class_probabilities(pixels, temperature=1e-9)
  np.testing.assert_array_equal(cold, [0, 0, 0, 1])


def test_classes_and_frames_are_sampled_by_their_probability():
  pixels = np.random.RandomState(0).randint(0, 100, (30, 6))
  pixels[:, 2], pixels[:, 4] = 0, np.minimum(pixels[:, 4], 40)  # without a frame
  sampler = RareClassSampler(RareClasses(temperature=0.1, min_pixels=40), pixels)
  count = 20_000
  sampled = [sampler.frame(random_words((5, 0), g)) for g in range(count)]
  found = np.zeros(pixels.shape)
  np.add.at(found.T, tuple(np.transpose(sampled)), 1)
  shows = pixels > 40
  probability = class_probabilities(pixels, temperature=0.1, min_pixels=40)
  assert (probability > 0).tolist() == [True, True, False, True, False, True]
  expected = probability * shows / np.maximum(shows.sum(0), 1)
  for axis in (None, 0):  # of each frame and class; of each class
    of, p = (found, expected) if axis is None else (found.sum(axis), expected.sum(axis))
    assert (abs(of - count * p) <= 4.5 * np.sqrt(count * p * (1 - p))).all()


def crop(sampler, labels_seen, sampled=3):
  """The number of windows that were sampled, and which one was taken."""
  windows = iter(range(100))
  taken = sampler.crop(sampled, lambda: next(windows), lambda window: labels_seen[window])
  return next(windows), taken


def test_a_crop_that_shows_too_little_of_the_class_is_sampled_again():
  def label(count):
    return np.where(np.arange(36).reshape(4, 9) < count, 3, 0).astype(np.uint8)

  for tries, expected in ((10, (3, 2)), (3, (3, 2)), (2, (3, 2)), (1, (2, 1)), (0, (1, 0))):
    settings = RareClasses(min_pixels=20, min_crop_ratio=0.5, tries=tries)
    sampler = RareClassSampler(settings, [[0, 0, 0, 30]])
    assert crop(sampler, [label(10), label(0), label(11), label(30)]) == expected
  settings = RareClasses(min_pixels=20, min_crop_ratio=0.5, tries=10)
  sampler = RareClassSampler(settings, [[0, 0, 0, 30]])
  assert crop(sampler, [label(10)] * 12) == (11, 10)  # the last one is kept


def sampled_frames(config, steps):
  return np.array([int(name) for batch in take(config, steps) for name in batch["source_name"]])


def test_frames_of_batches(prepared, config):
  count = 2000
  frames = sampled_frames(config, count // config.batch_size)
  shows = prepared[1] > MIN_PIXELS
  assert (shows.sum(0)[[ROAD, CAR, RIDER, BICYCLE]]).tolist() == [6, 3, 1, 3]
  p = class_probabilities(prepared[1], temperature=0.2, min_pixels=MIN_PIXELS)
  p = (p / np.maximum(shows.sum(0), 1) * shows).sum(1)
  found = np.bincount(frames, minlength=6)
  assert (abs(found - count * p) <= 4 * np.sqrt(count * p * (1 - p))).all()
  assert abs(found - count / 6).max() > 8 * np.sqrt(count / 6)  # far from uniform
  config.source.rare_classes.enabled = False
  assert np.bincount(sampled_frames(config, 15)).tolist() == [10] * 6


def test_crops_of_batches_show_the_class(config):
  # Of the road every crop shows enough, and of the others those of the only class of a frame.
  config.source.rare_classes.temperature = 1e-3  # the rider, in frame 1 alone
  needed = MIN_PIXELS * config.source.rare_classes.min_crop_ratio
  enough = {}
  for tries in (0, 100):
    config.source.rare_classes.tries = tries
    batches = take(config, 40)
    assert {name for batch in batches for name in batch["source_name"]} == {"00001"}
    shown = [(label == RIDER).sum() for batch in batches for label in batch["source_label"]]
    enough[tries] = np.mean(np.array(shown) > needed)
  assert enough[100] == 1
  assert 0.1 < enough[0] < 0.8


def test_each_crop_obeys_the_share_of_the_largest_class(config):
  config.source.rare_classes.tries = config.source.crop_tries = 300
  config.source.rare_classes.temperature = 1e-3

  def crops():
    every = np.concatenate([batch["source_label"] for batch in take(config, 20)])
    pixels = np.array([np.bincount(label.ravel(), minlength=256)[:255] for label in every])
    assert (pixels[:, RIDER] > MIN_PIXELS / 2).all()
    return pixels.max(1) / pixels.sum(1)

  assert np.mean(crops() >= 0.4) > 0.3
  config.source.max_class_share = 0.4
  assert crops().max() < 0.4


def test_the_crop_decodes_everything_once(config, monkeypatch):
  from data_pipelines import records

  reads = []
  unpack = records.unpack
  monkeypatch.setattr(
    records, "unpack", lambda packed, window: reads.append(1) or unpack(packed, window)
  )
  config.source.rare_classes.tries, config.source.rare_classes.min_crop_ratio = 4, 100.0
  config.reader_threads, config.batch_size = 1, 1
  batches = train_dataset(config, seed=5, domains=("source",)).as_numpy_iterator()
  next(batches)
  samples = len(reads) // (4 + 3)  # labels of four windows, then image, label and inverse depth
  assert len(reads) <= (samples + 1) * 7
  assert samples <= 8  # those made ahead


@pytest.mark.parametrize("count", [1, 2, 4])
def test_batches_depend_on_the_seed_and_the_step_alone(config, count):
  config.source.flip, config.source.max_class_share = True, 0.75
  whole = take(config, 8)
  config.reader_threads = 1 + count
  for start in (0, 3):
    parts = [
      take(config, 8 - start, start_step=start, process_index=i, process_count=count)
      for i in range(count)
    ]
    assert_equal(whole[start:], joined(parts))
  other = take(config, 8, seed=6)
  assert any(
    (a["source_name"] != b["source_name"]).any() for a, b in zip(whole, other, strict=True)
  )


def test_frames_of_several_splits(config, tmp_path):
  root = write_train_extra(write_cityscapes(tmp_path / "cs", 4, 1), 5)
  rare = config.source.rare_classes
  config.source = dataset_config("cityscapes", root, "none", splits=("train_extra", "train"))
  config.source.rare_classes.update(rare, min_pixels=20)
  builder = run(config.source, config.records_dir)
  found = {name for batch in take(config, 30) for name in batch["source_name"]}
  assert found == set(builder.report.names["train"])  # those with labels


def test_the_target_is_as_without(config):
  with_rare = take(config, 3)
  config.source.rare_classes.enabled = False
  for a, b in zip(with_rare, take(config, 3), strict=True):
    for key in a:
      if key.startswith("target"):
        np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize(
  ("domain", "changes", "message"),
  [
    ("source", {"min_pixels": 600}, r"data\.source.*rare_classes\.min_pixels.*600.*\b540\b"),
    ("source", {"temperature": 0.0}, r"data\.source\.rare_classes\.temperature.*0\.0.*0"),
    ("source", {"min_pixels": -1}, r"data\.source\.rare_classes\.min_pixels.*-1.*0"),
    ("source", {"tries": -1}, r"data\.source\.rare_classes\.tries.*-1.*0"),
    ("source", {"min_crop_ratio": -0.5}, r"data\.source\.rare_classes\.min_crop_ratio.*-0\.5"),
    ("target", {"enabled": True}, r"data\.target\.rare_classes\.enabled.*source"),
  ],
)
def test_mistakes(config, domain, changes, message):
  config[domain].rare_classes.update(changes)
  with pytest.raises(UserError, match=message):
    train_dataset(config, seed=0)
