"""Measures of doubt in pseudo-labels: what they are, and how well they rank wrong pixels."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks.ablation import doubts, inspection, pseudo_labels
from corda_jax.depth.inverse_depth import NO_DEPTH, from_metres
from corda_jax.errors import UserError
from corda_jax.labels import IGNORE
from tests.benchmark_commands import numbers, table_rows

CAMERA = np.float32([[10, 10, 2, 1]])  # of images of a few pixels


def test_the_area_under_the_curve():
  doubt = np.array([0.9, 0.8, 0.5, 0.5, 0.1])
  wrong = np.array([True, False, True, False, False])
  # Of six pairs the first wins three; the second wins one, shares one, loses one.
  assert doubts.auroc(doubt, wrong) == pytest.approx((3 + 1.5) / 6)
  assert doubts.auroc(-doubt, wrong) == pytest.approx(1 - 4.5 / 6)
  assert np.isnan(doubts.auroc(doubt, wrong & False))


def test_what_a_measure_adds_to_confidence(random):
  runs = 3, 20_000
  confidence, informative, noise = random.uniform(size=(3, *runs))
  wrong = random.uniform(size=runs) < 0.6 * confidence * (np.abs(informative - 0.5) < 0.2)
  alone = [doubts.auroc(*each) for each in zip(confidence, wrong, strict=True)]
  np.testing.assert_allclose(doubts.auroc_together([confidence], wrong), alone, atol=0.01)
  # A measure need not be monotonic: wrong are those of the middle.
  with_informative = doubts.auroc_together([confidence, informative], wrong)
  np.testing.assert_array_less(np.add(alone, 0.15), with_informative)
  with_noise = doubts.auroc_together([confidence, noise], wrong)
  np.testing.assert_allclose(with_noise, alone, atol=0.04)
  # Nothing of a run itself is learned from.
  of_random = random.uniform(size=runs[1]) < 0.3
  mixed = doubts.auroc_together([confidence, informative], [*wrong[:2], of_random])
  assert mixed[2] == pytest.approx(0.5, abs=0.03)


def test_what_is_known_of_each_class_is_not_the_merit_of_a_measure(random):
  """Of 19 classes, some are wrong more often; a measure that only says which one adds nothing."""
  runs = 2, 50_000
  label = np.int64(19 * random.uniform(size=runs) ** 2)  # those that are right are frequent
  rate = np.linspace(0, 0.6, 19)
  wrong = random.uniform(size=runs) < rate[label]
  confidence = random.uniform(size=runs)
  rarity = random.permutation(19)[label] / 19
  by_class = doubts.auroc_together([confidence, label], wrong)
  best = [doubts.auroc(rate[of], on) for of, on in zip(label, wrong, strict=True)]
  np.testing.assert_allclose(by_class, best, atol=0.02)  # each class has its own bin
  with_rarity = doubts.auroc_together([confidence, label, rarity], wrong)
  np.testing.assert_allclose(with_rarity, by_class, atol=0.005)


def scene(stretch):
  """Road; 2.5 m above it class 1 at 10 m and class 2 at 80 m; class 1 without depth; a camera."""
  rows = 8 * stretch + 1
  label, metres = np.full((1, rows, 3), 1), np.full((1, rows, 3), 10.0)
  label[0, 7 * stretch, 1], metres[0, 7 * stretch, 1] = 2, 80
  label[0, -1], depth = 0, from_metres(metres)
  depth[0, 0, 2] = NO_DEPTH
  shown = np.zeros(label.shape, bool)
  shown[0, [0, 7 * stretch, -1], [0, 1, 0]] = shown[0, 0, 2] = True
  return label, depth, shown, np.float32([[9, 32 * stretch, 1, rows - 1]])


def test_a_class_is_doubted_where_the_source_has_others():
  label, depth, shown, camera = scene(1)
  source = {"source_label": np.where(shown, label, IGNORE), "source_inverse_depth": depth}
  places = doubts.Places([source | {"source_intrinsics": camera}] * 20, 3)
  for stretch in (1, 2):  # a camera of twice the focal length sees the same
    label, depth, shown, camera = scene(stretch)
    near, far, without, road = places.doubt(label, depth, camera)[shown][[0, 2, 1, 3]]
    assert max(near, far, road) < 0.05
    assert without == pytest.approx(2 / 3)  # nothing is known of it
    wrong = np.where(label == 0, 0, 3 - label)
    near, far = places.doubt(wrong, depth, camera)[shown][[0, 2]]
    assert min(near, far) > 0.95
  # A camera that is higher above the road: what counts is the height above the road.
  higher = camera - [0, 0, 0, 16]
  near, road = places.doubt(label, depth, higher)[shown][[0, 3]]
  assert max(near, road) < 0.05


def test_pixels_of_the_target_that_are_known_are_judged(tmp_path, monkeypatch):
  maps = {
    "mask": np.array([[[True, False, False, False, False]]]),
    "pseudo_label": np.array([[[1, 1, 2, 3, 4]]], np.uint8),
    "confidence": np.float32([[[0.9, 0.75, 0.5, 0.9, 0.9]]]),
    "pixel_weight": np.float32([[[1, 0.2, 0.3, 0.4, 0.5]]]),
    "inverse_depth": np.float32([[[9, 10, 20, 9, 9]]]),
    "source_inverse_depth": np.float32([[[9, 12, 80, 9, 9]]]),
    "teacher_inverse_depth": np.float32([[[9, 10, 50, 9, 9]]]),
    "teacher_source_inverse_depth": np.float32([[[9, 20, 60, 9, 9]]]),
  }
  depth = np.float32([[[9, 8, 40, 9, 1]]])  # one without depth
  # Another image, of which nothing counts, has medians of its own.
  maps = {name: np.concatenate([value, value]) for name, value in maps.items()}
  maps["mask"][1] = True
  maps["teacher_source_inverse_depth"][1] *= 5
  batch = {
    "target_image": np.zeros((1, 1, 5, 3), np.uint8),
    "target_label": np.array([[[1, 1, 7, 255, 4]]], np.uint8),  # one of the source, one without
    "target_inverse_depth": depth,
    "target_intrinsics": CAMERA,
    "source_label": np.array([[[1, 1, 1, 1, 2]]], np.uint8),
    "source_inverse_depth": depth,
    "source_intrinsics": CAMERA * [1, 1, 1, 3],  # so that it has nothing where the target has
  }
  batch = {name: np.concatenate([value, value]) for name, value in batch.items()}
  run = SimpleNamespace(
    has_depth_heads=True,
    classes=range(9),
    step=SimpleNamespace(adapts=True),
    make_maps=lambda: lambda state, inputs, key: maps,
  )
  task = SimpleNamespace(from_config=lambda config: run)
  monkeypatch.setattr(pseudo_labels, "config_of_run", lambda folder: None)
  monkeypatch.setattr(pseudo_labels, "AdaptationTask", task)
  monkeypatch.setattr(pseudo_labels, "restore_state", lambda *_: SimpleNamespace(step=3))
  monkeypatch.setattr(pseudo_labels, "later_batches", lambda *_: [(batch, None, None)])
  monkeypatch.setattr(jax, "jit", lambda function: function)
  (seen,) = pseudo_labels.look(tmp_path, 1)
  assert seen.wrong()[seen.counts].tolist() == [False, True]
  expected = (
    [0.25, 0.5],
    [-0.2, -0.3],
    [0.25, 1.5],
    [1.25, 0.25],
    [np.log(2), np.log(1.2)],
    [np.log(2) - np.log(1.2) / 2, np.log(1.2) / 2],  # of 0, 0, log 1.2, log 2 where depth is known
    [np.log(2) / 2, 0],  # of 0 and log 2, of log 1.2 alone
    [np.log(40 / 8), np.log(40 / 8)],
    [1, 2],
    [8 / 9, 8 / 9],
    [1.5, 0.5],
    [0.25, 0.25],
    [1 - 0.75 * 0.75, 1],
  )
  for name, values in zip(doubts.MEASURES, expected, strict=True):
    np.testing.assert_allclose(seen.doubts[name][seen.counts], values, rtol=1e-6, err_msg=name)


def test_the_table_of_measures(random):
  wrong = random.uniform(size=(2, 9_000)) < 0.3
  of_runs = [{measure: random.uniform(size=9_000) for measure in doubts.MEASURES} for _ in wrong]
  for of, on in zip(of_runs, wrong, strict=True):
    of["discrepancy, student"] = on.astype(float)
    of[doubts.CLASS] = random.randint(0, 3, len(on))
  rows = table_rows(pseudo_labels.auroc_table(of_runs, wrong))
  assert numbers(rows["discrepancy, student"]) == [1.0, 1.0, pytest.approx(1, abs=0.002)]
  confidence, by_class = (rows[name] for name in (doubts.CONFIDENCE, doubts.CLASS))
  assert by_class[1:] == [confidence[2]] * 2  # with confidence and class, either way
  assert not any(cell.strip() for cell in only_one(of_runs, wrong)[1:])


def only_one(of_runs, wrong):
  return table_rows(pseudo_labels.auroc_table(of_runs[:1], wrong[:1]))[doubts.CONFIDENCE]


def test_the_table_by_class():
  label, wrong = np.array([2, 0, 2, 2]), np.array([True, False, False, False])
  errors = np.array([0.1, 0.4, 0.3, 0.9]), np.array([0.2, 0.0, 0.0, 0.0])
  lines = pseudo_labels.class_table(["road", "car", "sky"], label, wrong, *errors).splitlines()
  sky = "| sky | 75.0% | 33.3% | 30.0% | 0.0% |"
  assert lines[2:] == ["| road | 25.0% | 0.0% | 40.0% | 0.0% |", sky]


def test_a_run_is_inspected_with_its_own_depth(tmp_path):
  predict = SimpleNamespace(run=tmp_path / "depth", digest="ab12")
  of_true, of_predicted = (tmp_path / f"gta5_DACS_{name}0" for name in ("", "predicted_ab12_"))
  for folder, given in ((of_true, predict), (of_predicted, None)):
    with pytest.raises(UserError, match=r"depth_run"):
      next(inspection.later_batches(SimpleNamespace(), folder, 0, 1, given))
  inspection.check_depth(of_predicted, predict)
  inspection.check_depth(of_true, None)
  predict.digest = "cd34"
  with pytest.raises(UserError, match="cd34"):
    next(inspection.later_batches(SimpleNamespace(), of_predicted, 0, 1, predict))
