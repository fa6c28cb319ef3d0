"""What does a network gain that sees depth, and where? Beside one that does not.

    python -m benchmarks.ablation.depth_seen RUN_WITHOUT RUN_WITH --depth_run runs/depth_of_all

For two runs of `benchmarks.ablation.run` on one source and one city. It prints how many pixels of
the validation frames are wrong: in all, of things of few pixels, at borders between classes and
elsewhere; by both networks, and by the second with its depth hidden.
"""

import argparse
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from benchmarks.ablation.inspection import check_depth, config_of_run
from benchmarks.ablation.predicted import PredictedDepth, add_depth_run
from benchmarks.ablation.run import frames_of
from benchmarks.ablation.world import whole_frames
from benchmarks.options import run_command
from corda_jax import visualize
from corda_jax.adaptation.evaluate import Evaluator
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.inverse_depth import NO_DEPTH
from corda_jax.errors import UserError
from corda_jax.labels import IGNORE
from corda_jax.models.depth_guided import sees_depth
from corda_jax.training.restore import restore_state

THIN = ("pole", "traffic light", "traffic sign", "person", "rider", "motorcycle", "bicycle")
WITHOUT, WITH, HIDDEN = "without depth", "with depth", "with depth, hidden"
_FRAMES = 6  # in the picture
_SAME = (
  "data.source.dataset",
  "data.target.height",
  "data.target.width",
  *(f"data.street_world.{name}" for name in ("seed", "gap", "validation_frames")),
)


class Seen(NamedTuple):
  """Predictions on the validation frames.

  Attributes:
    image: uint8 RGB [N, H, W, 3].
    label: uint8 [N, H, W], true labels.
    depth: [N, H, W], the inverse depth that is seen.
    predictions: network → [N, H, W].
    names: names of the classes.
  """

  image: np.ndarray
  label: np.ndarray
  depth: np.ndarray
  predictions: dict[str, np.ndarray]
  names: Sequence[str]


def main(arguments: list[str] | None = None) -> None:
  """Prints the table and draws the first frames."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("without", type=Path, help="folder of a run that sees no depth")
  parser.add_argument("with_depth", type=Path, help="folder of a run that does")
  parser.add_argument("--picture", type=Path, help="PNG file: both predictions and their errors")
  add_depth_run(parser)
  options = parser.parse_args(arguments)
  predict = PredictedDepth(options.depth_run) if options.depth_run else None
  seen = look(options.without, options.with_depth, predict)
  print(table(seen.label, seen.predictions, seen.names))
  if options.picture:
    draw(seen, options.picture)


def look(without: Path, with_depth: Path, predict: PredictedDepth | None = None) -> Seen:
  """Predictions of both networks, by their newest checkpoints.

  Args:
    without: folder of a run whose network sees no depth.
    with_depth: folder of a run whose network does.
    predict: network whose depth the second was trained with; None: the true depth.

  Raises:
    UserError: there is no such run, the second was trained with other depth, or the two cannot be
      compared.
  """
  check_depth(with_depth, predict)
  folders = (without, with_depth)
  tasks = [AdaptationTask.from_config(config_of_run(folder)) for folder in folders]
  _check_comparable(folders, tasks)
  config = tasks[1].config
  frames = frames_of(config, with_depth.parent / "frames", predict)[2]
  hidden = frames._replace(inverse_depth=np.full_like(frames.inverse_depth, NO_DEPTH))
  predictions = {}
  shown = ({WITHOUT: frames}, {WITH: frames, HIDDEN: hidden})
  for folder, task, networks in zip(folders, tasks, shown, strict=True):
    state, evaluator = restore_state(task, folder), Evaluator(task)
    for name, given in networks.items():
      batches = whole_frames(given, config.data.evaluation_batch_size)
      found = evaluator.pictures(state, batches, len(frames.image))
      predictions[name] = found["prediction"]
  names = task.classes.names
  return Seen(frames.image, frames.label, frames.inverse_depth, predictions, names)


def _check_comparable(folders: Sequence[Path], tasks: Sequence[AdaptationTask]) -> None:
  for folder, task, expected in zip(folders, tasks, ("no depth", "depth"), strict=True):
    if sees_depth(task.model) != (expected == "depth"):
      raise UserError(f"{folder} was expected to see {expected}: name another run")
  for name in _SAME:
    values = [operator.attrgetter(name)(task.config) for task in tasks]
    if values[0] != values[1]:
      raise UserError(
        f"{name} is {values[0]} in {folders[0]} and {values[1]} in {folders[1]}: name two runs of "
        "one source and one city"
      )


def table(label: np.ndarray, predictions: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
  """Shares of wrong pixels, a row per network, as Markdown.

  Args:
    label: [N, H, W], true labels.
    predictions: network → [N, H, W].
    names: names of the classes.
  """
  known = label != IGNORE
  window = (1, 3, 3)
  border = ndimage.maximum_filter(label, window) != ndimage.minimum_filter(label, window)
  thin = np.isin(label, [number for number, name in enumerate(names) if name in THIN])
  places = {
    "all pixels": known,
    "things of few pixels": known & thin,
    "beside another label": known & border,
    "elsewhere": known & ~border,
  }
  lines = [f"| wrong of | {' | '.join(places)} |", "|---" * (len(places) + 1) + "|"]
  for network, prediction in predictions.items():
    wrong = prediction != label
    shares = [f"{wrong[place].mean():.1%}" for place in places.values()]
    lines.append(f"| {network} | {' | '.join(shares)} |")
  return "\n".join(lines)


def draw(seen: Seen, path: Path) -> None:
  """A contact sheet: the depth, and the predictions without and with it.

  Args:
    seen: predictions; the first frames are shown.
    path: PNG file.
  """
  first = Seen(*(each[:_FRAMES] for each in seen[:3]), seen.predictions, seen.names)
  ignored = first.label == IGNORE
  rows = [
    ("target image", first.image),
    ("its depth,\nas seen", visualize.colorize_inverse_depth(first.depth)),
    ("truth", visualize.colorize_labels(first.label)),
  ]
  for name in (WITHOUT, WITH):
    prediction = seen.predictions[name][:_FRAMES]
    wrong = (prediction != first.label) & ~ignored
    shown = np.where(ignored, IGNORE, prediction).astype(np.uint8)
    rows += [
      (f"prediction\n{name}", visualize.colorize_labels(shown)),
      ("its errors", visualize.colorize(wrong, 0, 1, "Reds")),
    ]
  path.parent.mkdir(parents=True, exist_ok=True)
  visualize.write_sheet(rows, "Predictions of networks that do not and do see depth", path)


if __name__ == "__main__":
  run_command(main)
