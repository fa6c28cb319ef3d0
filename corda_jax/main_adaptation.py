"""Runs the jobs of the adaptation that read data: connects them to data, curves and pictures."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from corda_jax.jobs.evaluate import Evaluator, evaluate
from corda_jax.jobs.experiment import Experiment
from corda_jax.jobs.report import write_report
from corda_jax.jobs.train import train
from corda_jax.main_curves import curves_writer, told_not_raised
from corda_jax.training.processes import first_process_first
from corda_jax.training.run_files import record_config
from corda_jax.training.state import TrainState
from corda_jax.visualize import contact_sheet, training_sheet
from data_pipelines.input_pipeline import as_numpy, evaluation_dataset, train_dataset
from data_pipelines.prepare import provide


def run(experiment: Experiment, workdir: Path, mode: str) -> None:
  """Provides the data and runs the job.

  Args:
    experiment: of `check_adaptation`.
    workdir: folder of the run.
    mode: "prepare", "train" or "evaluate".

  Raises:
    UserError: the data will not do, or the job failed.
  """
  config = experiment.config
  needs = [("target", "validation", experiment.evaluated_contents)]
  if mode != "evaluate":
    needs = [
      (domain, config.data[domain].splits[0], experiment.trained_contents(domain))
      for domain in ("source", "target")
    ] + needs
  if mode == "prepare":
    for (domain, *_), builder in zip(needs, provide(config.data, needs), strict=True):
      print(f"{domain}: {os.fspath(builder.data_path)}", *builder.report.lines(), sep="\n  ")
    return
  with first_process_first("provide the data"):
    provide(config.data, needs)
  processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}

  def validation(spread: int | None = None) -> Iterator[Mapping[str, Any]]:
    return as_numpy(
      evaluation_dataset(
        config.data,
        contents=experiment.evaluated_contents,
        spread=spread or config.evaluation.max_frames or None,
        **processes,
      )
    )

  if mode == "evaluate":
    state, result = evaluate(experiment, workdir, validation)
    with told_not_raised("pictures"):
      _write_pictures(experiment, workdir, state, result, validation)
    return
  record_config(workdir, config.to_dict())
  print(_parameter_overview(experiment.state_shapes().params))
  with curves_writer(workdir) as writer:
    state, result = train(
      experiment,
      workdir,
      train_batches=lambda step: as_numpy(
        train_dataset(config.data, seed=config.seed, start_step=step, **processes)
      ),
      evaluation_batches=validation,
      write_scalars=writer.write_scalars,
      show=functools.partial(_show_training, experiment, workdir, writer),
    )
    with told_not_raised("pictures"):
      sheet = _write_pictures(experiment, workdir, state, result, validation)
      if sheet is not None:
        images = np.asarray(Image.open(sheet))[None, ..., :3]
        writer.write_images(result["step"], {"target": images})
  if jax.process_index() == 0:
    print(f"Results: {workdir / 'results.json'}")
    with told_not_raised("the report"):
      print(f"Report: {write_report(workdir, config.to_dict())}")
    print(f"Curves: tensorboard --logdir {workdir / 'tensorboard'}")


def _write_pictures(
  experiment: Experiment,
  workdir: Path,
  state: TrainState,
  result: Mapping[str, Any],
  validation: Callable[..., Iterator[Mapping[str, Any]]],
) -> Path | None:
  """Writes the contact sheet of a result; its path, or None where another process writes it."""
  count = experiment.config.evaluation.pictures
  if count < 1:
    return None
  pictures = Evaluator(experiment).pictures(state, validation(spread=count), count)
  if jax.process_index() > 0:
    return None
  network = experiment.config.evaluation.network
  sheet = workdir / "pictures" / f"{network}_step_{result['step']:06d}.png"
  sheet.parent.mkdir(exist_ok=True)
  title = (
    f"{workdir.name}: frames of the target's validation set, {network} after {result['step']} "
    f"steps, mIoU {result['miou']:.1f} %"
  )
  contact_sheet(pictures, title, sheet, experiment.classes)
  print(f"Pictures: {sheet}")
  return sheet


def _show_training(
  experiment: Experiment, workdir: Path, writer: Any, step: int, pictures: dict[str, np.ndarray]
) -> None:
  """Writes the sheet of what a training step sees, and shows it in TensorBoard."""
  sheet = workdir / "pictures" / f"train_step_{step:06d}.png"
  sheet.parent.mkdir(exist_ok=True)
  title = f"{workdir.name}: what training sees in step {step}"
  training_sheet(pictures, title, sheet, experiment.classes)
  writer.write_images(step, {"train": np.asarray(Image.open(sheet))[None, ..., :3]})


def _parameter_overview(params: Any) -> str:
  """Sizes of the parts of a network: the encoder's blocks, and all other modules."""
  parts: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = [key.key for key in path]
    part = "/".join(names[: 2 if names[0] == "encoder" else 1])
    parts[part] = parts.get(part, 0) + leaf.size
  parts["parameters in all"] = sum(parts.values())
  return "\n".join(f"{part:<24} {size:>12,}" for part, size in parts.items())
