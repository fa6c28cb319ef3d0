r"""What do devices communicate in a training step? Compiles the step and runs nothing.

    JAX_NUM_CPU_DEVICES=8 python -m benchmarks.scaling.communication --set data.batch_size=16 \
      --sweep model.batch_norm_group 0 2

Collectives of the compiled program by kind and by part of the step, for a configuration or for
every combination of the values swept; and what each device holds of the state.
"""

import argparse
import math

import jax

from benchmarks.options import add_sweep_options, run_command, swept_configs
from benchmarks.scaling.collectives import by_name, collectives_table, count_collectives
from benchmarks.speed.runners import random_batch
from benchmarks.speed.step import PARTS
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.training.sharding import check_training_batch, put_batch, replicated_key


def main(arguments: list[str] | None = None) -> None:
  """Compiles and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add_sweep_options(parser)
  options = parser.parse_args(arguments)
  found, held = {}, []
  for name, config in swept_configs(options):
    task = AdaptationTask.from_config(config)
    mesh, state = task.mesh, task.state_shapes
    check_training_batch(mesh, config.data.batch_size, config.model.batch_norm_group)
    host = random_batch(config.data, len(task.classes), 0)
    arguments = (state, put_batch(mesh, host), replicated_key(mesh, config.seed))
    program = task.compile_step().lower(*arguments).compile().as_text()
    found[name] = by_name(count_collectives(program, frozenset(PARTS)))
    held.append(sum(map(_bytes_on_a_device, jax.tree.leaves(state))))
    print(f"{name}: compiled", flush=True)
  cells = " | ".join(f"{size / 1e6:.0f} MB" for size in held)
  print("\n".join(["", *collectives_table(found), f"| state | {cells} |"]))


def _bytes_on_a_device(x: jax.ShapeDtypeStruct) -> int:
  return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


if __name__ == "__main__":
  run_command(main)
