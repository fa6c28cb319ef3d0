"""Trains a network, evaluating and saving on the way; resumes where it was stopped."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from corda_jax.adaptation.step import make_step
from corda_jax.jobs.evaluate import Evaluator, format_scores, scores, write_json
from corda_jax.jobs.experiment import Experiment
from corda_jax.training.checkpoint import Checkpoints
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
    config.model.num_classes,
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
  latest = checkpoints.latest_step()
  if latest is None:
    state, first = experiment.initial_state(), 0
  else:
    state, first = checkpoints.restore(latest, experiment.state_shapes()), latest
    print(f"Resuming from the checkpoint of step {first}.")
  step_function = compile_step(experiment)
  key = jax.device_put(jax.random.key(config.seed), replicated(experiment.mesh))
  result, pending, started = None, [], None

  def evaluate(step):
    result = scores(evaluator.confusion(state, evaluation_batches()), config.evaluation.classes)
    write_scalars(step, {"target/miou": result["miou"]})
    write_scalars(step, {f"iou/{k}": v for k, v in result["iou"].items() if v is not None})
    return {"step": step, **result}

  batches = train_batches(first) if first < config.num_steps else iter(())
  progress = tqdm(
    total=config.num_steps, initial=first, desc="train", unit="step", mininterval=1, smoothing=0.1
  )
  try:
    for step in range(first, config.num_steps):
      batch = put_batch(experiment.mesh, step_inputs(next(batches)))
      state, metrics = step_function(state, batch, key)
      pending.append(metrics)
      done = step + 1
      if started is None:  # the first step compiles; it would spoil the rate
        jax.block_until_ready(metrics)
        started = (time.monotonic(), done)
      progress.update()
      if done % config.log_every == 0 or done == config.num_steps:
        # All but the newest step have ended by now: reading them does not stall the device.
        read, pending = jax.device_get(pending[:-1] or pending), pending[-1:]
        means = {name: float(np.mean([m[name] for m in read])) for name in read[0]}
        elapsed, steps = time.monotonic() - started[0], done - started[1]
        if steps:
          means["images_per_second"] = 2 * config.data.batch_size * steps / elapsed
        started = (time.monotonic(), done)
        write_scalars(done, {f"train/{name}": value for name, value in means.items()})
        progress.set_postfix_str(_console(means))
      if done % config.evaluate_every == 0 or done == config.num_steps:
        result = evaluate(done)
        progress.write(f"step {done}: target mIoU {result['miou']:.1f} %")
        started = None if done == config.num_steps else (time.monotonic(), done)
      if done % config.checkpoint_every == 0 or done == config.num_steps:
        fresh = result is not None and result["step"] == done
        checkpoints.save(done, state, miou=result["miou"] if fresh else None)
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


def _console(means: Mapping[str, float]) -> str:
  parts = [f"loss {means['total']:.3f}", f"source {means['ce_src']:.3f}"]
  if "ce_mix" in means:
    parts += [f"mixed {means['ce_mix']:.3f}", f"confident {means['confident_fraction']:.0%}"]
  if "images_per_second" in means:
    parts.append(f"{means['images_per_second']:.0f} images/s")
  return ", ".join(parts)
