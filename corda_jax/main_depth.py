"""Runs the jobs of the depth stage: connects them to data, curves and pictures."""

import functools
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from corda_jax.depth.camera import disparity_to_depth
from corda_jax.depth.inverse_depth import from_metres
from corda_jax.depth.step import DepthState
from corda_jax.errors import UserError
from corda_jax.jobs.depth_evaluate import (
  Batches,
  DepthEvaluator,
  evaluate_depth,
)
from corda_jax.jobs.depth_experiment import DepthExperiment
from corda_jax.jobs.depth_weights import weights_digest
from corda_jax.jobs.label_depth import label_depth
from corda_jax.jobs.report import write_report
from corda_jax.jobs.restore import restore_state
from corda_jax.jobs.train_depth import train_depth
from corda_jax.main_curves import curves_writer, told_not_raised
from corda_jax.training.processes import first_process_first, wait_for_all
from corda_jax.training.run_files import record_config
from corda_jax.visualize import depth_sheet
from data_pipelines.batches import evaluation_batches, num_examples, train_batches
from data_pipelines.depth_files import DepthFiles
from data_pipelines.inverse_depth import from_sigmoid, to_disparity
from data_pipelines.provide import provide


def run(experiment: DepthExperiment, workdir: Path, mode: str) -> None:
  """Provides the data and runs the job.

  Args:
    experiment: of `check_depth`.
    workdir: folder of the run.
    mode: "prepare", "train", "evaluate" or "label_depth".

  Raises:
    UserError: the data will not do, or the job failed.
  """
  config = experiment.config
  if mode == "prepare":
    (builder,) = provide(config.data, ("target",), self_supervised=True)
    print(f"target: {os.fspath(builder.data_path)}", *builder.report.lines(), sep="\n  ")
    return
  with first_process_first("provide the data"):
    provide(config.data, ("target",), self_supervised=True)
  processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
  contents = ("image", "views", *(("inverse_depth",) if config.data.target.depth != "none" else ()))
  validation = functools.partial(
    evaluation_batches,
    config.data,
    split=config.evaluation.split,
    contents=contents,
    limit=config.evaluation.max_frames or None,
    **processes,
  )
  if mode == "train":
    record_config(workdir, config.to_dict())
  if mode == "label_depth":
    _label(experiment, workdir, processes)
    return
  # A split that is missing would else be told by the first evaluation, after thousands of steps.
  _count_frames(config, config.evaluation.split, "evaluation.split")
  if mode == "evaluate":
    state, result = evaluate_depth(experiment, workdir, validation)
    sheet = _Pictures(experiment, workdir, validation).write(state, result)
    if sheet is not None:
      print(f"Pictures: {sheet}")
    return
  _train(experiment, workdir, validation, processes)


def _train(
  experiment: DepthExperiment, workdir: Path, validation: Batches, processes: dict[str, int]
) -> None:
  """Trains, with curves and pictures."""
  config, pictures = experiment.config, _Pictures(experiment, workdir, validation)
  with curves_writer(workdir) as writer:

    def show(state, result):
      sheet = pictures.write(state, result)
      if sheet is not None:
        images = np.asarray(Image.open(sheet))[None, ..., :3]
        writer.write_images(result["step"], {"depth": images})

    train_depth(
      experiment,
      workdir,
      train_batches=lambda step: train_batches(
        config.data, seed=config.seed, start_step=step, domains=("target",), **processes
      ),
      evaluation_batches=validation,
      write_scalars=writer.write_scalars,
      show=show,
    )
  if jax.process_index() == 0:
    print(f"Results: {workdir / 'results.json'}")
    print(f"Pictures: {workdir / 'pictures'}")
    with told_not_raised("the report"):
      print(f"Report: {write_report(workdir, config.to_dict())}")
    print(f"Curves: tensorboard --logdir {workdir / 'tensorboard'}")


def _count_frames(config: Any, split: str, field: str) -> int:
  """Frames of a split of the records; UserError with the field that asks for it."""
  try:
    return num_examples(config.data, domain="target", split=split)
  except UserError as error:
    raise UserError(f"{field}: {error}") from error


def _label(experiment: DepthExperiment, workdir: Path, processes: dict[str, int]) -> None:
  """Writes the depth files of a data set; goes on where it was stopped."""
  config, target = experiment.config, experiment.config.data.target
  options = config.label_depth
  state = restore_state(experiment, workdir)
  meta = {
    "step": int(state.step),
    "weights": weights_digest(state),
    "encoding": options.encoding,
    "size": [target.height, target.width],
  }
  if options.encoding == "metric":
    meta["metres_per_unit"] = config.depth.metres_per_unit
  files = DepthFiles(target, folder=options.folder, meta=meta)

  def encode(disparity):
    if options.encoding == "sigmoid":
      return from_sigmoid(disparity)
    depth = disparity_to_depth(
      disparity.astype(np.float64), min_depth=config.depth.min_depth,
      max_depth=config.depth.max_depth,
    )  # fmt: skip
    return to_disparity(from_metres(depth * config.depth.metres_per_unit))

  totals = {split: _count_frames(config, split, "label_depth.splits") for split in options.splits}
  for split, total in totals.items():
    missing: set[str] = set()

    def wanted(name, split=split, missing=missing):
      absent = files.missing(split, name)
      if absent:
        missing.add(name)
      return absent

    batches = evaluation_batches(
      config.data, split=split, contents=("image",), wanted=wanted, **processes
    )
    batches = itertools.chain([first], batches) if (first := next(batches, None)) else ()
    wait_for_all(f"names of {split}")  # nothing is written before all processes have asked
    mine = -(-len(missing) // processes["process_count"])
    label_depth(
      experiment,
      state,
      batches,
      lambda name, disparity, split=split: files.write(split, name, encode(disparity)),
      total=total - len(missing) + mine,
      done=total - len(missing),
      title=f"depth of {split}",
    )
  domain = "source" if target.dataset in ("gta5", "synthia") else "target"
  print(f"Depth files: {files.folder}")
  print(f"The adaptation reads them with {files.hint(domain)}")


class _Pictures:
  """Writes the contact sheets of a run; compiles once."""

  def __init__(self, experiment: DepthExperiment, workdir: Path, batches: Batches):
    self._experiment, self._workdir, self._batches = experiment, workdir, batches
    self._evaluator = DepthEvaluator(experiment)

  def write(self, state: DepthState, result: Mapping[str, Any]) -> Path | None:
    """The sheet of a result; None where there is none, or another process writes it."""
    count = self._experiment.config.evaluation.pictures
    if count < 1:
      return None
    pictures = self._evaluator.pictures(state, self._batches, count)
    if jax.process_index() > 0:
      return None
    sheet = self._workdir / "pictures" / f"depth_step_{result['step']:06d}.png"
    sheet.parent.mkdir(exist_ok=True)
    score = (
      f"abs rel {result['abs_rel']:.3f}"
      if "abs_rel" in result
      else f"photometric loss {result['photometric_loss']:.4f}"
    )
    views = self._experiment.views
    title = (
      f"{self._workdir.name}: frames of {self._experiment.config.evaluation.split}, depth from "
      f"{', '.join(views)} after "
      f"{result['step']} steps, {score}"
    )
    depth_sheet(pictures, views, title, sheet)
    return sheet
