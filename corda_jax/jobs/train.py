"""Trains a network, evaluating and saving on the way; resumes where it was stopped."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from corda_jax.adaptation.step import make_step
from corda_jax.jobs.evaluate import Evaluator
from corda_jax.jobs.experiment import Experiment
from corda_jax.jobs.progress import Progress
from corda_jax.jobs.scores import format_scores
from corda_jax.jobs.torch_checkpoints import initial_state
from corda_jax.training.checkpoint import Checkpoints, write_json
from corda_jax.training.sharding import batch_sharded, put_batch, replicated
from corda_jax.training.state import TrainState

HostBatch = Mapping[str, np.ndarray]


def compile_step(experiment: Experiment) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """The jitted step(state, batch, key): batch split over the mesh, state donated."""
  config = experiment.config
  step = make_step(
    experiment.model,
    experiment.optimizer,
    experiment.normalization,
    config.method,
    len(experiment.classes),
  )
  everywhere, split = replicated(experiment.mesh), batch_sharded(experiment.mesh)
  return jax.jit(
    step,
    in_shardings=(everywhere, split, everywhere),
    out_shardings=(everywhere, everywhere),
    donate_argnums=0,
  )


def step_inputs(batch: HostBatch) -> dict[str, np.ndarray]:
  """The arrays of a host batch that a step reads."""
  names = (
    "source_image",
    "source_label",
    "source_inverse_depth",
    "target_image",
    "target_inverse_depth",
  )
  return {name: batch[name] for name in names}


def train(
  experiment: Experiment,
  workdir: Path,
  *,
  train_batches: Callable[[int], Iterator[HostBatch]],
  evaluation_batches: Callable[[], Iterator[HostBatch]],
  write_scalars: Callable[[int, Mapping[str, float]], None],
) -> tuple[TrainState, dict[str, Any]]:
  """Trains until `config.num_steps`, from the newest checkpoint in `workdir` if there is one.

  Args:
    experiment: network, optimiser, mesh and configuration.
    workdir: existing folder for checkpoints and `results.json`.
    train_batches: first step → host batches for that step and all after it.
    evaluation_batches: → host batches of the validation set, once through.
    write_scalars: (step, name → value) for curves.

  Returns:
    The last state, and the results that `results.json` holds.
  """
  config = experiment.config
  checkpoints = Checkpoints(workdir, keep_best=config.keep_best)
  evaluator = Evaluator(experiment)
  state, first = _initial_or_restored(experiment, checkpoints)
  step_function = compile_step(experiment)
  key = jax.device_put(jax.random.key(config.seed), replicated(experiment.mesh))

  def evaluate(step):
    result = {"step": step, **evaluator.score(state, evaluation_batches())}
    iou = {f"iou/{name}": value for name, value in result["iou"].items() if value is not None}
    write_scalars(step, {"target/miou": result["miou"], **iou})
    return result

  def due(step, period):
    return step % period == 0 or step == config.num_steps

  result = None
  batches = train_batches(first) if first < config.num_steps else iter(())
  progress = Progress(first, config.num_steps, 2 * config.data.batch_size)
  try:
    for done in range(first + 1, config.num_steps + 1):
      batch = put_batch(experiment.mesh, step_inputs(next(batches)))
      state, metrics = step_function(state, batch, key)
      progress.update(metrics)
      if due(done, config.log_every):
        write_scalars(done, {f"train/{k}": v for k, v in progress.report().items()})
      if due(done, config.evaluate_every):
        result = evaluate(done)
        progress.message(f"step {done}: target mIoU {result['miou']:.1f} %")
      if due(done, config.checkpoint_every):
        evaluated = result is not None and result["step"] == done
        checkpoints.save(done, state, miou=result["miou"] if evaluated else None)
  finally:
    progress.close()
    checkpoints.close()
  if result is None:
    print(f"The run in {workdir} is complete at step {first}.")
    result = evaluate(first)
  print(format_scores(result))
  if jax.process_index() == 0:
    write_json(Path(workdir) / "results.json", result)
  return state, result


def _initial_or_restored(
  experiment: Experiment, checkpoints: Checkpoints
) -> tuple[TrainState, int]:
  latest = checkpoints.latest_step()
  if latest is None:
    return initial_state(experiment), 0
  print(f"Resuming from the checkpoint of step {latest}.")
  return checkpoints.restore(latest, experiment.state_shapes()), latest
