"""What those who look into runs that `benchmarks.ablation.run` has made share."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from benchmarks.ablation.run import frames_of
from benchmarks.ablation.world import train_batches
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.training.run_files import read_config
from corda_jax.training.sharding import put_batch, replicated_key


def config_of_run(folder: Path) -> Any:
  """The configuration of a run.

  Raises:
    UserError: there is none, or the run is of an oracle, which trains by another step than it says.
  """
  if folder.name.split("_")[1:2] == ["oracle"]:
    raise UserError(f"{folder} is of an oracle: name another run of the ablation")
  return ml_collections.ConfigDict(_with_tuples(read_config(folder)))


def _with_tuples(value: Any) -> Any:
  """JSON has lists where a configuration has tuples."""
  if isinstance(value, dict):
    return {name: _with_tuples(each) for name, each in value.items()}
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def later_batches(
  task: AdaptationTask, folder: Path, start_step: int, count: int
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, jax.Array], jax.Array]]:
  """Batches of a run's training, from the step on at which it stopped, in draws of their own.

  Args:
    task: of the run.
    folder: of the run.
    start_step: at which training stopped.
    count: of batches.

  Yields:
    The batch, its part that a step reads, on the devices, and a key that training has not seen.
  """
  source, target, _ = frames_of(task.config, folder.parent / "frames")
  key = replicated_key(task.mesh, task.config.seed + 1)
  made = train_batches(source, target, task.config, start_step=start_step)
  for number, batch in enumerate(itertools.islice(made, count)):
    inputs = put_batch(task.mesh, task.batch_inputs(batch))
    # The state's step stays the same: without a key of its own each batch would be drawn alike.
    yield batch, inputs, jax.random.fold_in(key, number)
