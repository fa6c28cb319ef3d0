"""The loop of every evaluation, and the job that scores a checkpoint."""

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
  """What a compiled function finds in batches, on the host, in order.

  Each is fetched after the next was asked for: the device works on while the host reads.
  """
  pending: collections.deque[Any] = collections.deque()
  for batch in batches:
    pending.append(measure(batch))
    if len(pending) > 1:
      yield jax.device_get(pending.popleft())
  for each in pending:
    yield jax.device_get(each)


def gathered(parts: Iterable[tuple[dict[str, Any], np.ndarray]]) -> dict[str, np.ndarray]:
  """Arrays by name, of batches one after the other, without frames that only fill one.

  Args:
    parts: of each batch, arrays [B, …] by name and bool[B], True for frames that count.
  """
  found: dict[str, list[np.ndarray]] = {}
  for arrays, valid in parts:
    for name, value in arrays.items():
      found.setdefault(name, []).append(np.asarray(value)[: len(valid)][np.asarray(valid)])
  return {name: np.concatenate(values) for name, values in found.items()}


def evaluate(task: Task, workdir: Path, batches: Batches) -> tuple[Any, Evaluation]:
  """Scores a checkpoint of the run in `workdir`, and writes `evaluation.json` there.

  Args:
    task: its configuration says which checkpoint.
    workdir: folder of the run.
    batches: of the validation set.

  Returns:
    The state of the checkpoint, and how it scored; the result has its "step".

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
    task: whose `evaluation.pictures` says how many frames it shows.
    workdir: folder of the run.
    state: that was evaluated.
    evaluation: of it, its result with "step".
    batches: of frames of the split.
    split: that is shown.

  Returns:
    Its path; None where none is needed, or another process writes it.
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
