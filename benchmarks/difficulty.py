"""Which pseudo-labels are wrong, and what tells so: the teacher's confidence, or the depth heads?

    python -m benchmarks.difficulty runs/ladder_small/gta5_refinement_as_released_0 …

Of runs that `benchmarks.ladder` has made with depth heads, by their newest checkpoint. On batches
of training it compares the teacher's labels of the target with the true ones, which training never
sees, and asks how well each measure of doubt ranks wrong pixels before right ones: the area under
the ROC curve (AUROC), 0.5 for a measure that knows nothing, 1 for one that knows all.
"""

import argparse
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from scipy import stats

from benchmarks.ladder import frames_of
from benchmarks.options import run_command
from benchmarks.world import train_batches
from corda_jax.errors import UserError
from corda_jax.jobs.evaluate import restore_state
from corda_jax.jobs.experiment import Experiment
from corda_jax.jobs.train import step_inputs
from corda_jax.labels import IGNORE
from corda_jax.training.run_files import read_config
from corda_jax.training.sharding import put_batch, replicated_key

# Measures of doubt, of the target's pixels that a mixed image shows.
MEASURES = (
  "1 - confidence",
  "discrepancy of depths",
  "discrepancy of log depths",
  "both: 1 - confidence x (1 - discrepancy)",
)


def main(arguments: list[str] | None = None) -> None:
  """Prints a row of each run."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
  parser.add_argument("--batches", type=int, default=100)
  options = parser.parse_args(arguments)
  if options.batches < 1:
    raise UserError(f"--batches is {options.batches}, wanted 1 or more")
  print(f"| run | wrong pseudo-labels | AUROC: {' | '.join(MEASURES)} |")
  print("|---" * (2 + len(MEASURES)) + "|")
  rows = []
  for folder in options.runs:
    doubts, wrong = look(folder, options.batches)
    rows.append([wrong.mean(), *(auroc(doubts[name], wrong) for name in MEASURES)])
    print(f"| {folder.name} | {_cells(rows[-1])} |", flush=True)
  if len(rows) > 1:
    print(f"| mean | {_cells([statistics.mean(column) for column in zip(*rows, strict=True)])} |")


def _cells(row: Sequence[float]) -> str:
  share, *areas = row
  return " | ".join([f"{share:.1%}", *(f"{area:.3f}" for area in areas)])


def look(folder: Path, batches: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """What a run doubts, and where it is wrong.

  Args:
    folder: of a run of the ladder.
    batches: of training that are looked at.

  Returns:
    Measure → float32 [N], large where in doubt; bool [N], whether the pseudo-label is wrong; of
    all pixels of the target that the mixed images show and that have a true label and depth.

  Raises:
    UserError: there is no such run, or it has no depth heads or no adaptation.
  """
  config = ml_collections.ConfigDict(_with_tuples(read_config(folder)))
  experiment = Experiment.from_config(config)
  if not (experiment.has_depth_heads and config.method.adapt):
    raise UserError(f"{folder} has no depth heads or no adaptation: name another run of the ladder")
  state = restore_state(experiment, folder)
  source, target, _ = frames_of(config, folder.parent / "frames")
  key = replicated_key(experiment.mesh, config.seed + 1)  # draws that training has not seen
  maps = jax.jit(experiment.make_maps())
  found = []
  # From the step on at which training stopped, so that the draws are others, too.
  for batch in itertools.islice(
    train_batches(source, target, config, start_step=int(state.step)), batches
  ):
    inputs = put_batch(experiment.mesh, step_inputs(batch, experiment.joint))
    found.append(_pixels(jax.device_get(maps(state, inputs, key)), batch))
  joined = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
  return joined, joined.pop("wrong").astype(bool)


def _with_tuples(value: Any) -> Any:
  """JSON has lists where a configuration has tuples."""
  if isinstance(value, dict):
    return {name: _with_tuples(each) for name, each in value.items()}
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _pixels(maps: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Measures of the pixels that count, and whether each is wrong."""
  truth, depth = batch["target_label"], batch["target_inverse_depth"]
  counts = ~maps["mask"] & (truth != IGNORE) & (depth > 1)
  names = ("inverse_depth", "source_inverse_depth", "confidence")
  target, by_source, confidence = (maps[name][counts] for name in names)
  discrepancy = np.abs(by_source - target) / depth[counts]  # as the refinement has it
  logarithms = [np.log(np.maximum(x, 1)) for x in (by_source, target)]
  trust = np.clip(1 - discrepancy, 0, 1)
  values = (
    1 - confidence,
    discrepancy,
    np.abs(logarithms[0] - logarithms[1]),
    1 - confidence * trust,
  )
  return dict(zip(MEASURES, values, strict=True)) | {
    "wrong": maps["pseudo_label"][counts] != truth[counts]
  }


def auroc(doubt: np.ndarray, wrong: np.ndarray) -> float:
  """Probability that a wrong one is doubted more than a right one; equal doubts count half.

  Args:
    doubt: [N].
    wrong: bool [N].
  """
  ranks = stats.rankdata(doubt)
  bad = int(wrong.sum())
  return float((ranks[wrong].sum() - bad * (bad + 1) / 2) / (bad * (len(wrong) - bad)))


if __name__ == "__main__":
  run_command(main)
