"""Results of the runs of `benchmarks.ablation.run`: tables and a plot."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation.scores import spread
from benchmarks.ablation.variants import (
  BUILDS_ON,
  DACS,
  ORACLE,
  ORACLES,
  SOURCE_ONLY,
  SOURCES,
  VARIANTS,
)
from corda_jax.atomic_io import atomic_write
from corda_jax.errors import UserError
from corda_jax.training.run_files import read_json


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of the ablation.

  Attributes:
    variant: one of `VARIANTS` or `ORACLES`.
    source: one of `SOURCES`.
    seed: seed of weights, order, crops, mixing and augmentation; the world is the same for all.
    folder: folder of the run.
  """

  variant: str
  source: str
  seed: int
  folder: Path

  def result(self) -> dict[str, Any] | None:
    """The run's results; None until it is done."""
    return read_json(self.folder / "results.json")


def table(runs: Sequence[Run], source: str) -> str:
  """Tables of a source's runs that are done: mIoU by variant and what each adds; IoU by class.

  Gains are means over the seeds that both variants have.

  Args:
    runs: in any order.
    source: one of `SOURCES`.

  Returns:
    Markdown.
  """
  by_variant = _by_variant(runs, source)
  if not by_variant:
    return f"{source}: no run is done yet."
  counted = _counted(by_variant)
  head = [
    source,
    f"mIoU of {len(counted)} classes, mean ± spread",
    "by seed",
    "over the variant it builds on",
    "over DACS",
    f"over {SOURCE_ONLY}",
    "depth: abs rel",
  ]
  lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
  seeds = sorted({seed for results in by_variant.values() for seed in results})
  for variant, results in by_variant.items():
    depth = [result["depth"]["abs_rel"] for result in results.values() if "depth" in result]
    cells = [
      variant,
      spread([result["miou"] for result in results.values()]),
      ", ".join(f"{results[seed]['miou']:.1f}" if seed in results else "-" for seed in seeds),
      _gain(results, by_variant.get(BUILDS_ON.get(variant, ""), {})),
      *(
        _gain(results, by_variant.get(base, {})) if variant != base else ""
        for base in (DACS, SOURCE_ONLY)
      ),
      spread(depth, ".3f") if depth else "",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  shared = [seed for seed in seeds if all(seed in results for results in by_variant.values())]
  if not shared:
    return "\n".join([*lines, "", "No seed is done on all of them: no table by class."])
  listed = ", ".join(map(str, shared))
  lines += ["", f"| IoU, mean of seeds {listed} | {' | '.join(by_variant)} |"]
  lines.append("|---" * (len(by_variant) + 1) + "|")
  first = next(iter(by_variant.values()))[shared[0]]
  for name in first["iou"]:
    cells = []
    for results in by_variant.values():
      values = [results[seed]["iou"][name] for seed in shared]
      known = [value for value in values if value is not None]
      cells.append(f"{statistics.mean(known):.1f}" if known else "-")
    label = name if name in counted else f"({name})"
    lines.append(f"| {label} | {' | '.join(cells)} |")
  if len(counted) < len(first["iou"]):
    lines += ["", "Classes in brackets are not in the mean."]
  return "\n".join(lines)


def _by_variant(runs: Sequence[Run], source: str) -> dict[str, dict[int, dict[str, Any]]]:
  """Variant → seed → result, in order, of a source's runs that are done."""
  found: dict[str, dict[int, dict[str, Any]]] = {}
  for variant in (*VARIANTS, *ORACLES):
    for run in sorted(runs, key=lambda run: run.seed):
      if (run.variant, run.source) == (variant, source) and (result := run.result()) is not None:
        found.setdefault(variant, {})[run.seed] = result
  return found


def _counted(by_variant: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Sequence[str]:
  """Classes that mIoU is the mean of: the same in all runs, as others are refused."""
  result = next(iter(next(iter(by_variant.values())).values()))
  return result["class_sets"][result["classes"]]


def _gains(results: Mapping[int, Any], others: Mapping[int, Any]) -> list[float]:
  """Differences of mIoU, of the seeds that both have."""
  both = sorted(results.keys() & others.keys())
  return [results[seed]["miou"] - others[seed]["miou"] for seed in both]


def _gain(results: Mapping[int, Any], others: Mapping[int, Any]) -> str:
  """Mean and spread of the differences."""
  gains = _gains(results, others)
  return spread(gains, "+z.1f") if gains else ""


def draw(runs: Sequence[Run], path: Path, base: str = DACS) -> None:
  """A plot by variant: mIoU, and the gain over `base` with the same seed.

  Every run is a dot, to the right of the mean and standard deviation of all.

  Args:
    runs: in any order; at least one is done.
    path: PNG file.
    base: a variant.

  Raises:
    UserError: the file cannot be written.
  """
  from matplotlib.figure import Figure

  found = {source: results for source in SOURCES if (results := _by_variant(runs, source))}
  figure = Figure(figsize=(5.2 * len(found), 7.6), dpi=110, layout="constrained")
  axes = figure.subplots(2, len(found), sharey="row", squeeze=False)
  for (upper, lower), (source, variants) in zip(axes.T, found.items(), strict=True):
    scores = {
      variant: [each["miou"] for each in results.values()] for variant, results in variants.items()
    }
    _draw_variants(upper, scores, f"{source}-like source: mIoU of the target, %")
    # The ends of the ablation are so far from the rest that nothing else could be distinguished.
    between = {
      variant: of for variant, of in variants.items() if variant not in (SOURCE_ONLY, base, ORACLE)
    }
    gains = {
      variant: _gains(results, variants.get(base, {})) for variant, results in between.items()
    }
    over = "DACS" if base == DACS else f'"{base}"'
    _draw_variants(
      lower, {variant: of for variant, of in gains.items() if of}, f"gain over {over}, points"
    )
    lower.axhline(0, color="black", linewidth=0.8)
  axes[0, 0].legend(loc="best", frameon=False, fontsize=9)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
      figure.savefig(partial, format="png")
  except OSError as error:
    raise UserError(
      f"{path} cannot be written ({error.strerror}): name another file for the plot"
    ) from error


def _draw_variants(axis: Any, values: Mapping[str, Sequence[float]], what: str) -> None:
  """Dots, mean and standard deviation of each variant."""
  for place, of_seeds in enumerate(values.values()):
    label = {"label": "a run"} if place == 0 else {}
    beside = [place + 0.22] * len(of_seeds)  # the mean would hide those that are close to it
    axis.plot(beside, of_seeds, "o", color="tab:orange", markersize=4, **label)
    label = {"label": "mean and standard deviation"} if place == 0 else {}
    deviation = statistics.stdev(of_seeds) if len(of_seeds) > 1 else 0.0
    mean = statistics.mean(of_seeds)
    axis.errorbar(
      place, mean, deviation, fmt="s", color="tab:blue", capsize=5, markersize=6, **label
    )
  axis.set_xticks(range(len(values)), list(values), rotation=35, ha="right", fontsize=9)
  axis.set_title(what, fontsize=11, loc="left")  # beside the axis are names of variants
  axis.grid(axis="y", alpha=0.25)
  axis.spines[["top", "right"]].set_visible(False)
