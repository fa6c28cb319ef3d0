"""Runs the jobs of the depth stage: connects them to data, curves and pictures."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from corda_jax.depth.camera import disparity_to_depth
from corda_jax.depth.inverse_depth import from_metres
from corda_jax.depth.step import DepthState
from corda_jax.errors import UserError
from corda_jax.jobs.depth_evaluate import DepthEvaluator, evaluate_depth
from corda_jax.jobs.depth_experiment import DepthExperiment
from corda_jax.jobs.label_depth import label_depth
from corda_jax.jobs.report import write_report
from corda_jax.jobs.train_depth import train_depth
from corda_jax.locks import only_writer
from corda_jax.main_curves import curves_writer, told_not_raised
from corda_jax.pretrained.depth_weights import weights_digest
from corda_jax.training.processes import first_process_first, wait_for_all
from corda_jax.training.restore import restore_state
from corda_jax.training.run_files import record_config
from corda_jax.visualize import depth_sheet
from data_pipelines.datasets.builders import BUILDERS
from data_pipelines.depth_labels import MANIFEST, DepthFiles
from data_pipelines.input_pipeline import (
  as_numpy,
  evaluation_dataset,
  record_names,
  train_dataset,
)
from data_pipelines.inverse_depth import from_sigmoid, to_disparity
from data_pipelines.prepare import provide


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
  target, split = config.data.target, config.evaluation.split
  labelling = mode == "label_depth"
  splits = tuple(config.label_depth.splits) if labelling else (split,)
  _check_splits(target, splits, "label_depth.splits" if labelling else "evaluation.split")
  if mode in ("prepare", "train"):
    splits = (target.splits[0], split)
  # Frames that are measured by their true depth need no other views.
  measured = "views" if target.depth == "none" else "inverse_depth"
  contents = ("image",) if labelling else ("image", measured)
  trained = ("image", "views")
  needs = [
    ("target", each, contents if labelling or each == split else trained)
    for each in dict.fromkeys(splits)
  ]
  with first_process_first("provide the data"):
    builders = provide(config.data, needs)
  if mode == "prepare":
    for builder in builders:
      print(f"target: {os.fspath(builder.data_path)}", *builder.report.lines(), sep="\n  ")
    return
  if not labelling and measured != "views" and not builders[-1].report.depth_share[split]:
    raise UserError(
      f"data.target.depth is {target.depth!r}, but no frame of evaluation.split={split!r} has a "
      "depth file: name them (folder.validation.depth), or set data.target.depth='none'"
    )
  processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}

  def frames(
    split: str = split, contents: Sequence[str] = contents, spread: int | None = None
  ) -> Iterator[Mapping[str, Any]]:
    dataset = evaluation_dataset(
      config.data,
      split=split,
      contents=contents,
      spread=spread or config.evaluation.max_frames or None,
      **processes,
    )
    return as_numpy(dataset)

  if mode == "label_depth":
    state = restore_state(experiment, workdir)
    files = _depth_files(experiment, state)
    with _only_writer(files):
      _label(experiment, state, files, processes)
  elif mode == "evaluate":
    state, result = evaluate_depth(experiment, workdir, frames)
    with told_not_raised("pictures"):
      sheet = _Pictures(experiment, workdir, frames).write(state, result, split)
      if sheet is not None:
        print(f"Pictures: {sheet}")
  else:
    record_config(workdir, config.to_dict())
    _train(experiment, workdir, frames, processes)


def _check_splits(target: Any, splits: Sequence[str], field: str) -> None:
  """Raises UserError where the data set has no such split."""
  if target.dataset not in BUILDERS:
    return  # which is reported with the data
  known = (*target.splits, *("validation",) * BUILDERS[target.dataset].HAS_VALIDATION)
  if unknown := [split for split in splits if split not in known]:
    raise UserError(
      f"{field} has {unknown[0]!r}, but {target.dataset} has no such split, expected of: "
      f"{', '.join(known)}"
    )


def _train(
  experiment: DepthExperiment,
  workdir: Path,
  frames: Callable[..., Any],
  processes: dict[str, int],
) -> None:
  """Trains, with curves and pictures: of frames that have views, so of training's if need be."""
  config, target = experiment.config, experiment.config.data.target
  shown, contents = config.evaluation.split, ("image", "views")
  if target.depth != "none":
    shown, contents = target.splits[0], ("image", "views", "inverse_depth")
  pictures = _Pictures(experiment, workdir, functools.partial(frames, shown, contents))
  with curves_writer(workdir) as writer:

    def show(state, result):
      sheet = pictures.write(state, result, shown)
      if sheet is not None:
        images = np.asarray(Image.open(sheet))[None, ..., :3]
        writer.write_images(result["step"], {"depth": images})

    train_depth(
      experiment,
      workdir,
      train_batches=lambda step: as_numpy(
        train_dataset(
          config.data, seed=config.seed, start_step=step, domains=("target",), **processes
        )
      ),
      evaluation_batches=frames,
      write_scalars=writer.write_scalars,
      show=show,
    )
  if jax.process_index() == 0:
    print(f"Results: {workdir / 'results.json'}")
    print(f"Pictures: {workdir / 'pictures'}")
    with told_not_raised("the report"):
      print(f"Report: {write_report(workdir, config.to_dict())}")
    print(f"Curves: tensorboard --logdir {workdir / 'tensorboard'}")


