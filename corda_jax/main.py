"""The command: reads a configuration and runs one job.

    python -m corda_jax.main --config=configs/demo.py --workdir=runs/demo

The only module of the package that imports TensorFlow: it reads the data and writes the curves.
"""

import functools
import os
import sys
from pathlib import Path
from typing import Any

# TensorFlow reads it when it is imported: no notices about drivers that nothing here uses.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import tensorflow as tf
from absl import app, flags, logging
from clu import metric_writers, parameter_overview
from ml_collections import config_flags

from corda_jax.errors import UserError
from corda_jax.jobs.evaluate import Evaluator, evaluate
from corda_jax.jobs.experiment import Experiment
from corda_jax.jobs.train import train
from corda_jax.training.checkpoint import record_config
from corda_jax.training.sharding import check_divisible
from corda_jax.visualize import contact_sheet
from data_pipelines.batches import evaluation_batches, train_batches
from data_pipelines.provide import provide

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, curves, results.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "The job.")


def run(config: Any, workdir: Path, mode: str) -> None:
  """Provides the data and runs the job `mode` in `workdir`.

  Raises:
    UserError: the configuration, the data or the folder will not do.
  """
  _check_writable(workdir)
  experiment = Experiment.from_config(config)
  check_divisible(experiment.mesh, config.data.batch_size, "data.batch_size")
  check_divisible(experiment.mesh, config.data.evaluation_batch_size, "data.evaluation_batch_size")
  if mode == "train":
    record_config(workdir, config.to_dict())
  provide(config.data, ("source", "target") if mode == "train" else ("target",))

  processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
  validation = functools.partial(
    evaluation_batches, config.data, limit=config.evaluation.max_frames or None, **processes
  )
  if mode == "evaluate":
    state, result = evaluate(experiment, workdir, validation)
  else:
    print(_parameter_overview(experiment.state_shapes().params))
    writer = metric_writers.SummaryWriter(str(workdir / "tensorboard"))
    state, result = train(
      experiment,
      workdir,
      train_batches=lambda step: train_batches(
        config.data, seed=config.seed, start_step=step, **processes
      ),
      evaluation_batches=validation,
      write_scalars=writer.write_scalars,
    )
  sheet = workdir / "pictures" / f"step_{result['step']:06d}.png"
  sheet.parent.mkdir(exist_ok=True)
  pictures = Evaluator(experiment).pictures(state, validation(), config.evaluation.pictures)
  if jax.process_index() == 0:
    title = f"{workdir.name}, step {result['step']}: target mIoU {result['miou']:.1f} %"
    contact_sheet(pictures, title, sheet)
    print(f"Pictures: {sheet}")
  if mode == "train":
    image = tf.io.decode_png(sheet.read_bytes(), channels=3).numpy()
    writer.write_images(result["step"], {"target": image[None]})
    writer.close()
    print(f"Results: {workdir / 'results.json'}")
    print(f"Curves: tensorboard --logdir {workdir / 'tensorboard'}")


def _check_writable(workdir: Path) -> None:
  probe = workdir / f".writable-{os.getpid()}"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise UserError(
      f"--workdir={workdir} cannot be written ({error.strerror}): name a folder that can"
    ) from error


def _parameter_overview(params: Any) -> str:
  """Table of the sizes of a network's parts: its top-level modules, and the encoder's blocks."""
  sizes: dict[str, int] = {}
  for row in parameter_overview.get_parameter_rows(params, include_stats=False):
    names = row.name.split("/")
    part = "/".join(names[: 2 if names[0] == "encoder" else 1])
    sizes[part] = sizes.get(part, 0) + row.size
  sizes["parameters in all"] = sum(sizes.values())
  return "\n".join(f"{name:<28} {size:>12,}" for name, size in sizes.items())


def main(arguments: list[str]) -> None:
  """Runs the job of the flags; a mistake of the user's ends in one line and exit code 1."""
  if len(arguments) > 1:
    raise app.UsageError(f"unknown argument {arguments[1]!r}: flags begin with --")
  logging.set_verbosity(logging.WARNING)
  tf.config.set_visible_devices([], "GPU")
  try:
    run(_CONFIG.value, Path(_WORKDIR.value), _MODE.value)
  except UserError as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  jax.config.config_with_absl()
  app.run(main)
