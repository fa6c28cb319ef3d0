"""Scores of semantic segmentation and errors of depth."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.typing import Array, Float, Integer


def confusion_matrix(
  labels: Integer[Array, " b *pixels"], predictions: Integer[Array, " b *pixels"], num_classes: int
) -> Integer[Array, "b classes classes"]:
  """Counts pixels by true and predicted class.

  Args:
    labels: integers [B, ...]; values of `num_classes` or more (255) are not counted.
    predictions: integers [B, ...], 0..num_classes - 1.
    num_classes: number of classes.

  Returns:
    int32[B, num_classes, num_classes], [true, predicted]: one matrix per image, so that a sharded
    batch needs no communication and 32 bits suffice. Sum them in 64 bits.
  """
  if labels.shape != predictions.shape:
    raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ in shape")
  bins = num_classes * num_classes

  def count(label, prediction):
    label = label.reshape(-1).astype(jnp.int32)
    index = label * num_classes + prediction.reshape(-1).astype(jnp.int32)
    index = jnp.where(label < num_classes, index, bins)  # the last bin collects uncounted pixels
    return jnp.bincount(index, length=bins + 1)[:bins].astype(jnp.int32)

  counts = jax.vmap(count)(labels, predictions)
  return counts.reshape(-1, num_classes, num_classes)


def intersection_over_union(
  confusion: Integer[np.ndarray, "classes classes"],
) -> Float[np.ndarray, " classes"]:
  """Intersection over union of each class.

  Args:
    confusion: counts, [true, predicted].

  Returns:
    0..1; NaN for a class that neither labels nor predictions contain.
  """
  confusion = np.asarray(confusion, np.float64)
  hit = np.diag(confusion)
  union = confusion.sum(0) + confusion.sum(1) - hit
  return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def mean_iou(
  confusion: Integer[np.ndarray, "classes classes"], classes: Sequence[int] | None = None
) -> float:
  """Mean intersection over union, 0..1, over `classes` (all by default) without absent classes.

  A class that is not in `classes` is excluded from the mean only: its pixels stay in the counts of
  the others, as in the released evaluation on SYNTHIA's 16 and 13 classes. NaN if nothing was
  counted.
  """
  iou = intersection_over_union(confusion)
  if classes is not None:
    iou = iou[list(classes)]
  iou = iou[~np.isnan(iou)]
  return float(iou.mean()) if iou.size else float("nan")


DEPTH_ERRORS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3")


def depth_errors(
  truth: Float[np.ndarray, "*pixels"], prediction: Float[np.ndarray, "*pixels"]
) -> dict[str, float]:
  """The seven usual error measures of depth networks (Eigen et al., NeurIPS 2014).

  Args:
    truth: metres, all above 0.
    prediction: metres, all above 0.

  Returns:
    Means over all values: "abs_rel" `|p - t| / t`, "sq_rel" `(p - t)^2 / t` (metres), "rmse"
    (metres), "rmse_log" (of natural logarithms), and "delta_k", the share of values with
    max(p / t, t / p) < 1.25^k. NaN if there are no values.
  """
  if truth.shape != prediction.shape:
    raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
  if not truth.size:
    return dict.fromkeys(DEPTH_ERRORS, float("nan"))
  truth, prediction = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
  difference, ratio = prediction - truth, np.maximum(truth / prediction, prediction / truth)
  values = (
    np.mean(np.abs(difference) / truth),
    np.mean(difference**2 / truth),
    np.sqrt(np.mean(difference**2)),
    np.sqrt(np.mean(np.log(prediction / truth) ** 2)),
    *(np.mean(ratio < 1.25**k) for k in (1, 2, 3)),
  )
  return dict(zip(DEPTH_ERRORS, map(float, values), strict=True))
