"""Which pseudo-labels are wrong, and what shows it: the teacher's confidence, or the depth heads?

    python -m benchmarks.ablation.pseudo_labels runs/ablation_small/gta5_refinement_as_released_0 …

For runs of `benchmarks.ablation.run` with depth heads, with their newest checkpoint. On training
batches it compares the teacher's labels of the target with the true ones, which training never
sees, and measures how well each measure of doubt ranks wrong pixels before right ones:
the area under the ROC curve (AUROC), 0.5 for a measure that knows nothing, 1 for one that knows
all. With several runs it does so for each measure together with confidence, and with confidence and
class, as learned from the other runs. Then by class: how many labels are wrong, and how far the
depth heads are off.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.ablation.doubts import (
  CLASS,
  CONFIDENCE,
  HEADS,
  MEASURES,
  STUDENT,
  Places,
  auroc,
  auroc_together,
  doubts,
)
from benchmarks.ablation.inspection import config_of_run, later_batches
from benchmarks.ablation.predicted import PredictedDepth, add_depth_run
from benchmarks.options import run_command
from corda_jax import visualize
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.inverse_depth import NO_DEPTH
from corda_jax.errors import UserError
from corda_jax.labels import IGNORE, ClassList
from corda_jax.training.restore import restore_state

_GREY = 160


class Look(NamedTuple):
  """What a run predicts on the targets of a batch.

  Attributes:
    image: uint8 RGB [B, H, W, 3].
    label: [B, H, W], true labels, which training never sees.
    pseudo_label: [B, H, W], the teacher's labels.
    doubts: measure → [B, H, W], large where in doubt.
    counts: bool [B, H, W], pixels that the mixed image shows and whose label and depth are known.
  """

  image: np.ndarray
  label: np.ndarray
  pseudo_label: np.ndarray
  doubts: dict[str, np.ndarray]
  counts: np.ndarray

  def wrong(self) -> np.ndarray:
    """Bool [B, H, W], where the pseudo-label is not the true one."""
    return self.pseudo_label != self.label


def main(arguments: list[str] | None = None) -> None:
  """Prints a row per measure and per class, over all runs, and draws the first run."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
  parser.add_argument("--batches", type=int, default=100)
  parser.add_argument(
    "--pictures", type=Path, help="PNG file: mistakes and doubts of the first run"
  )
  add_depth_run(parser)
  options = parser.parse_args(arguments)
  if options.batches < 1:
    raise UserError(f"--batches is {options.batches}, expected 1 or more")
  predict = PredictedDepth(options.depth_run) if options.depth_run else None
  pictured: list[Look] = []
  labels, wrongs, of_runs = [], [], []
  for folder in options.runs:
    found = []
    for seen in look(folder, options.batches, predict):
      values = (seen.label, seen.wrong(), *seen.doubts.values())
      found.append([each[seen.counts] for each in values])
      if folder == options.runs[0] and len(pictured) < 4:
        pictured.append(seen)
    label, wrong, *measured = (np.concatenate(each) for each in zip(*found, strict=True))
    print(f"{folder.name}: {wrong.mean():.1%} of the pseudo-labels are wrong", flush=True)
    labels.append(label)
    wrongs.append(wrong)
    of_runs.append(dict(zip(MEASURES, measured, strict=True)))
  print(f"\n{auroc_table(of_runs, wrongs)}")
  names = ClassList.from_config(config_of_run(options.runs[0]).data.classes).names
  errors = (np.concatenate([of[head] for of in of_runs]) for head in HEADS)
  print(f"\n{class_table(names, np.concatenate(labels), np.concatenate(wrongs), *errors)}")
  if options.pictures:
    draw(pictured, options.runs[0].name, options.pictures)


def auroc_table(of_runs: Sequence[Mapping[str, np.ndarray]], wrongs: Sequence[np.ndarray]) -> str:
  """A row per measure: its AUROC, alone and, of several runs, with others, as Markdown.

  Args:
    of_runs: measure → [N], of each run.
    wrongs: bool [N] of each run, where the pseudo-label is wrong.
  """
  bases = {"with confidence": (CONFIDENCE,), "with confidence and class": (CONFIDENCE, CLASS)}
  lines = [
    f"| AUROC, mean (lowest to highest) | alone | {' | '.join(bases)} |",
    "|---|---|---|---|",
  ]
  for measure in MEASURES:
    values = {name: [of[name] for of in of_runs] for name in (CONFIDENCE, CLASS, measure)}
    cells = [_spread([auroc(*each) for each in zip(values[measure], wrongs, strict=True)])]
    for base in bases.values():
      # What is with itself shows what the others gain, and what learning from ranks costs.
      together = [values[name] for name in dict.fromkeys((*base, measure))]
      cells.append(_spread(auroc_together(together, wrongs)) if len(of_runs) > 1 else "")
    lines.append(f"| {measure} | {' | '.join(cells)} |")
  return "\n".join(lines)


