"""From a confusion matrix to the numbers that are reported, and their table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corda_jax.console import printable
from corda_jax.labels import CITYSCAPES, ClassList
from corda_jax.metrics import intersection_over_union, mean_iou

# Sets that are there unasked, and which of them are shown beside the one that was asked for:
# results on SYNTHIA come in both.
_COMPANIONS = {"all": (), "synthia_16": ("synthia_13",), "synthia_13": ()}

_NONE: Mapping[str, Sequence[str]] = {}


def scores(
  confusion: np.ndarray,
  class_set: str,
  *,
  classes: ClassList = CITYSCAPES,
  named_sets: Mapping[str, Sequence[str]] = _NONE,
) -> dict[str, Any]:
  """Mean and per-class IoU of a confusion matrix, in percent, as JSON-ready values.

  Args:
    confusion: counts, [true, predicted].
    class_set: which classes "miou" is over, by the name that `ClassList.class_sets` gives them.
    classes: whose counts they are.
    named_sets: the user's own sets, name → class names.

  Returns:
    "miou", "classes" (the class set), "miou_by_classes" (the mean over every class set),
    "class_sets" (its class names, by set), "iou" by class name (None where neither labels nor
    predictions hold the class) and "pixel_accuracy".
  """
  sets = classes.class_sets(named_sets)
  means = {name: 100 * mean_iou(confusion, members) for name, members in sets.items()}
  per_class = 100 * intersection_over_union(confusion)
  return {
    "miou": means[class_set],
    "classes": class_set,
    "miou_by_classes": means,
    "class_sets": {name: [classes.names[i] for i in ids] for name, ids in sets.items()},
    "iou": {
      name: None if math.isnan(value) else float(value)
      for name, value in zip(classes.names, per_class, strict=True)
    },
    "pixel_accuracy": 100 * float(np.trace(confusion) / max(confusion.sum(), 1)),
  }


def format_scores(result: Mapping[str, Any]) -> str:
  """A table of per-class IoU for the console, with its mean and those over the user's own sets."""
  width = max(len(name) for name in result["iou"])
  asked, sets = result["classes"], result["class_sets"]
  lines, block = [f"{'class':<{width}}  IoU %"], printable("█", "#")
  for name, value in result["iou"].items():
    bar = "" if value is None else block * round(value / 4)
    shown = "    -" if value is None else f"{value:5.1f}"
    note = "" if name in sets[asked] else "(not in the mean)"
    lines.append(f"{name:<{width}}  {shown}  {bar} {note}".rstrip())
  own = [name for name in sets if name not in _COMPANIONS and name != asked]
  for class_set in (asked, *_COMPANIONS.get(asked, ()), *own):
    mean, number = result["miou_by_classes"][class_set], len(sets[class_set])
    note = "" if class_set in _COMPANIONS else f" ({class_set})"
    lines.append(f"{'mIoU':<{width}}  {mean:5.1f}  over {number} classes{note}")
  lines.append(f"pixel accuracy {result['pixel_accuracy']:.1f} %")
  if "depth" in result:
    depth = result["depth"]
    scaled = ", each frame brought to the truth's median" if depth["median_scaling"] else ""
    lines.append(
      f"depth head: abs rel {depth['abs_rel']:.3f}, rmse {depth['rmse']:.2f} m, "
      f"delta 1 {depth['delta_1']:.3f}, over {depth['frames']} frames with depth{scaled}"
    )
  return "\n".join(lines)
