"""The table of depth errors."""

from collections.abc import Mapping
from typing import Any

from corda_jax.metrics import DEPTH_ERRORS

_FLOORS = {"constant": "best constant", "rows": "best constant a row"}


def format_depth_scores(result: Mapping[str, Any]) -> str:
  """Errors of the network beside the floors, for the console.

  Args:
    result: of `DepthEvaluator.score`.
  """
  if "photometric_loss" in result:
    return (
      f"photometric loss {result['photometric_loss']:.4f} over {result['frames']} frames "
      "(no truth to measure depth by)"
    )
  lines = [f"{'':<22}" + "".join(f"{name:>10}" for name in DEPTH_ERRORS)]
  rows = {"network": result} | {
    words: result["floors"][name] for name, words in _FLOORS.items() if name in result["floors"]
  }
  for words, errors in rows.items():
    lines.append(f"{words:<22}" + "".join(f"{errors[name]:>10.3f}" for name in DEPTH_ERRORS))
  told = "each frame brought to the truth's median; " if result["median_scaling"] else ""
  lines.append(
    f"{result['frames']} frames; {told}truth / prediction {result['scale']:.3f} in the median, "
    f"± {100 * result['scale_spread']:.1f} % between frames"
  )
  return "\n".join(lines)
