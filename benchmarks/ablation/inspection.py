"""Configurations and batches of the runs of `benchmarks.ablation.run`, for their inspection."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from benchmarks.ablation.predicted import PredictedDepth
from benchmarks.ablation.run import frames_of
from benchmarks.ablation.world import train_batches
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.training.run_files import read_config
from corda_jax.training.sharding import put_batch, replicated_key


def config_of_run(folder: Path) -> Any:
  """The configuration of a run.

  Raises:
    UserError: there is none, or the run is an oracle's, whose step is not the configured one.
  """
  if folder.name.split("_")[1:2] == ["oracle"]:
    raise UserError(f"{folder} is the run of an oracle: name another run of the ablation")
  return ml_collections.ConfigDict(_with_tuples(read_config(folder)))


def _with_tuples(value: Any) -> Any:
  """Replaces JSON's lists by the tuples of a configuration."""
  if isinstance(value, dict):
    return {name: _with_tuples(each) for name, each in value.items()}
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def check_depth(folder: Path, predict: PredictedDepth | None) -> None:
  """Checks that a run was trained with a depth.

  Args:
    folder: folder of the run.
    predict: network that predicted it; None: the true depth.

  Raises:
    UserError: it was trained with other depth.
  """
  mark = f"_predicted_{predict.digest if predict else ''}"
  if (mark in folder.resolve().name) != (predict is not None):
    given = f"that of {predict.run} ({predict.digest})" if predict else "the true one"
    raise UserError(
      f"{folder} was not trained with the depth given, {given}: name the folder of its depth, "
      "whose digest is in the run's name, as --depth_run, or leave that out for the true depth"
    )


def later_batches(
  task: AdaptationTask,
  folder: Path,
  start_step: int,
  count: int,
  predict: PredictedDepth | None = None,
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, jax.Array], jax.Array]]:
  """Batches that follow those of a run's training, each with its own key.

  Args:
    task: task of the run.
    folder: folder of the run.
    start_step: step at which training stopped.
    count: number of batches.
    predict: network whose depth the run was trained with; None: the true depth.

  Raises:
    UserError: the run was trained with other depth.

  Yields:
    The batch; the part of it that a step reads, on the devices; and a key that training never used.
  """
  check_depth(folder, predict)
  source, target, _ = frames_of(task.config, folder.parent / "frames", predict)
  key = replicated_key(task.mesh, task.config.seed + 1)
  made = train_batches(source, target, task.config, start_step=start_step)
  for number, batch in enumerate(itertools.islice(made, count)):
    inputs = put_batch(task.mesh, task.batch_inputs(batch))
    # The state's step stays the same: with one key, all batches would be mixed alike.
    yield batch, inputs, jax.random.fold_in(key, number)
