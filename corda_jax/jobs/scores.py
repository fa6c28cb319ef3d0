"""From a confusion matrix to the numbers that are reported, and their table."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from corda_jax import labels
from corda_jax.metrics import intersection_over_union, mean_iou

# Class set → another whose mean is reported beside it: results on SYNTHIA come in both.
_COMPANIONS = {"synthia_16": "synthia_13"}


def scores(confusion: np.ndarray, class_set: str) -> dict[str, Any]:
  """Mean and per-class IoU of a confusion matrix, in percent, as JSON-ready values.

  Args:
    confusion: counts, [true, predicted].
    class_set: key of `labels.CLASS_SETS`: which classes "miou" is over.

  Returns:
    "miou", "classes" (the class set), "miou_by_classes" (the mean over every class set), "iou" by
    class name (None where neither labels nor predictions hold the class) and "pixel_accuracy".
  """
  means = {name: 100 * mean_iou(confusion, members) for name, members in labels.CLASS_SETS.items()}
  per_class = 100 * intersection_over_union(confusion)
  return {
    "miou": means[class_set],
    "classes": class_set,
    "miou_by_classes": means,
    "iou": {
      name: None if math.isnan(value) else float(value)
      for name, value in zip(labels.NAMES, per_class, strict=True)
    },
    "pixel_accuracy": 100 * float(np.trace(confusion) / max(confusion.sum(), 1)),
  }


def format_scores(result: Mapping[str, Any]) -> str:
  """A table of per-class IoU with its mean, for the console; of SYNTHIA's 16 classes and its 13."""
  width = max(len(name) for name in result["iou"])
  counted = labels.CLASS_SETS[result["classes"]]
  lines = [f"{'class':<{width}}  IoU %"]
  for index, (name, value) in enumerate(result["iou"].items()):
    bar = "" if value is None else "█" * round(value / 4)
    shown = "    -" if value is None else f"{value:5.1f}"
    note = "" if index in counted else "(not in the mean)"
    lines.append(f"{name:<{width}}  {shown}  {bar} {note}".rstrip())
  for class_set in (result["classes"], _COMPANIONS.get(result["classes"])):
    if class_set is not None:
      mean, number = result["miou_by_classes"][class_set], len(labels.CLASS_SETS[class_set])
      lines.append(f"{'mIoU':<{width}}  {mean:5.1f}  over {number} classes")
  lines.append(f"pixel accuracy {result['pixel_accuracy']:.1f} %")
  return "\n".join(lines)
