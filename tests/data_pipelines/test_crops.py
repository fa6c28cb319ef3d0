"""Where training cuts its crops: the share of the largest class, mirroring, borders."""

import itertools

import numpy as np
import pytest
from tiny_trees import (
  assert_equal,
  data_config,
  dataset_config,
  examples,
  joined,
  run,
  take,
  write_cityscapes,
  write_gta5,
)

from corda_jax.errors import UserError
from data_pipelines.crops import Crops, Cut, is_varied
from data_pipelines.input_pipeline import train_dataset
from data_pipelines.random_words import random_below, random_words

FRAME, CROP = (16, 24), (9, 14)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A configuration with prepared records, and the frames of each domain by name."""
  folder = tmp_path_factory.mktemp("crops")
  config = data_config(
    dataset_config("gta5", write_gta5(folder / "gta", 5), "disparity", *FRAME),
    dataset_config("cityscapes", write_cityscapes(folder / "cs", 4, 1), "mono", *FRAME),
    folder / "records",
    CROP,
  )
  builders = {domain: run(config[domain], config.records_dir) for domain in ("source", "target")}
  return config, {
    domain: {frame["name"].decode(): frame for frame in examples(builder)}
    for domain, builder in builders.items()
  }


@pytest.fixture
def config(prepared):
  return prepared[0].copy_and_resolve_references()


def labels_of(batches):
  return np.concatenate([batch["source_label"] for batch in batches])


def largest_shares(labels):
  return np.array([np.bincount(label.ravel()).max() / label.size for label in labels])


@pytest.mark.parametrize(
  ("label", "share", "expected"),
  [
    ([0, 0, 0, 1], 0.75, False),  # not less than the share
    ([0, 0, 0, 1], 0.76, True),
    ([0, 0, 1, 255], 0.7, True),  # two thirds of what is labelled
    ([0, 0, 1, 255], 0.6, False),
    ([0, 255, 255, 255], 1.0, False),  # one class alone
    ([3, 3, 3, 3], 1.0, False),
    ([255, 255, 255, 255], 1.0, False),
    ([254, 254, 0, 0], 0.75, True),
  ],
)
def test_varied_labels(label, share, expected):
  assert is_varied(np.array(label, np.uint8).reshape(2, 2), share) == expected


@pytest.mark.parametrize("tries", [0, 1, 10])
def test_after_the_tries_the_next_window_is_taken_unseen(tries):
  seen = []

  def read_label(window):
    seen.append(window)
    return np.zeros(CROP, np.uint8)

  window = Crops(FRAME, CROP, 0.75, tries).sample(random_words((5, 0), 3), read_label)
  assert len(seen) == tries
  words = random_words((5, 0), 3)
  every = [[random_below(words, n) for n in (8, 11)] for _ in range(tries + 1)]
  assert [[*w] for w in (*seen, window)] == [[*corner, *CROP] for corner in every]


def test_the_first_varied_window_is_taken():
  labels = iter([np.zeros(CROP, np.uint8)] * 2 + [np.arange(126, dtype=np.uint8).reshape(CROP)])
  seen = []
  read_label = lambda window: seen.append(window) or next(labels)  # noqa: E731
  assert Crops(FRAME, CROP, 0.75).sample(random_words((5, 0), 3), read_label) == seen[2]


def test_any_window_will_do_where_the_share_is_one():
  top, left, *size = Crops(FRAME, CROP).sample(random_words((5, 0), 3), read_label=None)
  assert tuple(size) == CROP  # no label is read
  assert 0 <= top <= FRAME[0] - CROP[0]
  assert 0 <= left <= FRAME[1] - CROP[1]


def test_crops_of_the_source_show_several_classes(config):
  before = largest_shares(labels_of(take(config, 30)))
  config.source.max_class_share, config.source.crop_tries = 0.09, 200
  assert (largest_shares(labels_of(take(config, 30))) < 0.09).all()
  assert (before >= 0.09).mean() > 0.3  # the rule has something to do
  config.source.crop_tries = 0
  np.testing.assert_array_equal(largest_shares(labels_of(take(config, 30))), before)


def test_a_border_says_where_in_its_frame_a_crop_is(prepared, config):
  config.source.flip = config.target.flip = True
  mirrored = {"source": [], "target": []}
  for batch, domain in itertools.product(take(config, 25), mirrored):
    for index, name in enumerate(batch[f"{domain}_name"]):
      above, below, left, right = border = batch[f"{domain}_border"][index]
      assert border.min() >= 0
      for key in ("image", "label", "inverse_depth"):
        crop = batch[f"{domain}_{key}"][index]
        frame = np.reshape(prepared[1][domain][name][key], (*FRAME, *crop.shape[2:]))
        found = [
          np.array_equal(crop, whole[above : FRAME[0] - below, left : FRAME[1] - right])
          for whole in (frame, frame[:, ::-1])
        ]
        assert sum(found) == 1
        mirrored[domain].append(found[1])
  for domain in mirrored:
    kinds = np.reshape(mirrored[domain], (-1, 3))
    assert (kinds == kinds[:, :1]).all()  # image, label and inverse depth alike
    assert 30 <= kinds[:, 0].sum() <= 70  # of 100: four standard deviations
  assert mirrored["source"] != mirrored["target"]


def test_mirroring_changes_neither_order_nor_windows(config):
  plain = take(config, 5)
  config.source.flip = True
  for before, after in zip(plain, take(config, 5), strict=True):
    for key in before:
      if key.startswith("target") or key == "source_name":
        np.testing.assert_array_equal(before[key], after[key])
    for a, b in zip(before["source_image"], after["source_image"], strict=True):
      assert np.array_equal(a, b) or np.array_equal(a[:, ::-1], b)


def test_a_border_swaps_left_and_right_of_a_mirrored_crop():
  window = (1, 2, 5, 6)
  assert Cut(window).border((10, 20)).tolist() == [1, 4, 2, 12]
  assert Cut(window, mirrored=True).border((10, 20)).tolist() == [1, 4, 12, 2]


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_batches_and_resuming_goes_on(config, count):
  config.source.max_class_share = 0.09
  config.source.flip = config.target.flip = True
  whole = take(config, 6)
  parts = [
    take(config, 4, start_step=2, process_index=i, process_count=count) for i in range(count)
  ]
  assert_equal(whole[2:], joined(parts))
  assert (take(config, 6, seed=6)[0]["source_border"] != whole[0]["source_border"]).any()


def test_words_of_samples_do_not_overlap():
  first = [[*itertools.islice(random_words((5, 1), sample), 50)] for sample in range(40)]
  assert len({word for words in first for word in words}) == 40 * 50
  assert first[3] == [*itertools.islice(random_words((5, 1), 3), 50)]
  for key in ((5, 0), (6, 1)):
    assert not set(first[3]) & {*itertools.islice(random_words(key, 3), 50)}
  next(random_words((0, 1), 2**63 - 1))


def test_random_numbers_are_equally_likely():
  words = random_words((0, 0), 0)
  found = np.bincount([random_below(words, 7) for _ in range(7000)], minlength=7)
  assert len(found) == 7
  assert abs(found - 1000).max() < 4 * np.sqrt(1000 * 6 / 7)


@pytest.mark.parametrize(
  ("domain", "changes", "message"),
  [
    ("target", {"flip": True, "views": ("right",)}, r"data\.target\.flip.*True.*views.*right"),
    ("source", {"max_class_share": 1.5}, r"data\.source\.max_class_share.*1\.5.*0.*1"),
    ("source", {"crop_tries": -1}, r"data\.source\.crop_tries.*-1.*0"),
    ("target", {"max_class_share": 0.75}, r"data\.target\.max_class_share.*source"),
    ("source", {"resampling": "best"}, r"data\.source\.resampling.*best.*pillow.*opencv"),
  ],
)
def test_invalid_settings(config, domain, changes, message):
  config[domain].update(changes)
  with pytest.raises(UserError, match=message):
    train_dataset(config, seed=0)
