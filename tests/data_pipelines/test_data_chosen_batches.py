"""Batches of some domains, splits, contents and frames."""

import itertools

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_trees import (
  BAD_RECORDS,
  dataset_config,
  examples,
  pixels,
  run,
  save,
  write_cityscapes,
  write_cityscapes_more,
  write_gta5,
  write_train_extra,
)

from corda_jax.errors import UserError
from data_pipelines.batches import evaluation_batches, train_batches
from data_pipelines.decoding import decode_frames

VIEWS = ("right", "previous", "next")
TRAIN, EXTRA, VALIDATION = 5, 3, 7  # frames


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A configuration, and its prepared builders by domain."""
  folder = tmp_path_factory.mktemp("chosen")
  write_gta5(folder / "gta5", 3)
  root = write_train_extra(write_cityscapes(folder / "cityscapes", TRAIN, VALIDATION), EXTRA)
  write_cityscapes_more(root, ("train", "train_extra", "val"))
  more = {"views": VIEWS, "splits": ("train", "train_extra")}
  config = ConfigDict(
    {
      "records_dir": str(folder / "records"),
      "classes": {"names": (), "colors": ()},
      "cache_dir": "",
      "source": dataset_config("gta5", folder / "gta5", "disparity"),
      "target": dataset_config("cityscapes", root, "official", **more),
      "crop_height": 9,
      "crop_width": 14,
      "batch_size": 4,
      "evaluation_batch_size": 2,
      "reader_threads": 0,
      "bad_records": BAD_RECORDS,
    }
  )
  return config, {
    domain: run(config[domain], config.records_dir) for domain in ("source", "target")
  }


@pytest.fixture
def config(prepared):
  return prepared[0].copy_and_resolve_references()


def take(config, **options):
  return list(itertools.islice(train_batches(config, seed=5, **options), 5))


def names(batches):
  return [
    name for batch in batches for name, valid in zip(batch["name"], batch["valid"], strict=True)
    if valid
  ]  # fmt: skip


@pytest.mark.parametrize("domain", ["source", "target"])
def test_one_domain_gives_what_it_gives_beside_the_other(config, domain):
  both = take(config)
  other = {"source": "target", "target": "source"}[domain]
  config[other].root = config[other].dataset = "nothing"  # not opened
  alone = take(config, domains=(domain,))
  for one, two in zip(alone, both, strict=True):
    assert set(one) == {key for key in two if key.startswith(domain)}
    for key in one:
      np.testing.assert_array_equal(one[key], two[key])


def test_contents(prepared, config):
  keys = {
    "image": {"image"},
    "label": {"label"},
    "inverse_depth": {"inverse_depth"},
    "views": {*(f"{view}_image" for view in VIEWS), "intrinsics", "baseline"},
  }
  frames = examples(prepared[1]["target"], "validation")
  assert len({frame["inverse_depth"].tobytes() for frame in frames}) == VALIDATION
  for count in range(5):
    for contents in itertools.combinations(keys, count):
      batches = list(evaluation_batches(config, contents=contents))
      assert names(batches) == [frame["name"].decode() for frame in frames]
      wanted = set().union(*(keys[content] for content in contents))
      for number, frame in enumerate(frames):
        batch = batches[number // 2]
        assert set(batch) == wanted | {"name", "valid"}
        for key in wanted:
          value, expected = batch[key][number % 2], np.asarray(frame[key])
          assert value.dtype == (np.float32 if key == "baseline" else expected.dtype)
          np.testing.assert_array_equal(value, expected.reshape(value.shape))


@pytest.mark.parametrize(
  ("domain", "split", "shape"),
  [
    ("target", "train", (2, 16, 24)),
    ("target", "train_extra", (2, 16, 24)),
    ("target", "validation", (2, 18, 31)),
    ("source", "train", (2, 16, 24)),
  ],
)
def test_any_split_of_any_domain(prepared, config, domain, split, shape):
  batches = list(evaluation_batches(config, domain=domain, split=split))
  frames = examples(prepared[1][domain], split)
  assert names(batches) == [frame["name"].decode() for frame in frames]
  np.testing.assert_array_equal(batches[0]["image"][1], frames[1]["image"])
  assert batches[0]["label"].shape == shape


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("limit", [None, 5, 100])
def test_wanted_frames_fill_the_batches(prepared, config, count, limit):
  frames = [frame["name"].decode() for frame in examples(prepared[1]["target"], "validation")]
  chosen = {frames[i] for i in (0, 3, 4, 6)}
  parts = []
  for index in range(count):
    asked = []
    batches = evaluation_batches(
      config,
      wanted=lambda name, asked=asked: asked.append(name) or name in chosen,
      limit=limit,
      process_index=index,
      process_count=count,
    )
    assert asked == frames[:limit]  # before the first batch is taken
    parts.append(list(batches))
  wanted = [name for name in frames[:limit] if name in chosen]
  assert {len(part) for part in parts} == {2}  # of two frames each, over all processes
  together = [batch for step in zip(*parts, strict=True) for batch in step]
  assert names(together) == wanted
  assert sum(len(batch["name"]) for batch in together) == 4
  images = {f["name"].decode(): f["image"] for f in examples(prepared[1]["target"], "validation")}
  for batch in together:
    for name, image in zip(batch["name"], batch["image"], strict=True):
      np.testing.assert_array_equal(image, images[name])


def test_unwanted_frames_are_not_decoded(config, monkeypatch):
  decoded = []

  def watched(parsed, contents, **options):
    decoded.append(len(parsed))
    return decode_frames(parsed, contents, **options)

  monkeypatch.setattr("data_pipelines.batches.decode_frames", watched)
  assert list(evaluation_batches(config, wanted=lambda name: False)) == []
  assert decoded == []
  assert len(list(evaluation_batches(config, wanted=lambda name: name.startswith("aachen")))) == 2
  assert decoded == [2, 2]  # four of seven


def test_labels_that_are_not_asked_for_may_differ_in_size(config, tmp_path):
  root = write_cityscapes(tmp_path / "files", 1, 2)
  stem = "bonn/bonn_000001_000019"
  save(root / f"leftImg8bit/val/{stem}_leftImg8bit.png", pixels(1, 20, 31).rgb)
  save(root / f"gtFine/val/{stem}_gtFine_labelIds.png", pixels(1, 20, 31).train_ids)
  config.target = dataset_config("cityscapes", root, "none")
  config.records_dir = str(tmp_path / "records")
  run(config.target, config.records_dir)
  (batch,) = evaluation_batches(config, contents=("image",))
  assert batch["valid"].all()


def test_mistakes(config):
  with pytest.raises(ValueError, match=r"domains\b.*sauce.*source.*target"):
    train_batches(config, seed=0, domains=("sauce",))
  with pytest.raises(ValueError, match=r"domain\b.*sauce.*source.*target"):
    evaluation_batches(config, domain="sauce")
  told = r"contents.*right_image.*image.*label.*inverse_depth.*views"
  with pytest.raises(ValueError, match=told):
    evaluation_batches(config, contents=("image", "right_image"))
  with pytest.raises(UserError, match=r"gta5.*data\.source\.views"):
    evaluation_batches(config, domain="source", split="train", contents=("views",))
