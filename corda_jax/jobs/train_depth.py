"""Trains the depth and pose networks, evaluating and saving on the way."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corda_jax.depth.motion import image_names
from corda_jax.depth.step import DepthState
from corda_jax.jobs.depth_evaluate import Batches, DepthEvaluator
from corda_jax.jobs.depth_experiment import DepthExperiment
from corda_jax.jobs.depth_scores import format_depth_scores
from corda_jax.metrics import DEPTH_ERRORS
from corda_jax.pretrained.depth_weights import initial_depth_state
from corda_jax.training.optimizer import depth_learning_rates
from corda_jax.training.train_loop import (
  Evaluation,
  HostBatch,
  TrainingJob,
  run_training,
)

_SHOWN = (
  ("loss", "total", ".4f"),
  ("counted", "counted_share", ".0%"),
  ("mean depth in units", "mean_depth", ".2f"),
)


def depth_step_inputs(batch: HostBatch, views: tuple[str, ...]) -> dict[str, np.ndarray]:
  """The arrays of a host batch that a step reads, without the name of the domain.

  Args:
    batch: of `train_batches` of the target: "target_image", "target_VIEW_image" uint8 RGB
      [B, H, W, 3], "target_intrinsics" [B, 4] and "target_baseline" [B].
    views: of the images.
  """
  names = (*image_names(views), "intrinsics", "baseline")
  return {name: batch[f"target_{name}"] for name in names}


def train_depth(
  experiment: DepthExperiment,
  workdir: Path,
  *,
  train_batches: Callable[[int], Iterator[HostBatch]],
  evaluation_batches: Batches,
  write_scalars: Callable[[int, Mapping[str, float]], None],
  show: Callable[[DepthState, dict[str, Any]], None] | None = None,
) -> tuple[DepthState, dict[str, Any]]:
  """Trains until `config.num_steps`, from the newest checkpoint in `workdir` if there is one.

  Args:
    experiment: networks, optimiser, mesh and configuration.
    workdir: existing folder for checkpoints and `results.json`.
    train_batches: first step → host batches for that step and all after it.
    evaluation_batches: → host batches of the validation set, once through.
    write_scalars: (step, name → value) for curves.
    show: (state, result) → pictures of it, after each evaluation.

  Returns:
    The last state, and the results that `results.json` holds.
  """
  evaluator = DepthEvaluator(experiment)

  def evaluate(state, batches):
    result = evaluator.score(state, batches)
    if "photometric_loss" in result:
      loss = result["photometric_loss"]
      curves, score = {"depth/photometric_loss": loss}, -loss
      line = f"photometric loss {loss:.4f}"
    else:
      curves = {f"depth/{name}": result[name] for name in DEPTH_ERRORS}
      score, floor = -result["abs_rel"], result["floors"]["rows"]["abs_rel"]
      line = f"abs rel {result['abs_rel']:.3f} (best constant a row: {floor:.3f})"
    return Evaluation(result, score, curves, line, format_depth_scores(result))

  job = TrainingJob(
    task=experiment,
    initial_state=lambda: initial_depth_state(experiment),
    inputs=lambda batch: depth_step_inputs(batch, experiment.views),
    evaluate=evaluate,
    evaluation_batches=evaluation_batches,
    rates=depth_learning_rates(experiment.config.optimizer),
    images_per_step=experiment.config.data.batch_size,
    shown=_SHOWN,
  )
  return run_training(
    job, workdir, train_batches=train_batches, write_scalars=write_scalars, show=show
  )
