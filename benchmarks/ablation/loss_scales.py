"""How strong is each loss, and do their gradients agree? Compares the losses of runs one by one.

    python -m benchmarks.ablation.loss_scales runs/ablation_small/gta5_refinement_as_published_0 …

For runs of `benchmarks.ablation.run`, with their initial weights and with their newest checkpoint,
on the same batches and random numbers: each loss as it is added, the norm of its gradient in the
encoder, which all tasks share, and the cosine between that gradient and the gradient of all
cross-entropies (for one of them: of all others). 1: both move the encoder in the same direction;
0: in unrelated directions; -1: in opposite directions.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.ablation.inspection import config_of_run, later_batches
from benchmarks.ablation.predicted import PredictedDepth, add_depth_run
from benchmarks.options import run_command
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.training.restore import restore_state

SEGMENTATION, DEPTH = "all cross-entropies", "all depth losses"
_KINDS = {SEGMENTATION: ("ce_",), DEPTH: ("berhu_", "photometric_")}  # how their names begin
TIMES = ("at first", "at last")

# Name of a loss → its value, the norm of its gradient and the cosine (NaN: nothing to compare).
Scales = dict[str, np.ndarray]


def main(arguments: list[str] | None = None) -> None:
  """Prints a table of each run."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
  parser.add_argument("--batches", type=int, default=20)
  add_depth_run(parser)
  options = parser.parse_args(arguments)
  if options.batches < 1:
    raise UserError(f"--batches is {options.batches}, expected 1 or more")
  predict = PredictedDepth(options.depth_run) if options.depth_run else None
  for folder in options.runs:
    print(f"{table(folder.name, *scales(folder, options.batches, predict))}\n", flush=True)


def table(run: str, *of_times: Scales) -> str:
  """A row per loss, with columns for each of `TIMES`, as Markdown."""
  columns = " | ".join(f"{time}: loss | of all | gradient | cosine" for time in TIMES)
  lines = [f"| {run} | {columns} |", "|---" * (1 + 4 * len(TIMES)) + "|"]
  for name in of_times[0]:
    cells = []
    for found in of_times:
      loss, norm, cosine = found[name]
      total = sum(values[0] for each, values in found.items() if each not in _KINDS)
      shown = f"{cosine:+.2f}" if np.isfinite(cosine) else ""
      cells.append(f"{loss:.3f} | {loss / total:.1%} | {norm:.3f} | {shown}")
    lines.append(f"| {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


def scales(
  folder: Path, batches: int, predict: PredictedDepth | None = None
) -> tuple[Scales, Scales]:
  """The losses, and at their end the sums `SEGMENTATION` and, where depth is learned, `DEPTH`.

  Args:
    folder: folder of a run of the ablation.
    batches: number of batches to average over.
    predict: network whose depth the run was trained with; None: the true depth.

  Returns:
    The scales before training, and those with the newest checkpoint.

  Raises:
    UserError: there is no such run, or it was trained with other depth.
  """
  task = AdaptationTask.from_config(config_of_run(folder))
  trained = restore_state(task, folder)
  of_batch = jax.jit(_of_batch(task.at_precision(task.step.weighted_losses)))
  found: tuple[list[Scales], list[Scales]] = ([], [])
  states = task.initial_state().replace(step=trained.step), trained  # part of the random key
  for _, inputs, key in later_batches(task, folder, int(trained.step), batches, predict):
    for state, of_time in zip(states, found, strict=True):
      of_time.append(jax.device_get(of_batch(state, inputs, key)))
  first, last = (
    {name: np.mean([each[name] for each in of_time], axis=0) for name in _sums_last(of_time[0])}
    for of_time in found
  )
  return first, last


def _of_batch(losses: Callable[..., Mapping[str, jax.Array]]) -> Callable[..., Any]:
  """A function of (state, batch, key) that returns the scales on a batch, in any order."""

  def of_batch(state, batch, key):
    def of_encoder(encoder):
      found = _with_sums(losses({**state.params, "encoder": encoder}, state, batch, key))
      return found, found

    gradients, values = jax.jacrev(of_encoder, has_aux=True)(state.params["encoder"])
    flat = {name: ravel_pytree(gradient)[0] for name, gradient in gradients.items()}
    norms = {name: jnp.linalg.norm(gradient) for name, gradient in flat.items()}

    def cosine(name):
      own = name == SEGMENTATION or name.startswith(_KINDS[SEGMENTATION])  # part of that sum
      others = flat[SEGMENTATION] - flat[name] if own else flat[SEGMENTATION]
      return flat[name] @ others / (norms[name] * jnp.linalg.norm(others))

    return {name: jnp.stack([values[name], norms[name], cosine(name)]) for name in flat}

  return of_batch


def _with_sums(losses: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """The losses, and the sum of each of `_KINDS` that occurs."""
  sums = {}
  for kind, beginnings in _KINDS.items():
    if found := [loss for name, loss in losses.items() if name.startswith(beginnings)]:
      sums[kind] = sum(found)
  return {**losses, **sums}


def _sums_last(names: Iterable[str]) -> list[str]:
  """Losses in alphabetical order, then their sums: JAX returns them in its own order."""
  found = set(names)
  return [*sorted(found - _KINDS.keys()), *(kind for kind in _KINDS if kind in found)]


if __name__ == "__main__":
  run_command(main)
