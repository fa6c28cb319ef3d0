"""Two training steps on several meshes, as a program: for tests with other devices than theirs.

python -m tests.training.sharded_steps FILE.json DEVICES… [--join]: on meshes of so many devices
each, of this process alone or, with --join, of all processes. "4s" splits the state of the
optimiser and of the teacher over 4 devices; in "4p" the student sees both images in one pass, "4g"
normalises groups of 2 images; "4gps" does all of it.
"""

import argparse
import json

import jax
import numpy as np
from jax.experimental import multihost_utils

from corda_jax.adaptation.task import AdaptationTask
from corda_jax.training.processes import join_processes
from corda_jax.training.sharding import (
  batch_sharded,
  make_mesh,
  put_batch,
  replicated,
  replicated_key,
)
from tests import tiny

BATCH, STEPS = 8, 2


def run(devices: str) -> dict:
  """Losses, statistics and mix masks of all steps, in float64, and the bytes of the state."""
  mesh = make_mesh(jax.devices()[: int(devices.rstrip("gps"))])
  config = tiny.get_config(
    **{
      "data.batch_size": BATCH,
      "model.dtype": "float64",
      "model.param_dtype": "float64",
      "model.batch_norm_group": 2 if "g" in devices else 0,
      "compute.shard_state": "s" in devices,
      "compute.one_student_pass": "p" in devices,
    }
  )
  task = AdaptationTask.from_config(config, mesh)
  state, step = task.initial_state(), task.compile_step()
  everywhere, split = replicated(mesh), batch_sharded(mesh)
  draw_mask = jax.jit(
    lambda key, label: task.step.mixing.sample(key, label, 19)["mix_mask"],
    in_shardings=(everywhere, split),
    out_shardings=split,
  )
  share = BATCH // jax.process_count()
  mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
  key = replicated_key(mesh, 0)
  losses, masks = [], []
  for number in range(STEPS):
    host = {name: x[mine] for name, x in task.batch_inputs(tiny.get_batch(number, BATCH)).items()}
    batch = put_batch(mesh, host)
    mask = draw_mask(jax.random.fold_in(key, number), batch["source_label"])
    masks.append(multihost_utils.process_allgather(mask, tiled=True))
    state, metrics = step(state, batch, key)
    losses.append({name: float(value) for name, value in metrics.items()})
  statistics = [state.batch_stats, state.teacher_batch_stats]
  return {
    "losses": losses,
    "statistics": [np.asarray(x).tolist() for x in jax.tree.leaves(statistics)],
    "masks": np.packbits(np.stack(masks)).tolist(),
    "teacher": [
      np.asarray(x).tolist() for x in jax.tree.leaves(everywhere_held(mesh, state.teacher_params))
    ],
    "bytes": {
      name: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(getattr(state, name)))
      for name in ("params", "optimizer_state", "teacher_params")
    },
  }


def everywhere_held(mesh, tree):
  """The same arrays, whole on every device."""
  return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)


def main() -> None:
  """Runs on every mesh and writes what they gave."""
  parser = argparse.ArgumentParser()
  parser.add_argument("path")
  parser.add_argument("devices", nargs="+")
  parser.add_argument("--join", action="store_true")
  options = parser.parse_args()
  if options.join:
    join_processes()
  jax.config.update("jax_enable_x64", True)
  results = {devices: run(devices) for devices in options.devices}
  if jax.process_index() == 0:
    with open(options.path, "w") as file:
      json.dump({"processes": jax.process_count(), "results": results}, file)


if __name__ == "__main__":
  main()
