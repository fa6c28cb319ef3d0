"""Does an accelerator compute what the CPU computes?

    python -m benchmarks.devices

Trains the demo's network from the same weights on the same batches of the street world, rendered
into memory: on the accelerator in float32 and in bfloat16, and on the CPU in float32, each in a
process of its own. The network that the accelerator trained in float32 is exported, and its bundle
predicts on both. Prints the losses beside each other; rounding grows from step to step, so that
only the first ones agree. Fails if the first float32 loss or the bundle's classes differ.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.ablation.run import frames_of
from benchmarks.ablation.world import train_batches, whole_frames
from benchmarks.memory import MemoryFeed, NoWriter
from benchmarks.options import add_config_options, chosen_config, run_command
from benchmarks.speed.runners import device_name
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.inference.bundle import read_bundle
from corda_jax.inference.export import export
from corda_jax.training.history import read_history
from corda_jax.training.run_files import check_config, record_config
from corda_jax.training.train_loop import train

RUNS = ("device_float32", "device_bfloat16", "cpu_float32")
_EXPORTED = RUNS[0]
_FIRST_LOSS = 1e-4  # relative difference of the first float32 loss; rounding gives 1e-6
_CLASSES = 1e-3  # share of the bundle's pixels that may have another class
_SHOWN = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)  # steps
_PREDICTED = 8  # frames


def main(arguments: list[str] | None = None) -> None:
  """Makes each run in a process of its own and prints the tables.

  Raises:
    UserError: a run failed, or the devices differ.
  """
  arguments = sys.argv[1:] if arguments is None else arguments
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add_config_options(parser, default="demo:as_released", changed="all runs")
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--frames", type=int, default=100, help="of each domain")
  parser.add_argument("--workdir", type=Path, help="folder of the runs; default: a temporary one")
  parser.add_argument("--run", choices=RUNS, help="this run alone, in this process")
  options = parser.parse_args(arguments)
  for name in ("steps", "frames"):
    if getattr(options, name) < 1:
      raise UserError(f"--{name} is {getattr(options, name)}, expected 1 or more")
  if options.run:
    make_run(options.run, options)
    return
  with contextlib.ExitStack() as stack:
    if options.workdir is None:
      options.workdir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    for name in RUNS:
      command = [sys.executable, "-m", "benchmarks.devices", *arguments, "--run", name]
      command += ["--workdir", str(options.workdir)]
      on_cpu = {"JAX_PLATFORMS": "cpu"} if name.startswith("cpu") else {}
      if code := subprocess.run(command, env=os.environ | on_cpu, check=False).returncode:
        raise UserError(f"the run {name} failed with code {code}: see above")
    report(options.workdir)


def make_run(name: str, options: argparse.Namespace) -> None:
  """Trains, predicts frames by the bundle, and writes WORKDIR/NAME.json and WORKDIR/NAME.npy.

  Args:
    name: one of `RUNS`.
    options: options of the command.
  """
  config = _config(options, dtype=name.split("_")[1])
  folder = options.workdir / name
  source, target, validation = frames_of(config, options.workdir / "frames")
  task = AdaptationTask.from_config(config)
  check_config(folder, config.to_dict())
  folder.mkdir(parents=True, exist_ok=True)
  record_config(folder, config.to_dict())
  feed = MemoryFeed(
    lambda step: train_batches(source, target, config, start_step=step),
    lambda: whole_frames(validation, config.data.evaluation_batch_size),
  )
  _, evaluation = train(task, folder, feed, NoWriter())
  curves = {entry["step"]: entry["curves"] for entry in read_history(folder)[::-1]}
  losses = {step: each["train/total"] for step, each in sorted(curves.items())}
  found = {"device": device_name(), "losses": losses, "miou": evaluation.score}
  (options.workdir / f"{name}.json").write_text(json.dumps(found))
  first = ", ".join(f"{step}: {losses[step]:.5f}" for step in _SHOWN if step in losses)
  print(f"{name} on {device_name()}: losses {first}", flush=True)  # whatever becomes of the others
  if name == _EXPORTED:
    export(task, folder)
  if "float32" in name:
    images = validation.image[:_PREDICTED]
    labels = read_bundle(options.workdir / _EXPORTED / "bundle").predict(images)["label"]
    np.save(options.workdir / f"{name}.npy", labels)


def _config(options: argparse.Namespace, dtype: str) -> Any:
  return chosen_config(
    options,
    {
      "num_steps": options.steps,
      "log_every": 1,
      "draw_every": 0,
      "evaluate_every": options.steps,
      "checkpoint_every": options.steps,
      "evaluation.pictures": 0,
      "model.dtype": dtype,
      "compute.matmul_precision": "highest",
      "data.street_world.source_frames": options.frames,
      "data.street_world.target_frames": options.frames,
      "data.street_world.validation_frames": options.frames,
    },
  )


def report(workdir: Path) -> None:
  """Prints the tables of all runs.

  Args:
    workdir: folder of the runs.

  Raises:
    UserError: the devices differ.
  """
  runs = {name: json.loads((workdir / f"{name}.json").read_text()) for name in RUNS}
  device, cpu = (np.load(workdir / f"{name}.npy") for name in RUNS if "float32" in name)
  print(f"\ndevice: {runs[RUNS[0]]['device']}, JAX {jax.__version__}; matmul precision 'highest'")
  print(losses_table(runs))
  first = [runs[name]["losses"]["1"] for name in RUNS if "float32" in name]
  error, differing = abs(first[0] / first[1] - 1), float(np.mean(device != cpu))
  print(f"\nfirst loss in float32: relative difference {error:.1e}")
  print(f"bundle: {differing:.3%} of the pixels of {len(cpu)} frames have another class")
  if not error < _FIRST_LOSS:
    raise UserError(f"the first loss differs by {error:.1e}, expected less than {_FIRST_LOSS:.0e}")
  if not differing < _CLASSES:
    raise UserError(f"{differing:.3%} of the classes differ, expected less than {_CLASSES:.1%}")


def losses_table(runs: Mapping[str, Mapping[str, Any]]) -> str:
  """Losses of some steps and the final mIoU of every run, as Markdown.

  Args:
    runs: run → what `make_run` writes of it.
  """
  lines = [f"| step | {' | '.join(runs)} |", "|---" * (len(runs) + 1) + "|"]
  *steps, last = next(iter(runs.values()))["losses"]
  for step in (*(step for step in steps if int(step) in _SHOWN), last):
    cells = (f"{run['losses'][step]:.5f}" for run in runs.values())
    lines.append(f"| {step} | {' | '.join(cells)} |")
  lines.append(f"| mIoU | {' | '.join(format(run['miou'], '.1f') for run in runs.values())} |")
  return "\n".join(lines)


if __name__ == "__main__":
  run_command(main)
