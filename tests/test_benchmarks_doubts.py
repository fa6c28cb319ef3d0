"""Measures of doubt in pseudo-labels: what they are, and how well they rank wrong pixels."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks.ablation import doubts, inspection, pseudo_labels
from corda_jax.depth.inverse_depth import from_metres
from corda_jax.errors import UserError
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
  label = random.randint(0, 19, runs)
  rate = random.uniform(0, 0.6, 19)
  wrong = random.uniform(size=runs) < rate[label]
  confidence = random.uniform(size=runs)
  rarity = random.permutation(19)[label] / 19
  by_class = doubts.auroc_together([confidence, label], wrong)
  best = [doubts.auroc(rate[of], on) for of, on in zip(label, wrong, strict=True)]
  np.testing.assert_allclose(by_class, best, atol=0.02)  # each class has its own bin
  with_rarity = doubts.auroc_together([confidence, label, rarity], wrong)
  np.testing.assert_allclose(with_rarity, by_class, atol=0.005)


def test_a_class_is_doubted_where_the_source_has_others():
  """Two rows: what is two metres up is class 1 near by and class 2 far off, the road is below."""
  label = np.array([[[1, 1, 2, 2], [0, 0, 0, 255]]], np.uint8)
  depth = np.float32(from_metres(np.array([[[10.0, 10, 80, 80], [10, 10, 10, 10]]])))
  rows = {"source_label": label, "source_inverse_depth": depth}
  camera = np.float32([[5, 5, 2, 1]])
  places = doubts.Places([rows | {"source_intrinsics": camera}] * 20, 3)
  found = places.doubt(np.array([[[1, 2, 1, 2], [0, 0, 1, 0]]]), depth, camera)[0]
  assert (found[[0, 0, 1, 1], [0, 3, 0, 1]] < 0.05).all()
  assert (found[[0, 0, 1], [1, 2, 2]] > 0.95).all()
  # Another camera's height is not the road's: the road's own median is.
  found = places.doubt(np.array([[[1, 1], [0, 0]]]), depth[..., :2], camera + [0, 0, 0, 2])
  assert (found < 0.05).all()


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
  batch = {
    "target_image": np.zeros((1, 1, 5, 3), np.uint8),
    "target_label": np.array([[[1, 1, 7, 255, 4]]], np.uint8),  # one of the source, one without
    "target_inverse_depth": depth,
    "target_intrinsics": CAMERA,
    "source_label": np.array([[[1, 1, 1, 1, 2]]], np.uint8),
    "source_inverse_depth": depth,
    "source_intrinsics": CAMERA,
  }
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
    [1 - (3 + 1 / 9) / 4, 1 - (1 / 9) / 2],  # of three pixels of class 1; of one, for class 2
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
