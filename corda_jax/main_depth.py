"""Wires the jobs of the depth stage to data, curves and pictures; the command is main.py's."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import metric_writers
from PIL import Image

from corda_jax.jobs.depth_evaluate import DepthEvaluator, evaluate_depth
from corda_jax.jobs.depth_experiment import DepthExperiment
from corda_jax.jobs.evaluate import find_checkpoint
from corda_jax.jobs.train_depth import train_depth
from corda_jax.training.checkpoint import check_config, record_config
from corda_jax.training.sharding import check_divisible
from corda_jax.visualize import depth_sheet
from data_pipelines.batches import evaluation_batches, train_batches
from data_pipelines.provide import provide

# What a run keeps when it is evaluated or labels: what else differs changes no weight.
_NETWORK = ("model.", "depth.")


def run(config: Any, workdir: Path, mode: str, check_writable: Callable[[Path], None]) -> None:
  """Provides the data and runs the job `mode` in `workdir`.

  Args:
    config: with the task "depth".
    workdir: folder of the run.
    mode: "train", "evaluate" or "label_depth".
    check_writable: raises UserError where a folder cannot be written.

  Raises:
    UserError: the configuration, the data or the folder will not do.
  """
  experiment = DepthExperiment.from_config(config)
  check_divisible(experiment.mesh, config.data.batch_size, "data.batch_size")
  check_divisible(experiment.mesh, config.data.evaluation_batch_size, "data.evaluation_batch_size")
  experiment.state_shapes()  # networks that cannot be are told before data are prepared for hours
  processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
  contents = ("image", "views", *(("inverse_depth",) if config.data.target.depth != "none" else ()))
  validation = functools.partial(
    evaluation_batches,
    config.data,
    contents=contents,
    limit=config.evaluation.max_frames or None,
    **processes,
  )
  if mode == "train":
    check_config(workdir, config.to_dict())
    check_writable(workdir)
    provide(config.data, ("target",))
    record_config(workdir, config.to_dict())
  else:
    check_config(workdir, config.to_dict(), parts=_NETWORK)
    find_checkpoint(workdir, config.evaluation.checkpoint)
    provide(config.data, ("target",))
  if mode == "evaluate":
    state, result = evaluate_depth(experiment, workdir, validation)
    _write_pictures(experiment, workdir, state, result, validation)
    return
  writer = metric_writers.create_default_writer(
    str(workdir / "tensorboard"), just_logging=jax.process_index() > 0
  )
  state, result = train_depth(
    experiment,
    workdir,
    train_batches=lambda step: train_batches(
      config.data, seed=config.seed, start_step=step, domains=("target",), **processes
    ),
    evaluation_batches=validation,
    write_scalars=writer.write_scalars,
  )
  sheet = _write_pictures(experiment, workdir, state, result, validation)
  if sheet is not None:
    writer.write_images(result["step"], {"depth": np.asarray(Image.open(sheet))[None, ..., :3]})
    print(f"Results: {workdir / 'results.json'}")
    print(f"Curves: tensorboard --logdir {workdir / 'tensorboard'}")
  writer.close()


def _write_pictures(experiment, workdir, state, result, validation) -> Path | None:
  """Writes the contact sheet of a result; its path, or None where another process writes it."""
  count = experiment.config.evaluation.pictures
  if count < 1:
    return None
  pictures = DepthEvaluator(experiment).pictures(state, validation, count)
  if jax.process_index() > 0:
    return None
  sheet = workdir / "pictures" / f"depth_step_{result['step']:06d}.png"
  sheet.parent.mkdir(exist_ok=True)
  score = (
    f"abs rel {result['abs_rel']:.3f}"
    if "abs_rel" in result
    else f"photometric loss {result['photometric_loss']:.4f}"
  )
  title = (
    f"{workdir.name}: frames of the validation set, depth from {' and '.join(experiment.views)} "
    f"after {result['step']} steps, {score}"
  )
  depth_sheet(pictures, experiment.views, title, sheet)
  print(f"Pictures: {sheet}")
  return sheet
