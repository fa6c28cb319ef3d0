"""Wires the jobs of the depth stage to data, curves and pictures; the command is main.py's."""

import functools
import itertools
import json
from collections.abc import Callable, Mapping
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
from corda_jax.jobs.depth_weights import read_initial_depth_weights, weights_digest
from corda_jax.jobs.label_depth import label_depth
from corda_jax.jobs.report import write_report
from corda_jax.jobs.restore import find_checkpoint, restore_state
from corda_jax.jobs.train_depth import train_depth
from corda_jax.main_curves import curves_writer, told_not_raised
from corda_jax.training.processes import first_process_first, wait_for_all
from corda_jax.training.run_files import check_config, has_checkpoints, read_config, record_config
from corda_jax.training.sharding import check_divisible, check_training_batch
from corda_jax.visualize import depth_sheet
from data_pipelines.batches import evaluation_batches, num_examples, train_batches
from data_pipelines.depth_files import DepthFiles
from data_pipelines.inverse_depth import from_sigmoid, to_disparity
from data_pipelines.provide import provide

# What a run keeps when it is evaluated or labels: what else differs changes no weight.
_NETWORK = ("model.", "depth.min_depth", "depth.max_depth")
_MEASURED = ("data.target.views", "depth.metres_per_unit")  # and what errors depend on


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
  trained = None
  if mode == "label_depth":
    find_checkpoint(workdir, config.evaluation.checkpoint)
    before = read_config(workdir)
    if before.get("task") != "depth":
      raise UserError(f"{workdir} holds no run of the depth stage: name the --workdir of one")
    trained = before["data"]["target"]["views"]
    _check_scale(config, workdir)
    if config.data.target.dataset == "folder":
      # Records with neighbours lack the ends of clips, and the adaptation wants every frame.
      config = config.copy_and_resolve_references()
      config.data.target.views = ()
  experiment = DepthExperiment.from_config(config, views=trained)
  check_divisible(experiment.mesh, config.data.evaluation_batch_size, "data.evaluation_batch_size")
  experiment.state_shapes()  # networks that cannot be are told before data are prepared for hours
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
    group = config.model.batch_norm_group
    check_training_batch(experiment.mesh, config.data.batch_size, group)
    check_config(workdir, config.to_dict())
    if not has_checkpoints(workdir):
      read_initial_depth_weights(experiment)  # and so is a wrong file
    check_writable(workdir)
    with first_process_first("provide the data"):
      provide(config.data, ("target",), self_supervised=True)
    record_config(workdir, config.to_dict())
  else:
    # What is labelled may be another data set; what is evaluated has the views of the training.
    parts = _NETWORK if mode == "label_depth" else (*_NETWORK, *_MEASURED)
    check_config(workdir, config.to_dict(), parts=parts)
    find_checkpoint(workdir, config.evaluation.checkpoint)
    with first_process_first("provide the data"):
      provide(config.data, ("target",), self_supervised=True)
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


def _check_scale(config: Any, workdir: Path) -> None:
  """Tells of another scale than the training's; metric files of video need one.

  Raises:
    UserError: the files are to be metric, and the network was trained on video with this scale.
  """
  before = read_config(workdir)
  trained, wanted = before["depth"]["metres_per_unit"], config.depth.metres_per_unit
  if wanted != trained:
    print(f"Labels with depth.metres_per_unit {wanted}; trained with {trained}.")
  elif config.label_depth.encoding == "metric" and "right" not in before["data"]["target"]["views"]:
    results = Path(workdir) / "results.json"
    scale = json.loads(results.read_text()).get("scale") if results.exists() else None
    found = f" (by its results: {scale * trained:.4g})" if scale else ""
    raise UserError(
      "label_depth.encoding is 'metric', but the network was trained on video alone, whose scale "
      f"nobody knows: set depth.metres_per_unit{found}, or choose the encoding 'sigmoid'"
    )


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