def _depth_files(experiment: DepthExperiment, state: DepthState) -> DepthFiles:
  """The depth files of a data set that the network of `state` makes."""
  config, target = experiment.config, experiment.config.data.target
  options = config.label_depth
  meta = {
    "step": int(state.step),
    "weights": weights_digest(state),
    "encoding": options.encoding,
    "size": [target.height, target.width],
  }
  if options.encoding == "metric":
    meta["metres_per_unit"] = config.depth.metres_per_unit
  return DepthFiles(target, folder=options.folder, meta=meta)


def _only_writer(files: DepthFiles) -> contextlib.AbstractContextManager[None]:
  """Keeps other runs from writing the same files; of several processes the first one does."""
  if jax.process_index() > 0:
    return contextlib.nullcontext()
  lock = Path(files.folder, MANIFEST).with_name(".lock")
  return only_writer(lock, otherwise="choose another label_depth.folder")


def _label(
  experiment: DepthExperiment, state: DepthState, files: DepthFiles, processes: dict[str, int]
) -> None:
  """Writes the depth files of a data set; goes on where it was stopped."""
  config, target = experiment.config, experiment.config.data.target
  options = config.label_depth

  def encode(disparity):
    if options.encoding == "sigmoid":
      return from_sigmoid(disparity)
    depth = disparity_to_depth(
      disparity.astype(np.float64), min_depth=config.depth.min_depth,
      max_depth=config.depth.max_depth,
    )  # fmt: skip
    return to_disparity(from_metres(depth * config.depth.metres_per_unit))

  names = {
    split: record_names(config.data, domain="target", split=split) for split in options.splits
  }
  missing = {
    split: {name for name in names[split] if files.missing(split, name)} for split in names
  }
  wait_for_all("the names of the frames")  # nothing is written before all processes have looked
  for split, left in missing.items():
    dataset = evaluation_dataset(
      config.data, split=split, contents=("image",), names=left, **processes
    )
    mine = -(-len(left) // processes["process_count"])
    done = len(names[split]) - len(left)
    label_depth(
      experiment,
      state,
      as_numpy(dataset),
      lambda name, disparity, split=split: files.write(split, name, encode(disparity)),
      total=done + mine,
      done=done,
      title=f"depth of {split}",
    )
  domain = "source" if target.dataset in ("gta5", "synthia") else "target"
  print(f"Depth files: {files.folder}")
  print(f"The adaptation reads them with {files.hint(domain)}")


class _Pictures:
  """Writes the contact sheets of a run; compiles once."""

  def __init__(self, experiment: DepthExperiment, workdir: Path, batches: Callable[..., Any]):
    self._experiment, self._workdir, self._batches = experiment, workdir, batches
    self._evaluator = DepthEvaluator(experiment)

  def write(self, state: DepthState, result: Mapping[str, Any], split: str) -> Path | None:
    """The sheet of a result; None where there is none, or another process writes it."""
    count = self._experiment.config.evaluation.pictures
    if count < 1:
      return None
    spread = functools.partial(self._batches, spread=count)
    pictures = self._evaluator.pictures(state, spread, count)
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
      f"{self._workdir.name}: frames of {split}, depth from {', '.join(views)} after "
      f"{result['step']} steps, {score}"
    )
    depth_sheet(pictures, views, title, sheet)
    return sheet
