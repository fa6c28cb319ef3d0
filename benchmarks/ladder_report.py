"""What the runs of `benchmarks.ladder` come to: tables and a plot."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ladder_rungs import BOUNDS, BUILDS_ON, DACS, RUNGS, SOURCES
from benchmarks.scores import spread
from corda_jax.files import whole_or_not
from corda_jax.training.run_files import read_json


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of the ladder.

  Attributes:
    rung: of `RUNGS`, or of `BOUNDS`.
    source: of `SOURCES`.
    seed: of weights, order, crops, mixing and augmentation; the world is the same for all.
    folder: of the run.
  """

  rung: str
  source: str
  seed: int
  folder: Path

  def result(self) -> dict[str, Any] | None:
    """What it came to; None while it is not done."""
    return read_json(self.folder / "results.json")


def table(runs: Sequence[Run], source: str) -> str:
  """Tables of a source's runs that are done: mIoU by rung and what each adds; IoU by class.

  Args:
    runs: in any order.
    source: of `SOURCES`.

  Returns:
    Markdown.
  """
  by_rung = _by_rung(runs, source)
  if not by_rung:
    return f"{source}: no run is done yet."
  head = "mIoU, mean ± spread | by seed | over the rung it builds on | over DACS | depth: abs rel"
  lines = [f"| {source} | {head} |", "|---|---|---|---|---|---|"]
  seeds = sorted({seed for results in by_rung.values() for seed in results})
  for rung, results in by_rung.items():
    depth = [result["depth"]["abs_rel"] for result in results.values() if "depth" in result]
    cells = [
      rung,
      spread([result["miou"] for result in results.values()]),
      ", ".join(f"{results[seed]['miou']:.1f}" if seed in results else "-" for seed in seeds),
      _gain(results, by_rung.get(BUILDS_ON.get(rung, ""), {})),
      _gain(results, by_rung.get(DACS, {})) if rung != DACS else "",
      spread(depth, ".3f") if depth else "",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  shared = [seed for seed in seeds if all(seed in results for results in by_rung.values())]
  if not shared:
    return "\n".join([*lines, "", "No seed is done on all of them: no table by class."])
  told = ", ".join(map(str, shared))
  lines += ["", f"| IoU, mean of seeds {told} | {' | '.join(by_rung)} |"]
  lines.append("|---" * (len(by_rung) + 1) + "|")
  for name in next(iter(by_rung.values()))[shared[0]]["iou"]:
    cells = []
    for results in by_rung.values():
      values = [results[seed]["iou"][name] for seed in shared]
      known = [value for value in values if value is not None]
      cells.append(f"{statistics.mean(known):.1f}" if known else "-")
    lines.append(f"| {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


def _by_rung(runs: Sequence[Run], source: str) -> dict[str, dict[int, dict[str, Any]]]:
  """Rung → seed → result, in order, of a source's runs that are done."""
  found: dict[str, dict[int, dict[str, Any]]] = {}
  for rung in (*RUNGS, *BOUNDS):
    for run in sorted(runs, key=lambda run: run.seed):
      if (run.rung, run.source) == (rung, source) and (result := run.result()) is not None:
        found.setdefault(rung, {})[run.seed] = result
  return found


def _gain(results: Mapping[int, Any], others: Mapping[int, Any]) -> str:
  """Mean and spread of the differences of mIoU, of the seeds that both have."""
  both = [results[seed]["miou"] - others[seed]["miou"] for seed in results.keys() & others.keys()]
  return spread(both, "+.1f") if both else ""


def draw(runs: Sequence[Run], path: Path) -> None:
  """A plot of mIoU by rung: every run, and mean and standard deviation of each rung.

  Args:
    runs: in any order; one that is done at the least.
    path: PNG file.
  """
  from matplotlib.figure import Figure

  found = {source: results for source in SOURCES if (results := _by_rung(runs, source))}
  figure = Figure(figsize=(5.2 * len(found), 4.6), dpi=110, layout="constrained")
  axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
  for axis, (source, rungs) in zip(axes, found.items(), strict=True):
    for place, results in enumerate(rungs.values()):
      scores = [result["miou"] for result in results.values()]
      deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
      beside = [place + 0.22] * len(scores)  # the mean would hide those that are close to it
      axis.plot(beside, scores, "o", color="tab:orange", markersize=4)
      axis.errorbar(
        place,
        statistics.mean(scores),
        deviation,
        fmt="s",
        color="tab:blue",
        capsize=5,
        markersize=6,
      )
    axis.set_xticks(range(len(rungs)), list(rungs), rotation=35, ha="right", fontsize=9)
    axis.set_title(f"{source}-like source", fontsize=11, loc="left")
    axis.set_ylabel("mIoU of the target, %")
    axis.grid(axis="y", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
  path.parent.mkdir(parents=True, exist_ok=True)
  with whole_or_not(path) as partial:
    figure.savefig(partial, format="png")
