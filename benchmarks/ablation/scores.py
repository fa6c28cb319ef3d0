"""Results over several seeds, as text."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def spread(values: Sequence[float], form: str = ".1f") -> str:
  """Mean and standard deviation; a single value alone."""
  mean = format(statistics.mean(values), form)
  if len(values) < 2:
    return mean
  return f"{mean} ± {format(statistics.stdev(values), form.lstrip('+'))}"


def miou_table(results: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "") -> str:
  """Mean and spread of mIoU by method, as Markdown.

  Args:
    results: method → results of each seed.
    title: title of the first column.
  """
  lines = [f"| {title} | mIoU, mean ± spread | seeds |".replace("|  |", "| |"), "|---|---|---|"]
  for method, runs in results.items():
    values = [run["miou"] for run in runs]
    lines.append(f"| {method} | {spread(values)} | {', '.join(f'{v:.1f}' for v in values)} |")
  return "\n".join(lines)
