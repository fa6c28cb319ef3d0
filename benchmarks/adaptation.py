"""Does adaptation help? Trains four ways on the street world and compares them on the target.

    python -m benchmarks.adaptation

Source only; adapted without depth (DACS); CorDA; and trained on target labels, which bounds what
adaptation can reach. The same steps and batches for all, several seeds, one table. Started again,
it goes on where it was stopped; runs that are done are not repeated.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.options import apply_settings, load_config, run_command, setting
from corda_jax.errors import UserError
from corda_jax.main import run
from corda_jax.training.run_files import check_config

TARGET_LABELS = "trained on target labels"  # the target takes the place of the source

METHODS = {
  "source only": {
    "method.adapt": False,
    "model.depth": False,
    "model.correlation": False,
  },
  "adapted without depth (DACS)": {
    "model.depth": False,
    "model.correlation": False,
  },
  "CorDA": {},
  TARGET_LABELS: {
    "method.adapt": False,
    "model.depth": False,
    "model.correlation": False,
  },
}


def main(arguments: list[str] | None = None) -> None:
  """Runs what is missing and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", default="demo", help="of configs/; demo:batch=8: larger batches")
  parser.add_argument("--steps", type=int, default=None, help="of each run; default: the demo's")
  parser.add_argument("--seeds", type=int, default=3, help="runs of each method")
  parser.add_argument("--workdir", type=Path, default=Path("runs/adaptation"), help="of all runs")
  parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
  parser.add_argument(
    "--set",
    nargs="*",
    default=[],
    type=setting,
    metavar="FIELD=VALUE",
    help="changes the configuration of all runs",
  )
  options = parser.parse_args(arguments)
  options.set = dict(options.set)
  if options.seeds < 1:
    raise UserError(f"--seeds is {options.seeds}, wanted 1 or more")
  # Runs of one method share their compiled step.
  jax.config.update("jax_compilation_cache_dir", str(options.workdir.absolute() / "compiled"))
  results = {method: [] for method in options.methods}
  started = time.monotonic()
  for seed in range(options.seeds):  # seed by seed: a table that is cut short is still fair
    for method in options.methods:
      workdir = options.workdir / f"{method.replace(' ', '_')}_{seed}"
      results[method].append(_run(method, seed, workdir, options))
      print(f"{method}, seed {seed}: target mIoU {results[method][-1]['miou']:.1f} %", flush=True)
  print(f"\n{table(results)}\n\n{time.monotonic() - started:.0f} s on {os.cpu_count()} cores")


def _run(method: str, seed: int, workdir: Path, options: argparse.Namespace) -> dict[str, Any]:
  """Results of one run: from its file if it is done, else after training."""
  config = load_config(options.config)
  apply_settings(config, METHODS[method] | options.set)
  if method == TARGET_LABELS:
    config.data.source = config.data.target.copy_and_resolve_references()
  return run_seed(config, seed, options.steps, workdir)


def run_seed(config: Any, seed: int, steps: int | None, workdir: Path) -> dict[str, Any]:
  """Results of a run that is evaluated and saved once, at its end; see `run_once`.

  Args:
    config: changed in place.
    seed: of the run.
    steps: of training; None: the configuration's.
    workdir: folder of the run.
  """
  config.seed = seed
  config.num_steps = steps or config.num_steps
  config.evaluate_every = config.checkpoint_every = config.num_steps
  return run_once(config, workdir)


def run_once(config: Any, workdir: Path) -> dict[str, Any]:
  """Results of one run: from its file if it is done, else after training."""
  results = workdir / "results.json"
  check_config(workdir, config.to_dict())  # results of another configuration must not slip in
  if not results.exists():
    run(config, workdir, "train")
  return json.loads(results.read_text())


def miou_table(results: dict[str, list[dict]], title: str = "") -> str:
  """Mean and spread of mIoU by method, as Markdown; `title` is that of the first column."""
  lines = [f"| {title} | mIoU, mean ± spread | seeds |".replace("|  |", "| |"), "|---|---|---|"]
  for method, runs in results.items():
    values = [run["miou"] for run in runs]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    seeds = ", ".join(f"{value:.1f}" for value in values)
    lines.append(f"| {method} | {statistics.mean(values):.1f}{spread} | {seeds} |")
  return "\n".join(lines)


def table(results: dict[str, list[dict]]) -> str:
  """Mean and spread of mIoU by method, then mean IoU by class, as Markdown."""
  lines = [miou_table(results)]
  lines += ["", f"| IoU, mean | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
  for name in next(iter(results.values()))[0]["iou"]:
    cells = []
    for runs in results.values():
      values = [run["iou"][name] for run in runs if run["iou"][name] is not None]
      cells.append(f"{statistics.mean(values):.1f}" if values else "-")
    lines.append(f"| {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


if __name__ == "__main__":
  run_command(main)
