"""What a run has reported so far: `history.jsonl` in its folder, one entry per line.

An entry is {"step": 50, "curves": {"train/total": 1.25, …}}; that of an evaluation also has "score"
and "result". A resumed run drops the entries after its checkpoint, since it reports them again.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from corda_jax.training.run_files import finite, read_json_lines, write_text

_NAME = "history.jsonl"


class History:
  """The history of a run; process 0 writes it, all may read.

  If an entry cannot be written, `OSError` is raised. Nothing is lost: the next successful write
  includes the entries before it.

  Args:
    workdir: folder of the run.
  """

  def __init__(self, workdir: Path):
    """Reads existing entries."""
    self._path = Path(workdir) / _NAME
    self.entries = read_history(workdir)
    self._behind = False  # whether the file lacks entries, after a failed write

  def rewind(self, step: int) -> None:
    """Drops the entries after `step`."""
    self.entries = [entry for entry in self.entries if entry["step"] <= step]
    if jax.process_index() == 0 and self._path.exists():
      write_text(self._path, "".join(map(_line, self.entries)))

  def add_curves(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a point to each of some curves."""
    self._add({"step": step, "curves": dict(values)})

  def add_evaluation(
    self, step: int, score: float, result: Mapping[str, Any], curves: Mapping[str, float]
  ) -> None:
    """Adds an evaluation.

    Args:
      step: step of the evaluated state.
      score: its score; larger is better.
      result: its result, JSON-serialisable.
      curves: value by name of the curve.
    """
    entry = {"step": step, "score": score, "result": dict(result), "curves": dict(curves)}
    self._add(entry)

  def evaluated(self, step: int) -> bool:
    """Whether there is an evaluation of `step`."""
    return any(entry["step"] == step and "result" in entry for entry in self.entries)

  def _add(self, entry: dict[str, Any]) -> None:
    self.entries.append(entry)
    if jax.process_index() > 0:
      return
    behind, self._behind = self._behind, True
    if behind:
      write_text(self._path, "".join(map(_line, self.entries)))
    else:
      with open(self._path, "a", encoding="utf-8") as file:
        file.write(_line(entry))
        file.flush()
        os.fsync(file.fileno())
    self._behind = False


def read_history(workdir: Path) -> list[dict[str, Any]]:
  """Entries of the history in `workdir`; truncated or invalid lines are skipped."""
  entries = read_json_lines(Path(workdir) / _NAME)
  return [entry for entry in entries if type(entry.get("step")) is int]


def scores_of(entries: list[dict[str, Any]]) -> dict[int, float]:
  """Finite scores by step."""
  scores = {entry["step"]: entry.get("score") for entry in entries if "score" in entry}
  return {
    step: float(score)
    for step, score in scores.items()
    if isinstance(score, int | float) and math.isfinite(score)
  }


def _line(entry: Mapping[str, Any]) -> str:
  return json.dumps(finite(entry), allow_nan=False) + "\n"
