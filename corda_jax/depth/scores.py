"""Depth errors over many frames, and their table."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from corda_jax.depth.inverse_depth import NO_DEPTH, to_metres
from corda_jax.metrics import DEPTH_ERRORS, depth_errors

BASELINES = {"constant": "best constant", "rows": "best constant a row"}


def known_metres(inverse_depth: np.ndarray, config: Any) -> np.ndarray:
  """True distances, float64 metres; NaN where unknown or out of the range that is measured.

  Args:
    inverse_depth: any shape, 1 where unknown.
    config: the `evaluation` part of a configuration: `min_depth` and `max_depth`, metres.
  """
  metres = to_metres(np.asarray(inverse_depth, np.float64))
  known = (inverse_depth != NO_DEPTH) & (metres >= config.min_depth) & (metres <= config.max_depth)
  return np.where(known, metres, np.nan)


class DepthErrors:
  """Means of depth errors over frames.

  Args:
    config: the `evaluation` part of a configuration: `min_depth`, `max_depth`, `median_scaling`.
    video: whether the depth is learned from video alone, so that nobody knows its scale.
  """

  def __init__(self, config: Any, *, video: bool):
    """Begins with no frame."""
    self._config = config
    self._scaling = config.median_scaling == "always" or (
      config.median_scaling == "video" and video
    )
    self._errors: list[dict[str, float]] = []
    self._ratios: list[float] = []

  def add(self, depth: np.ndarray, truth: np.ndarray) -> None:
    """Takes in a frame.

    Args:
      depth: predicted metres, any shape.
      truth: result of `known_metres`, of the same shape; a frame that has none does not count.
    """
    known = ~np.isnan(truth)
    if not known.any():
      return
    depth, truth = np.asarray(depth, np.float64)[known], truth[known]
    self._ratios.append(float(np.median(truth) / np.median(depth)))
    if self._scaling:
      depth = depth * self._ratios[-1]
    depth = np.clip(depth, self._config.min_depth, self._config.max_depth)
    self._errors.append(depth_errors(truth, depth))

  def result(self) -> dict[str, Any] | None:
    """JSON-ready means; None without a frame that has depth.

    Returns:
      The means over frames of `metrics.depth_errors`, "frames", "median_scaling" (whether), "scale"
      and "scale_spread" (median over frames of truth / prediction, and standard deviation over it).
    """
    if not self._errors:
      return None
    scale = float(np.median(self._ratios))
    return {
      **mean_errors(self._errors),
      "frames": len(self._errors),
      "median_scaling": self._scaling,
      "scale": scale,
      "scale_spread": float(np.std(self._ratios)) / scale,
    }


def mean_errors(errors: list[dict[str, float]]) -> dict[str, float]:
  """Means over frames of `metrics.depth_errors`; NaN without frames."""
  return {name: float(np.mean([e[name] for e in errors] or [np.nan])) for name in DEPTH_ERRORS}


def format_depth_scores(result: Mapping[str, Any]) -> str:
  """Errors of the network beside the baselines, for the console.

  Args:
    result: result of `DepthEvaluator.score`, or of `DepthErrors.result`.
  """
  if "photometric_loss" in result:
    return (
      f"photometric loss {result['photometric_loss']:.4f} over {result['frames']} frames "
      "(no truth to measure depth by)"
    )
  baselines = result.get("baselines", {})
  lines = [f"{'':<22}" + "".join(f"{name:>10}" for name in DEPTH_ERRORS)]
  rows = {"network": result} | {
    words: baselines[name] for name, words in BASELINES.items() if baselines
  }
  for words, errors in rows.items():
    lines.append(f"{words:<22}" + "".join(f"{errors[name]:>10.3f}" for name in DEPTH_ERRORS))
  scaling = "each frame brought to the truth's median; " if result["median_scaling"] else ""
  lines.append(
    f"{result['frames']} frames; {scaling}truth / prediction {result['scale']:.3f} in the median, "
    f"± {100 * result['scale_spread']:.1f} % between frames"
  )
  return "\n".join(lines)
