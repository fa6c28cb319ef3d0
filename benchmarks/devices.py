"""Does an accelerator compute what the CPU computes?

    python -m benchmarks.devices

Trains the demo's network from the same weights on the same batches of the street world, rendered
into memory: on the CPU in float32, and on the accelerator in float32 and in bfloat16. Then the
network that the accelerator trained is exported, and its bundle predicts on both. Prints the losses
beside each other; rounding grows from step to step, so that only the first ones agree. Fails if the
first float32 loss or the bundle's classes differ.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.ablation.run import frames_of
from benchmarks.ablation.world import Frames, train_batches, whole_frames
from benchmarks.memory import MemoryFeed, NoWriter
from benchmarks.options import add_config_options, chosen_config, run_command
from benchmarks.speed.runners import device_name
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.inference.bundle import read_bundle
from corda_jax.inference.export import export
from corda_jax.training.history import read_history
from corda_jax.training.run_files import check_config, record_config
from corda_jax.training.sharding import make_mesh
from corda_jax.training.train_loop import train

_FIRST_LOSS = 1e-4  # relative difference of the first float32 loss; rounding gives 1e-6
_CLASSES = 1e-3  # share of the bundle's pixels that may have another class
_SHOWN = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)  # steps
_PREDICTED = 8  # frames


def main(arguments: list[str] | None = None) -> None:
  """Trains, predicts, and prints the tables.

  Raises:
    UserError: the devices differ.
  """
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add_config_options(parser, default="demo:as_released", changed="all runs")
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--frames", type=int, default=100, help="of each domain")
  parser.add_argument("--workdir", type=Path, help="folder of the runs; default: a temporary one")
  options = parser.parse_args(arguments)
  for name in ("steps", "frames"):
    if getattr(options, name) < 1:
      raise UserError(f"--{name} is {getattr(options, name)}, expected 1 or more")
  with contextlib.ExitStack() as stack:
    if options.workdir is None:
      options.workdir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    compare(options)


def compare(options: argparse.Namespace) -> None:
  """Trains, predicts and prints; `main` documents it."""
  cpu, device = jax.devices("cpu")[0], jax.devices()[0]
  runs = {
    "CPU, float32": (cpu, "float32"),
    "device, float32": (device, "float32"),
    "device, bfloat16": (device, "bfloat16"),
  }
  losses, scores = {}, {}
  for name, (place, dtype) in runs.items():
    config = _config(options, dtype)
    task = AdaptationTask.from_config(config, make_mesh([place]))
    folder = options.workdir / name.replace(", ", "_")
    frames = frames_of(config, options.workdir / "frames")
    with jax.default_device(place):
      losses[name], scores[name] = _trained(task, folder, frames)
    if name == "device, float32":
      differing = _differing(task, folder, frames[2], cpu, device)
  print(f"\ndevice: {device_name()}, JAX {jax.__version__}; matmul precision 'highest'")
  print(table(losses, scores))
  error = abs(losses["device, float32"][1] / losses["CPU, float32"][1] - 1)
  print(f"\nfirst loss in float32: relative difference {error:.1e}")
  print(f"bundle: {differing:.3%} of the pixels of {_PREDICTED} frames have another class")
  if not error < _FIRST_LOSS:
    raise UserError(f"the first loss differs by {error:.1e}, expected less than {_FIRST_LOSS:.0e}")
  if not differing < _CLASSES:
    raise UserError(f"{differing:.3%} of the classes differ, expected less than {_CLASSES:.1%}")


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


def _trained(
  task: AdaptationTask, folder: Path, frames: tuple[Frames, Frames, Frames]
) -> tuple[dict[int, float], float]:
  """Total loss by step, and mIoU at the end."""
  config, (source, target, validation) = task.config, frames
  check_config(folder, config.to_dict())
  folder.mkdir(parents=True, exist_ok=True)
  record_config(folder, config.to_dict())
  feed = MemoryFeed(
    lambda step: train_batches(source, target, config, start_step=step),
    lambda: whole_frames(validation, config.data.evaluation_batch_size),
  )
  _, evaluation = train(task, folder, feed, NoWriter())
  curves = {entry["step"]: entry["curves"] for entry in read_history(folder)[::-1]}
  return {step: each["train/total"] for step, each in curves.items()}, evaluation.score


def _differing(task: AdaptationTask, folder: Path, frames: Frames, *devices: jax.Device) -> float:
  """Share of pixels to which a run's bundle gives different classes on two devices."""
  bundle = export(task, folder)
  labels = []
  for device in devices:
    with jax.default_device(device):
      labels.append(read_bundle(bundle).predict(frames.image[:_PREDICTED])["label"])
  return float(np.mean(labels[0] != labels[1]))


def table(losses: dict[str, dict[int, float]], scores: dict[str, float]) -> str:
  """Losses of some steps and the final mIoU of every run, as Markdown.

  Args:
    losses: run → step → total loss.
    scores: run → mIoU in percent.
  """
  lines = [f"| step | {' | '.join(losses)} |", "|---" * (len(losses) + 1) + "|"]
  last = max(next(iter(losses.values())))
  for step in sorted({*(step for step in _SHOWN if step < last), last}):
    lines.append(f"| {step} | {' | '.join(f'{each[step]:.5f}' for each in losses.values())} |")
  lines.append(f"| mIoU | {' | '.join(f'{score:.1f}' for score in scores.values())} |")
  return "\n".join(lines)


if __name__ == "__main__":
  run_command(main)
