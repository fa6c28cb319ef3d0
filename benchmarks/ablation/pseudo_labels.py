"""Which pseudo-labels are wrong, and what shows it: the teacher's confidence, or the depth heads?

    python -m benchmarks.ablation.pseudo_labels runs/ablation_small/gta5_refinement_as_released_0 …

For runs of `benchmarks.ablation.run` with depth heads, with their newest checkpoint. On training
batches it compares the teacher's labels of the target with the true ones, which training never
sees, and measures how well each measure of doubt ranks wrong pixels before right ones:
the area under the ROC curve (AUROC), 0.5 for a measure that knows nothing, 1 for one that knows
all. Then by class: how many labels are wrong, and how far the depth heads are off.
"""

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

from benchmarks.ablation.inspection import config_of_run, later_batches
from benchmarks.options import run_command
from corda_jax import visualize
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.inverse_depth import NO_DEPTH
from corda_jax.errors import UserError
from corda_jax.labels import IGNORE, ClassList
from corda_jax.training.restore import restore_state

# Measures of doubt. Discrepancies are between the source's and the target's head, errors between a
# head and the files; both relative to the files' inverse depth, which the refinement reads, too,
# unless depth is learned photometrically. The student sees the mixed image, the teacher the target.
CONFIDENCE = "1 - confidence"
STUDENT = "discrepancy, student"
HEADS = ("error of the source's head, teacher", "error of the target's head, teacher")
MEASURES = (
  CONFIDENCE,
  "small weight in the loss",  # the weight that the run itself gives pixels
  STUDENT,
  "discrepancy, teacher",
  "discrepancy of logarithms, teacher",
  "the same from the image's own median",
  *HEADS,
  "1 - confidence x (1 - discrepancy, student)",
)

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
  """Prints a row per run, and per class over all runs, and draws the first run."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
  parser.add_argument("--batches", type=int, default=100)
  parser.add_argument(
    "--pictures", type=Path, help="PNG file: mistakes and doubts of the first run"
  )
  options = parser.parse_args(arguments)
  if options.batches < 1:
    raise UserError(f"--batches is {options.batches}, expected 1 or more")
  print(f"| run | wrong pseudo-labels | AUROC: {' | '.join(MEASURES)} |")
  print("|---" * (2 + len(MEASURES)) + "|")
  rows, pictured, of_runs = [], [], []
  for folder in options.runs:
    found = []
    for seen in look(folder, options.batches):
      values = (seen.label, seen.wrong(), *seen.doubts.values())
      found.append([each[seen.counts] for each in values])
      if folder == options.runs[0] and len(pictured) < 4:
        pictured.append(seen)
    label, wrong, *doubts = (np.concatenate(each) for each in zip(*found, strict=True))
    of_runs.append([label, wrong, *(doubts[MEASURES.index(measure)] for measure in HEADS)])
    rows.append([wrong.mean(), *(auroc(doubt, wrong) for doubt in doubts)])
    print(f"| {folder.name} | {_cells(rows[-1])} |", flush=True)
  if len(rows) > 1:
    print(f"| mean | {_cells([statistics.mean(column) for column in zip(*rows, strict=True)])} |")
  names = ClassList.from_config(config_of_run(options.runs[0]).data.classes).names
  pooled = (np.concatenate(each) for each in zip(*of_runs, strict=True))
  print(f"\n{class_table(names, *pooled)}")
  if options.pictures:
    draw(pictured, options.runs[0].name, options.pictures)


def _cells(row: Sequence[float]) -> str:
  share, *areas = row
  return " | ".join([f"{share:.1%}", *(f"{area:.3f}" for area in areas)])


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


def look(folder: Path, batches: int) -> Iterator[Look]:
  """Predictions on batches of training, by a run's newest checkpoint.

  Args:
    folder: folder of a run of the ablation.
    batches: number of training batches.

  Raises:
    UserError: there is no such run, or it has no depth heads or no adaptation.
  """
  config = config_of_run(folder)
  task = AdaptationTask.from_config(config)
  if not (task.has_depth_heads and task.step.adapts):
    raise UserError(
      f"{folder} has no depth heads or no adaptation: name another run of the ablation"
    )
  state = restore_state(task, folder)
  maps = jax.jit(task.make_maps())
  for batch, inputs, key in later_batches(task, folder, int(state.step), batches):
    yield _judge(jax.device_get(maps(state, inputs, key)), batch)


def _judge(maps: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> Look:
  label, depth = batch["target_label"], batch["target_inverse_depth"]
  by_target, by_source = maps["inverse_depth"], maps["source_inverse_depth"]
  teacher, teacher_source = (
    maps[f"teacher_{name}"] for name in ("inverse_depth", "source_inverse_depth")
  )
  discrepancy = np.abs(by_source - by_target) / depth
  ratio = np.log(np.maximum(teacher_source, 1)) - np.log(np.maximum(teacher, 1))
  known = np.where(depth > NO_DEPTH, ratio, np.nan)
  median = np.nan_to_num(np.nanmedian(known, axis=(1, 2), keepdims=True))
  values = (
    1 - maps["confidence"],
    -maps["pixel_weight"],
    discrepancy,
    np.abs(teacher_source - teacher) / depth,
    np.abs(ratio),
    np.abs(ratio - median),
    np.abs(teacher_source - depth) / depth,
    np.abs(teacher - depth) / depth,
    1 - maps["confidence"] * np.clip(1 - discrepancy, 0, 1),
  )
  return Look(
    batch["target_image"],
    label,
    maps["pseudo_label"],
    dict(zip(MEASURES, values, strict=True)),
    ~maps["mask"] & (label != IGNORE) & (depth > NO_DEPTH),
  )


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
