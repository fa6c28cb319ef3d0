"""The reported numbers, and their agreement with the benchmark's own scripts."""

import re

import numpy as np
import pytest

from corda_jax import labels
from corda_jax.adaptation.scores import format_scores, scores
from corda_jax.metrics import confusion_matrix, intersection_over_union, mean_iou

SHAPE = (37, 53)
TRAIN = labels.NAMES.index("train")


def test_scores_table_and_class_sets():
  confusion = np.diag(np.arange(19))
  confusion[9, 9] = 0  # terrain is absent, and so is road
  confusion[1, 2] = 1
  result = scores(confusion, "synthia_16")
  assert result["iou"]["terrain"] is None
  np.testing.assert_allclose(result["iou"]["sidewalk"], 50)
  np.testing.assert_allclose(result["miou"], (50 + 200 / 3 + 13 * 100) / 15)
  np.testing.assert_allclose(
    result["pixel_accuracy"], 100 * (confusion.sum() - 1) / confusion.sum()
  )
  table = format_scores(result).splitlines()
  assert [line.split()[0] for line in table if "mean" in line] == ["terrain", "truck", "train"]
  assert any(re.search(r"^sidewalk.*\b50\.0\b", line) for line in table)
  assert any(re.search(r"^mIoU.*\b16\b", line) for line in table)


def test_all_three_means_are_reported():
  confusion = np.zeros((19, 19), int)
  confusion[0, 0], confusion[3, 3], confusion[3, 0], confusion[9, 9] = 1, 1, 3, 5
  confusion[11, 11] = 2  # person, beside road, wall and terrain
  means = {"all": 250 / 4, "synthia_16": 150 / 3, "synthia_13": 125 / 2}
  for class_set, mean in means.items():
    result = scores(confusion, class_set)
    assert result["miou_by_classes"] == pytest.approx(means)
    assert result["miou"] == pytest.approx(mean)

  def printed(class_set):
    lines = format_scores(scores(confusion, class_set)).splitlines()
    return [re.findall(r"[\d.]+", line) for line in lines if line.startswith("mIoU")]

  assert printed("all") == [["62.5", "19"]]
  assert printed("synthia_16") == [["50.0", "16"], ["62.5", "13"]]
  assert printed("synthia_13") == [["62.5", "13"]]


def test_agrees_with_the_benchmark(random, official_scores):
  ids = random.randint(0, 34, (3, *SHAPE)).astype(np.uint8)  # void among them; plates, -1, are not
  ids[ids == labels.TRAIN_TO_CITYSCAPES[TRAIN]] = 4
  true = labels.CITYSCAPES_TO_TRAIN[ids]
  predicted = np.where(random.uniform(size=ids.shape) < 0.4, true, random.randint(0, 19, ids.shape))
  predicted[predicted == 255] = 2
  predicted[(predicted == TRAIN) & (true != 255)] = 0  # predicted where nothing counts: no union
  assert (predicted == TRAIN).any()

  expected = official_scores(labels.TRAIN_TO_CITYSCAPES[predicted], ids)
  confusion = np.asarray(confusion_matrix(true, predicted, 19), np.int64).sum(0)
  classes = np.ix_(labels.TRAIN_TO_CITYSCAPES, labels.TRAIN_TO_CITYSCAPES)
  np.testing.assert_array_equal(confusion, np.asarray(expected["confMatrix"])[classes])
  iou = [expected["classScores"][name] for name in labels.NAMES]
  assert np.isnan(iou[TRAIN])
  np.testing.assert_array_equal(intersection_over_union(confusion), iou)
  np.testing.assert_allclose(mean_iou(confusion), expected["averageScoreClasses"], rtol=1e-15)
  result = scores(confusion, "all")
  np.testing.assert_allclose(result["miou"], 100 * expected["averageScoreClasses"], rtol=1e-15)


def test_scores_of_another_class_list():
  classes = labels.ClassList.from_config({"names": ("car", "tram", "lawn"), "colors": ()})
  confusion = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 4]])
  sets = {"rigid": ("car", "tram")}
  result = scores(confusion, "all", classes=classes, named_sets=sets)
  assert list(result["iou"]) == ["car", "tram", "lawn"]
  rigid = 100 * (3 / 4 + 2 / 3) / 2
  assert result["miou_by_classes"] == pytest.approx({"all": (2 * rigid + 100) / 3, "rigid": rigid})
  lines = format_scores(result).splitlines()
  assert [line.split()[0] for line in lines[1:4]] == ["car", "tram", "lawn"]
  assert re.search(r"^mIoU.*\b3\b", lines[4])
  assert re.search(r"^mIoU.*\b2\b.*rigid", lines[5])
  result = scores(confusion, "rigid", classes=classes, named_sets=sets)
  assert result["miou"] == pytest.approx(rigid)
  lines = format_scores(result).splitlines()
  assert re.search(r"^lawn.*mean", lines[3])
  assert re.search(r"^mIoU.*\b2\b.*rigid", lines[4])
  assert re.search(r"accuracy.*\b90\.0\b", lines[5])
