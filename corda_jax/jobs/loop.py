"""The loop that every training job runs in: steps, curves, evaluations, checkpoints, resuming."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from corda_jax.jobs.progress import Progress
from corda_jax.training.checkpoint import Checkpoints, write_json
from corda_jax.training.sharding import batch_sharded, put_batch, replicated, replicated_key

HostBatch = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """How a state scored.

  Attributes:
    result: JSON-ready values, for `results.json`.
    score: larger is better; the best checkpoint is kept by it.
    curves: name → value.
    line: for the console while training.
    table: for the console at the end.
  """

  result: dict[str, Any]
  score: float
  curves: dict[str, float]
  line: str
  table: str


@dataclasses.dataclass(frozen=True)
class TrainingJob:
  """What distinguishes one training job from another.

  Attributes:
    config: its configuration.
    mesh: devices, along the batch axis.
    initial_state: makes the state of a fresh run.
    state_shapes: shapes, dtypes and shardings of the state, to restore it.
    step: compiled step(state, batch, key) → (state, metrics).
    inputs: host batch → the arrays that the step reads.
    evaluate: scores a state.
    images_per_step: for the rate.
    shown: (words, metric, format) of the live line.
  """

  config: Any
  mesh: Mesh
  initial_state: Callable[[], Any]
  state_shapes: Callable[[], Any]
  step: Callable[..., tuple[Any, dict[str, jax.Array]]]
  inputs: Callable[[HostBatch], dict[str, np.ndarray]]
  evaluate: Callable[[Any], Evaluation]
  images_per_step: int
  shown: Sequence[tuple[str, str, str]]


def compile_step(
  step: Callable[..., tuple[Any, dict[str, jax.Array]]], mesh: Mesh, state_shardings: Any = None
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
  """Jits step(state, batch, key): the batch is split over the mesh, the state is donated.

  Args:
    step: the pure function.
    mesh: devices.
    state_shardings: how the state lies on them; None: every device holds all of it.
  """
  everywhere, split = replicated(mesh), batch_sharded(mesh)
  of_state = everywhere if state_shardings is None else state_shardings
  return jax.jit(
    step,
    in_shardings=(of_state, split, everywhere),
    out_shardings=(of_state, everywhere),
    donate_argnums=0,
  )


def run_training(
  job: TrainingJob,
  workdir: Path,
  *,
  train_batches: Callable[[int], Iterator[HostBatch]],
  write_scalars: Callable[[int, Mapping[str, float]], None],
  show: Callable[[Any, dict[str, Any]], None] | None = None,
) -> tuple[Any, dict[str, Any]]:
  """Trains until `config.num_steps`, from the newest checkpoint in `workdir` if there is one.

  Args:
    job: what is trained and how.
    workdir: existing folder for checkpoints and `results.json`.
    train_batches: first step → host batches for that step and all after it.
    write_scalars: (step, name → value) for curves.
    show: (state, result) → pictures of it, after each evaluation.

  Returns:
    The last state, and the results that `results.json` holds.
  """
  config = job.config
  checkpoints = Checkpoints(workdir, keep_best=config.keep_best)
  state, first = _initial_or_restored(job, checkpoints)
  key = replicated_key(job.mesh, config.seed)

  def evaluate(step):
    evaluation = job.evaluate(state)
    write_scalars(step, evaluation.curves)
    evaluation = dataclasses.replace(evaluation, result={"step": step, **evaluation.result})
    if show is not None:
      show(state, evaluation.result)
    return evaluation

  def due(step, period):
    return step % period == 0 or step == config.num_steps

  evaluation = None
  batches = train_batches(first) if first < config.num_steps else iter(())
  progress = Progress(first, config.num_steps, job.images_per_step, shown=job.shown)
  try:
    for done in range(first + 1, config.num_steps + 1):
      batch = put_batch(job.mesh, job.inputs(next(batches)))
      state, metrics = job.step(state, batch, key)
      progress.update(metrics)
      if due(done, config.log_every):
        write_scalars(done, {f"train/{k}": v for k, v in progress.report().items()})
      if due(done, config.evaluate_every):
        evaluation = evaluate(done)
        progress.message(f"step {done}: {evaluation.line}")
      if due(done, config.checkpoint_every):
        evaluated = evaluation is not None and evaluation.result["step"] == done
        checkpoints.save(done, state, score=evaluation.score if evaluated else None)
  finally:
    progress.close()
    checkpoints.close()
  if evaluation is None:
    print(f"The run in {workdir} is complete at step {first}.")
    evaluation = evaluate(first)
  print(evaluation.table)
  if jax.process_index() == 0:
    write_json(Path(workdir) / "results.json", evaluation.result)
  return state, evaluation.result


def _initial_or_restored(job: TrainingJob, checkpoints: Checkpoints) -> tuple[Any, int]:
  latest = checkpoints.latest_step()
  if latest is None:
    return job.initial_state(), 0
  print(f"Resuming from the checkpoint of step {latest}.")
  return checkpoints.restore(latest, job.state_shapes()), latest
