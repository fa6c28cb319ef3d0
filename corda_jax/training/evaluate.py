"""The evaluation loop, and the job that scores a checkpoint."""

import collections
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from corda_jax.training.restore import restore_state
from corda_jax.training.run_files import write_json
from corda_jax.training.task import Batches, Evaluation, HostBatch, Task


def measured(
  measure: Callable[[HostBatch], Any], batches: Iterable[HostBatch]
) -> Iterator[dict[str, Any]]:
  """Yields the results of a compiled function on each batch, on the host, in order.

  Each is fetched after the next batch is dispatched, so the device never waits for the host.
  """
  pending: collections.deque[Any] = collections.deque()
  for batch in batches:
    pending.append(measure(batch))
    if len(pending) > 1:
      yield jax.device_get(pending.popleft())
  for each in pending:
    yield jax.device_get(each)


def gathered(parts: Iterable[tuple[dict[str, Any], np.ndarray]]) -> dict[str, np.ndarray]:
  """Concatenates the arrays of all batches, without padding frames.

  Args:
    parts: for each batch, arrays [B, …] by name, and bool[B], True for frames that count.

  Returns:
    Arrays [N, …] by name, of the N frames that count.
  """
  found: dict[str, list[np.ndarray]] = {}
  for arrays, valid in parts:
    for name, value in arrays.items():
      found.setdefault(name, []).append(np.asarray(value)[: len(valid)][np.asarray(valid)])
  return {name: np.concatenate(values) for name, values in found.items()}


def evaluate(task: Task, workdir: Path, batches: Batches) -> tuple[Any, Evaluation]:
  """Scores a checkpoint of the run in `workdir` and writes `evaluation.json` there.

  Args:
    task: task of the run; `evaluation.checkpoint` names the checkpoint.
    workdir: folder of the run.
    batches: returns the batches of the validation set.

  Returns:
    The state of the checkpoint and its evaluation, whose result has the "step".

  Raises:
    UserError: there is no such checkpoint.
  """
  state = restore_state(task, workdir)
  evaluation = task.evaluate(state, batches)
  evaluation = evaluation._replace(result={"step": int(state.step), **evaluation.result})
  print(evaluation.table)
  if jax.process_index() == 0:
    write_json(Path(workdir) / "evaluation.json", evaluation.result)
  return state, evaluation


def draw_evaluation(
  task: Task, workdir: Path, state: Any, evaluation: Evaluation, *, batches: Batches, split: str
) -> Path | None:
  """Writes the contact sheet of an evaluation to `workdir/pictures`.

  Args:
    task: task of the run; `evaluation.pictures` is the number of frames shown.
    workdir: folder of the run.
    state: the evaluated state.
    evaluation: evaluation of `state`; its result has the "step".
    batches: returns batches of frames of the split.
    split: name of the split, for the title.

  Returns:
    Path of the PNG; None if no picture is configured or another process writes it.
  """
  if task.config.evaluation.pictures < 1:
    return None
  step, network = evaluation.result["step"], task.evaluated_network
  path = Path(workdir) / "pictures" / f"{network}_step_{step:06d}.png"
  path.parent.mkdir(exist_ok=True)
  title = (
    f"{Path(workdir).name}: frames of {split}, {network} after {step} steps, {evaluation.line}"
  )
  task.draw_evaluation(state, batches, path=path, title=title)
  return path if jax.process_index() == 0 else None
