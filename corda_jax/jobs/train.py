"""Trains the adaptation: its step, its evaluation and its curves, in the common loop."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from corda_jax.adaptation.joint_depth import JointDepth
from corda_jax.jobs.evaluate import Evaluator
from corda_jax.jobs.experiment import Experiment
from corda_jax.jobs.scores import format_scores
from corda_jax.pretrained.initial_pose import with_initial_pose
from corda_jax.pretrained.torch_checkpoints import initial_state
from corda_jax.training.optimizer import learning_rates
from corda_jax.training.sharding import batch_sharded, replicated, shardings_of
from corda_jax.training.state import TrainState
from corda_jax.training.train_loop import Evaluation, HostBatch, TrainingJob, run_training

_DRAWN_PAIRS = 4

_SHOWN = (
  ("loss", "total", ".3f"),
  ("source CE", "ce_src", ".3f"),
  ("mixed CE", "ce_mix", ".3f"),
  ("confident", "confident_fraction", ".0%"),
)


def step_inputs(batch: HostBatch, joint: JointDepth | None = None) -> dict[str, np.ndarray]:
  """The arrays of a host batch that a step reads."""
  names = [
    "source_image",
    "source_label",
    "source_inverse_depth",
    "target_image",
    "target_inverse_depth",
  ]
  for domain, views in joint.views.items() if joint else ():
    names += [f"{domain}_{view}_image" for view in views]
    names += [f"{domain}_intrinsics", f"{domain}_baseline"]
  return {name: batch[name] for name in names}


def train(
  experiment: Experiment,
  workdir: Path,
  *,
  train_batches: Callable[[int], Iterator[HostBatch]],
  evaluation_batches: Callable[[], Iterator[HostBatch]],
  write_scalars: Callable[[int, Mapping[str, float]], None],
  show: Callable[[int, dict[str, np.ndarray]], None] | None = None,
) -> tuple[TrainState, dict[str, Any]]:
  """Trains until `config.num_steps`, from the newest checkpoint in `workdir` if there is one.

  Args:
    experiment: network, optimiser, mesh and configuration.
    workdir: existing folder for checkpoints and `results.json`.
    train_batches: first step → host batches for that step and all after it.
    evaluation_batches: → host batches of the validation set, once through.
    write_scalars: (step, name → value) for curves.
    show: (step, pictures of `visualize.training_sheet`), every `config.draw_every` steps, in the
      first process.

  Returns:
    The last state, and the results that `results.json` holds.
  """
  evaluator = Evaluator(experiment)

  def evaluate(state, batches):
    result = evaluator.score(state, batches())
    curves = {"target/miou": result["miou"]}
    curves |= {f"iou/{name}": value for name, value in result["iou"].items() if value is not None}
    if "depth" in result:
      curves |= {f"target/depth_{name}": result["depth"][name] for name in ("abs_rel", "rmse")}
    return Evaluation(
      result=result,
      score=result["miou"],
      curves=curves,
      line=f"target mIoU {result['miou']:.1f} %",
      table=format_scores(result),
    )

  job = TrainingJob(
    task=experiment,
    initial_state=lambda: with_initial_pose(experiment, initial_state(experiment)),
    inputs=lambda batch: step_inputs(batch, experiment.joint),
    evaluate=evaluate,
    evaluation_batches=evaluation_batches,
    rates=learning_rates(experiment.config.optimizer, num_steps=experiment.config.num_steps),
    images_per_step=2 * experiment.config.data.batch_size,
    shown=_SHOWN,
    draw=None if show is None else _drawing(experiment, show),
  )
  return run_training(job, workdir, train_batches=train_batches, write_scalars=write_scalars)


def _drawing(experiment, show):
  """`TrainingJob.draw`: of the first pairs of a batch."""
  everywhere, split = replicated(experiment.mesh), batch_sharded(experiment.mesh)
  shardings = shardings_of(experiment.state_shapes())
  maps = jax.jit(
    experiment.make_maps(), in_shardings=(shardings, split, everywhere), out_shardings=everywhere
  )
  inputs = jax.jit(lambda arrays: arrays, out_shardings=everywhere)

  def draw(step, state, batch, key):
    names = ("source_image", "source_label", "target_image")
    found = maps(state, batch, key) | inputs({name: batch[name] for name in names})
    if jax.process_index() == 0:
      show(step, {name: np.asarray(value)[:_DRAWN_PAIRS] for name, value in found.items()})

  return draw
