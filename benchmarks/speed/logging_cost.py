"""What do curves, history, checks, pictures and checkpoints cost a step?

    python -m benchmarks.speed.logging_cost

Trains the demo's network on batches in memory, in turn: the bare compiled step; the loop that every
run has (training/train_loop.py: history, waiting for batches, checks for faults) with TensorBoard's
curves; and the same with checkpoints and with pictures of training, far more often than in a real
run. Milliseconds a step, without compiling and evaluating.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import metric_writers

from benchmarks.memory import MemoryFeed
from benchmarks.options import add_config_options, chosen_config, run_command
from benchmarks.speed.runners import device_name, random_batch
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.training.metric_logging import curves_writer
from corda_jax.training.sharding import put_batch, replicated_key
from corda_jax.training.train_loop import train

_FIRST = 20  # first steps of the bare step, which do not count
_PERIOD = 100  # steps between checkpoints, and between pictures, whose first one compiles


def main(arguments: list[str] | None = None) -> None:
  """Times and prints a row of each kind."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add_config_options(parser)
  parser.set_defaults(config="demo:as_released")
  parser.add_argument("--steps", type=int, default=210, help="of each timing")
  parser.add_argument("--rounds", type=int, default=8)
  options = parser.parse_args(arguments)
  config = chosen_config(options)
  config.log_every = min(config.log_every, _PERIOD)
  if options.rounds < 2:
    raise UserError(f"--rounds is {options.rounds}, expected 2 or more, to estimate the error")
  least = 2 * _PERIOD + 2
  if options.steps < least:
    raise UserError(
      f"--steps is {options.steps}, expected {least} or more, to time between reports"
    )
  config.num_steps = options.steps
  config.evaluation.pictures = 0
  task = AdaptationTask.from_config(config)
  batches = [random_batch(config.data, len(task.classes), seed) for seed in range(2)]
  runners: dict[str, Callable[[], float]] = {"the step alone": lambda: _bare(config, batches)}
  loops = {
    "the loop of a run": {},
    f"… a checkpoint every {_PERIOD} steps": {"checkpoint_every": _PERIOD},
    f"… pictures every {_PERIOD} steps": {"draw_every": _PERIOD},
  }
  for kind, fields in loops.items():
    never = dict.fromkeys(("evaluate_every", "checkpoint_every"), options.steps) | {"draw_every": 0}
    own = config.copy_and_resolve_references()
    own.update(never | fields)
    runners[kind] = lambda own=own: _looped(own, batches)
  seconds: dict[str, list[float]] = {kind: [] for kind in runners}
  with tempfile.TemporaryDirectory() as cache:
    jax.config.update("jax_compilation_cache_dir", cache)
    for _ in range(options.rounds):
      for kind, runner in runners.items():
        seconds[kind].append(runner())
  print(
    f"{device_name()}, JAX {jax.__version__}; {options.rounds} rounds of {options.steps} steps\n"
  )
  print("| | ms a step, median (fastest) | more than the step alone, mean ± standard error |")
  print("|---|---|---|")
  alone = seconds["the step alone"]
  for kind, each in seconds.items():
    more = difference(alone, each) if each is not alone else ""
    print(f"| {kind} | {1e3 * statistics.median(each):.2f} ({1e3 * min(each):.2f}) | {more} |")


def difference(alone: Sequence[float], other: Sequence[float]) -> str:
  """Mean slowdown over rounds; other load on the machine affects both of a round alike."""
  shares = [b / a - 1 for a, b in zip(alone, other, strict=True)]
  error = statistics.stdev(shares) / len(shares) ** 0.5
  return f"{100 * statistics.mean(shares):+.1f} ± {100 * error:.1f} %"


def _bare(config: Any, batches: list[dict[str, np.ndarray]]) -> float:
  """Seconds per step of nothing but the step; batches go to the device as in a run."""
  task = AdaptationTask.from_config(config)
  step, state = task.compile_step(), task.initial_state()
  key = replicated_key(task.mesh, config.seed)
  for number in range(config.num_steps):
    if number == _FIRST:
      jax.block_until_ready(state)
      since = time.perf_counter()
    batch = put_batch(task.mesh, task.batch_inputs(batches[number % 2]))
    state, metrics = step(state, batch, key)
  jax.block_until_ready((state, metrics))
  return (time.perf_counter() - since) / (config.num_steps - _FIRST)


def _looped(config: Any, batches: list[dict[str, np.ndarray]]) -> float:
  """Seconds per step of a run, between requests for batches that follow a report.

  There the host knows what the device has done. The time before the first pictures, which compile,
  and that of the last checkpoint, which is waited for, do not count.
  """
  task = AdaptationTask.from_config(config)
  asked: list[float] = []

  def endless(start: int) -> Iterator[dict[str, np.ndarray]]:
    for number in itertools.count(start):
      asked.append(time.perf_counter())
      yield batches[number % 2]

  def evaluation_batches() -> Iterator[dict[str, np.ndarray]]:
    frame = np.zeros((config.data.evaluation_batch_size, 16, 16, 3), np.uint8)
    yield {"image": frame, "label": frame[..., 0], "valid": np.ones(len(frame), bool)}

  create = metric_writers.create_default_writer
  with tempfile.TemporaryDirectory() as folder, curves_writer(Path(folder), create) as writer:
    train(task, Path(folder), MemoryFeed(endless, evaluation_batches), writer)
  every = config.log_every
  first, last = (
    steps // every * every + 1 for steps in (_PERIOD + every - 1, config.num_steps - 2)
  )
  return (asked[last] - asked[first]) / (last - first)


if __name__ == "__main__":
  run_command(main)