def _spread(areas: Sequence[float]) -> str:
  return f"{statistics.mean(areas):.3f} ({min(areas):.3f} to {max(areas):.3f})"


def class_table(
  names: Sequence[str], label: np.ndarray, wrong: np.ndarray, *errors: np.ndarray
) -> str:
  """A row per class that occurs: its share of the pixels and the errors on it, as Markdown.

  Args:
    names: names of the classes.
    label: [N], true labels.
    wrong: bool [N], where the pseudo-label differs.
    errors: [N] for each of `HEADS`, relative to the true inverse depth.
  """
  lines = [f"| true class | of the pixels | wrong | {', median | '.join(HEADS)}, median |"]
  lines.append("|---" * (3 + len(HEADS)) + "|")
  for number, name in enumerate(names):
    here = label == number
    if here.any():
      medians = " | ".join(f"{np.median(error[here]):.1%}" for error in errors)
      lines.append(f"| {name} | {here.mean():.1%} | {wrong[here].mean():.1%} | {medians} |")
  return "\n".join(lines)


def look(folder: Path, batches: int, predict: PredictedDepth | None = None) -> Iterator[Look]:
  """Predictions on batches of training, by a run's newest checkpoint.

  Args:
    folder: folder of a run of the ablation.
    batches: number of training batches.
    predict: network whose depth the run was trained with; None: the true depth.

  Raises:
    UserError: there is no such run, it has no depth heads or no adaptation, or other depth.
  """
  config = config_of_run(folder)
  task = AdaptationTask.from_config(config)
  if not (task.has_depth_heads and task.step.adapts):
    raise UserError(
      f"{folder} has no depth heads or no adaptation: name another run of the ablation"
    )
  state = restore_state(task, folder)
  maps = jax.jit(task.make_maps())
  found = list(later_batches(task, folder, int(state.step), batches, predict))
  places = Places((batch for batch, _, _ in found), len(task.classes))
  for batch, inputs, key in found:
    outputs = jax.device_get(maps(state, inputs, key))
    label, depth = batch["target_label"], batch["target_inverse_depth"]
    yield Look(
      batch["target_image"],
      label,
      outputs["pseudo_label"],
      doubts(outputs, batch, places),
      ~outputs["mask"] & (label != IGNORE) & (depth > NO_DEPTH),
    )


def draw(looks: Sequence[Look], name: str, path: Path) -> None:
  """A contact sheet of targets: labels, and mistakes and doubts, grey where pixels do not count.

  Args:
    looks: the first frame of each is a column.
    name: name of the run.
    path: PNG file.
  """
  first = [jax.tree.map(lambda x: x[0], seen) for seen in looks]
  counts = np.stack([seen.counts for seen in first])[..., None]

  def shown(values: Sequence[np.ndarray], high: float) -> np.ndarray:
    colors = visualize.colorize(np.stack(values), 0, high, "viridis")
    return np.where(counts, colors, np.uint8(_GREY))

  rows = [
    ("target image", np.stack([seen.image for seen in first])),
    ("true labels", visualize.colorize_labels(np.stack([seen.label for seen in first]))),
    ("pseudo-labels", visualize.colorize_labels(np.stack([seen.pseudo_label for seen in first]))),
    ("bright: wrong", shown([seen.wrong() for seen in first], 1)),
    *(
      (f"bright: {text}", shown([seen.doubts[measure] for seen in first], high))
      for text, measure, high in (
        ("confidence\nof 1/2 or less", CONFIDENCE, 0.5),
        ("the heads\ndiffer by half of\nthe inverse depth", STUDENT, 0.5),
      )
    ),
  ]
  path.parent.mkdir(parents=True, exist_ok=True)
  least, most = visualize.colormap_palette("viridis")[[0, -1]] / 255
  legend = (
    ("right, sure", least),
    ("wrong, in doubt", most),
    ("does not count: pasted from the source, or without label or depth", [_GREY / 255] * 3),
  )
  title = f"{name}: which pseudo-labels are wrong, and what shows it"
  visualize.write_sheet(rows, title, path, legend)


if __name__ == "__main__":
  run_command(main)
