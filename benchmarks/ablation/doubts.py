"""Measures of doubt in a pseudo-label: the teacher's confidence, depth, and both together.

Discrepancies are between the source's and the target's depth head, errors between a head and the
files; both are relative to the files' inverse depth, which the refinement reads, too, unless depth
is learned photometrically. The student sees the mixed image, the teacher the target.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import ndimage, stats

from corda_jax.depth.inverse_depth import NO_DEPTH, to_metres
from corda_jax.labels import IGNORE

CONFIDENCE = "1 - confidence"
CLASS = "number of the class"  # no doubt by itself; with others: what is learned of each class
STUDENT = "discrepancy, student"
HEADS = ("error of the source's head, teacher", "error of the target's head, teacher")
MEASURES = (
  CONFIDENCE,
  "small weight in the loss",  # the weight that the run itself gives pixels
  STUDENT,
  "discrepancy, teacher",
  "discrepancy of logarithms, teacher",
  "the same from the image's own median",
  "the same from the median of the class in the image",
  "step of the files' depth",
  CLASS,
  "class rare at this depth and height",
  *HEADS,
  "1 - confidence x (1 - discrepancy, student)",
)

_ROAD = 0  # number of the class whose height is zero
_DEPTH_BINS = np.linspace(0, np.log(400), 17)[1:-1]  # logarithms of inverse depth
_HEIGHT_BINS = np.array([-0.5, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 9, 14])  # metres above the road
_FIRST_RANKS, _OTHER_RANKS = 50, 10
_FEW = 50  # values, such as those of classes


class Places:
  """How often a class occurs at a depth and a height above the road, of the source's pixels.

  Args:
    batches: batches of training: the source's labels, depth and cameras.
    classes: number of classes.
  """

  def __init__(self, batches: Iterable[Mapping[str, np.ndarray]], classes: int):
    """Counts the pixels."""
    shape = (len(_DEPTH_BINS) + 1, len(_HEIGHT_BINS) + 1, classes)
    counts = np.zeros(shape)
    for batch in batches:
      label, depth = batch["source_label"], batch["source_inverse_depth"]
      bins = _place(label, depth, batch["source_intrinsics"])
      known = (label != IGNORE) & (depth > NO_DEPTH)
      np.add.at(counts, (*(each[known] for each in bins), label[known]), 1)
    self._shares = (counts + 1 / classes) / (counts.sum(-1, keepdims=True) + 1)

  def doubt(self, label: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """One minus the share of a label's class among the source's pixels of its place, [B, H, W].

    Args:
      label: [B, H, W], pseudo-labels.
      depth: [B, H, W], inverse depth of the files.
      intrinsics: [B, 4]: fx, fy, cx, cy in pixels.
    """
    return 1 - self._shares[(*_place(label, depth, intrinsics), label)]


def _place(
  label: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Bins of depth and of height above the median of what is labelled as road."""
  _, fy, _, cy = (each[:, None, None] for each in intrinsics.T)
  rows = np.arange(label.shape[1])[:, None]
  height = (cy - rows) / fy * to_metres(np.maximum(depth, NO_DEPTH))
  for image, road in zip(height, label == _ROAD, strict=True):
    if road.any():
      image -= np.median(image[road])
  return np.digitize(np.log(np.maximum(depth, 1)), _DEPTH_BINS), np.digitize(height, _HEIGHT_BINS)


def doubts(
  maps: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray], places: Places
) -> dict[str, np.ndarray]:
  """Each of `MEASURES`, [B, H, W], large where in doubt.

  Args:
    maps: what a step's networks predict: `AdaptationTask.make_maps`.
    batch: the batch that they saw.
    places: of the source.
  """
  depth, label = batch["target_inverse_depth"], maps["pseudo_label"]
  by_target, by_source = maps["inverse_depth"], maps["source_inverse_depth"]
  teacher, teacher_source = (
    maps[f"teacher_{name}"] for name in ("inverse_depth", "source_inverse_depth")
  )
  discrepancy = np.abs(by_source - by_target) / depth
  ratio = np.log(np.maximum(teacher_source, 1)) - np.log(np.maximum(teacher, 1))
  known = depth > NO_DEPTH
  logs = np.log(np.maximum(depth, 1))
  window = (1, 3, 3)
  values = (
    1 - maps["confidence"],
    -maps["pixel_weight"],
    discrepancy,
    np.abs(teacher_source - teacher) / depth,
    np.abs(ratio),
    np.abs(ratio - _medians(ratio, known, np.zeros_like(label))),
    np.abs(ratio - _medians(ratio, known, label)),
    ndimage.maximum_filter(logs, window) - ndimage.minimum_filter(logs, window),
    label,
    places.doubt(label, depth, batch["target_intrinsics"]),
    np.abs(teacher_source - depth) / depth,
    np.abs(teacher - depth) / depth,
    1 - maps["confidence"] * np.clip(1 - discrepancy, 0, 1),
  )
  return dict(zip(MEASURES, values, strict=True))


def _medians(values: np.ndarray, known: np.ndarray, group: np.ndarray) -> np.ndarray:
  """The median of the known values of each image's groups, in place of each value; NaN for none."""
  groups = group + 256 * np.arange(len(group))[:, None, None]  # those of an image are its own
  numbers, places = np.unique(groups, return_inverse=True)
  medians = ndimage.median(values, np.where(known, groups, -1), numbers)
  return medians[places].reshape(values.shape)


def auroc(doubt: np.ndarray, wrong: np.ndarray) -> float:
  """Probability that a wrong pixel is doubted more than a right one; equal doubts count half.

  NaN where all are wrong or none is.

  Args:
    doubt: [N], large where in doubt.
    wrong: bool [N], where the pseudo-label is wrong.
  """
  pairs = int(wrong.sum()) * int((~wrong).sum())
  if not pairs:
    return math.nan
  return float(stats.mannwhitneyu(doubt[wrong], doubt[~wrong]).statistic / pairs)


def auroc_together(
  measures: Sequence[Sequence[np.ndarray]], wrong: Sequence[np.ndarray]
) -> list[float]:
  """AUROC of each run by several measures together.

  The doubt is the share of wrong pixels among those of similar rank in all, in the other runs.

  Args:
    measures: for each measure, the most telling one first: [N] of each run.
    wrong: bool [N] of each run, where the pseudo-label is wrong.
  """
  areas = []
  for left_out in range(len(wrong)):
    *columns, known = (
      np.concatenate([*of[:left_out], *of[left_out + 1 :]]) for of in (*measures, wrong)
    )
    ranks = (_FIRST_RANKS, *[_OTHER_RANKS] * (len(columns) - 1))
    edges = [_edges(*each) for each in zip(columns, ranks, strict=True)]
    total, bad = (np.histogramdd(columns, edges, weights=weights)[0] for weights in (None, known))
    share = (bad + known.mean()) / (total + 1)
    own = zip((of[left_out] for of in measures), edges, strict=True)
    bins = (np.digitize(values, limits[1:-1]) for values, limits in own)
    areas.append(auroc(share[tuple(bins)], wrong[left_out]))
  return areas


def _edges(values: np.ndarray, ranks: int) -> np.ndarray:
  """Edges of bins with as many values each, or with one value each where there are few."""
  limits = np.unique(values)
  if len(limits) > _FEW:
    limits = np.unique(np.quantile(values, np.arange(1, ranks) / ranks))
  return np.concatenate([[-np.inf], limits, [np.inf]])
