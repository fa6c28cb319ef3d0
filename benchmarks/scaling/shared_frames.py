"""How well do devices share a frame in evaluation? Compiles for several devices; times nothing.

    JAX_NUM_CPU_DEVICES=8 python -m benchmarks.scaling.shared_frames

What each device computes and holds, sends and receives, according to the compiled program.
"""

import argparse

import jax
import numpy as np

from benchmarks.options import add_config_options, chosen_config, run_command
from benchmarks.scaling.collectives import count_collectives
from corda_jax.adaptation.evaluate import Evaluator
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.training.sharding import make_mesh


def main(arguments: list[str] | None = None) -> None:
  """Compiles and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add_config_options(parser, changed="all rows")
  parser.add_argument("--devices", nargs="+", type=int, default=[1, 2, 4, 8], help="that share one")
  options = parser.parse_args(arguments)
  if not 1 <= min(options.devices) <= max(options.devices) <= jax.device_count():
    raise UserError(
      f"--devices is {options.devices}, but {jax.device_count()} exist: set JAX_NUM_CPU_DEVICES"
    )
  print("| devices a frame | GFLOP on each | scratch, MB | collectives | MB received |")
  print("|---|---|---|---|---|")
  for devices in options.devices:
    print(_row(options, devices), flush=True)


def _row(options: argparse.Namespace, devices: int) -> str:
  config = chosen_config(options, {"evaluation.devices_per_frame": devices})
  task = AdaptationTask.from_config(config, make_mesh(jax.devices()[:devices]))
  target = config.data.target
  batch = {
    "image": np.zeros((1, target.height, target.width, 3), np.uint8),
    "label": np.zeros((1, 2 * target.height, 2 * target.width), np.uint8),
    "valid": np.ones(1, bool),
  }
  compiled = Evaluator(task).traced_for(task.state_shapes, batch).lower().compile()
  messages = count_collectives(compiled.as_text()).values()
  scratch = compiled.memory_analysis().temp_size_in_bytes
  return (
    f"| {devices} | {compiled.cost_analysis()['flops'] / 1e9:.1f} | {scratch / 1e6:.1f} | "
    f"{sum(each.count for each in messages)} | {sum(each.payload for each in messages) / 1e6:.2f} |"
  )


if __name__ == "__main__":
  run_command(main)
