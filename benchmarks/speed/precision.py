"""Does the network compute well enough in half the bits?

    python -m benchmarks.speed.precision

Adapts on the street world in float32 and in bfloat16, from the same weights and with the same
batches, several seeds; and, as a control, in float32 with one student pass, the same
arithmetic in another order of sums. Two tables: the losses of the first 200 steps, beside the
differences that seeds and the order of sums alone cause, and the target's mIoU at the end. A
restarted command continues where it stopped; finished runs are not repeated.
"""

import argparse
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from benchmarks.ablation.scores import miou_table
from benchmarks.ablation.seeds import run_seed
from benchmarks.options import add_config_options, chosen_config, run_command
from corda_jax.errors import UserError

# Name → what it changes; the first is what the others are compared with.
KINDS = {
  "float32": {"model.dtype": "float32"},
  "bfloat16": {"model.dtype": "bfloat16"},
  "float32, other sums": {"model.dtype": "float32", "compute.one_student_pass": True},
}
_WINDOWS = ((1, 50), (51, 100), (101, 150), (151, 200))  # steps, both ends among them
_LOSSES = ("total", "ce_src", "ce_mix")

Curves = Mapping[str, np.ndarray]  # loss → its value at every step


def main(arguments: list[str] | None = None) -> None:
  """Runs what is missing and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, default=3, help="runs of each type")
  parser.add_argument("--steps", type=int, default=None, help="default: the configuration's")
  parser.add_argument("--workdir", type=Path, default=Path("runs/precision"), help="of all runs")
  add_config_options(parser, default="demo:as_released", changed="all runs")
  options = parser.parse_args(arguments)
  if options.seeds < 2:
    raise UserError(f"--seeds is {options.seeds}, expected 2 or more, for a spread over seeds")
  if options.steps is not None and options.steps < _WINDOWS[-1][1]:
    raise UserError(f"--steps is {options.steps}, expected {_WINDOWS[-1][1]} or more")
  jax.config.update("jax_compilation_cache_dir", str(options.workdir.absolute() / "compiled"))
  started = time.monotonic()
  results = {kind: [] for kind in KINDS}
  curves = {kind: [] for kind in KINDS}
  for seed in range(options.seeds):
    for kind, changes in KINDS.items():
      config = chosen_config(options, changes | {"log_every": 1})
      workdir = options.workdir / f"{kind.replace(', ', '_').replace(' ', '_')}_{seed}"
      results[kind].append(run_seed(config, seed, options.steps, workdir))
      curves[kind].append(read_curves(workdir))
      print(f"{kind}, seed {seed}: target mIoU {results[kind][-1]['miou']:.1f} %", flush=True)
  print(f"\n{losses_table(curves)}\n\n{miou_table(results)}")
  print(f"\n{time.monotonic() - started:.0f} s on {os.cpu_count()} cores")


def read_curves(workdir: Path) -> Curves:
  """The losses that a run logged at every step, in the order of the steps.

  Raises:
    UserError: a step is missing.
  """
  # Without a limit, or long runs would be thinned out.
  events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"tensors": 0})
  events.Reload()
  curves = {}
  for name in _LOSSES:
    tag = f"train/{name}"
    logged = events.Tensors(tag) if tag in events.Tags()["tensors"] else ()
    by_step = {event.step: float(make_ndarray(event.tensor_proto)) for event in logged}
    if sorted(by_step) != list(range(1, len(by_step) + 1)) or len(by_step) < _WINDOWS[-1][1]:
      raise UserError(
        f"the curve of {name} in {workdir} lacks steps of the first {_WINDOWS[-1][1]}: delete that "
        "folder"
      )
    curves[name] = np.array([by_step[step] for step in sorted(by_step)])
  return curves


def losses_table(curves: Mapping[str, Sequence[Curves]]) -> str:
  """Mean losses over windows of steps, and their differences by kind and by seed, as Markdown.

  Args:
    curves: kind → curves of each seed; the others are compared with the first.
  """
  first, *others = curves
  lines = [
    "| loss, steps | "
    + " | ".join([f"{first}, mean ± spread over seeds", *others])
    + " | largest difference with the same seed: "
    + " | ".join(others)
    + " |",
    "|---" * (2 + 2 * len(others)) + "|",
  ]
  for name in _LOSSES:
    for begin, end in _WINDOWS:
      means = {
        kind: np.array([curve[name][begin - 1 : end].mean() for curve in of_seeds])
        for kind, of_seeds in curves.items()
      }
      cells = [
        f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"
        for values in map(np.ndarray.tolist, means.values())
      ]
      cells += [f"{np.abs(means[first] - means[kind]).max():.3f}" for kind in others]
      lines.append(f"| {name}, {begin} to {end} | {' | '.join(cells)} |")
  return "\n".join(lines)


if __name__ == "__main__":
  run_command(main)
