"""Does depth help? From source-only training to CorDA, part by part, on the street world.

    python -m benchmarks.ablation.run
    python -m benchmarks.ablation.run --size large --minutes 8

The same steps and batches for all variants of a source, several seeds. A restarted command
continues where it stopped: finished runs are not repeated, and an interrupted one resumes from its
newest checkpoint. Frames are rendered into memory, so that neither TensorFlow nor files are needed.
"""

import argparse
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks.ablation.oracles import frames_of_variant
from benchmarks.ablation.predicted import PredictedDepth, add_depth_run
from benchmarks.ablation.report import Run, draw, table
from benchmarks.ablation.variants import (
  BASE,
  DACS,
  ORACLES,
  PARTS_OF_CORDA,
  SIZES,
  SOURCES,
  VARIANTS,
  variant_config,
)
from benchmarks.ablation.world import Frames, render, train_batches, whole_frames
from benchmarks.memory import MemoryFeed, NoWriter
from benchmarks.options import add_set_option, run_command
from benchmarks.speed.runners import FAILURES, device_name
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import Preempted, UserError, first_line
from corda_jax.training.run_files import check_config, check_results, record_config
from corda_jax.training.sharding import check_divisible, check_training_batch
from corda_jax.training.train_loop import train

_CHOSEN = {"seed", "evaluate_every", "draw_every", "checkpoint_every", "evaluation.pictures"}


def main(arguments: list[str] | None = None) -> None:
  """Makes the runs that are missing and prints the tables of all that are done."""
  options = _parse(arguments)
  workdir = options.workdir or Path("runs") / f"ablation_{options.size}"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"the folder {workdir} cannot be made ({error.strerror}): name another --workdir"
    ) from error
  jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))
  predict = PredictedDepth(options.depth_run) if options.depth_run else None
  depth = f" predicted {predict.digest}" if predict else ""  # runs of other depth are other runs
  runs = [
    Run(variant, source, seed, workdir / _name(f"{source} {variant}{depth} {seed}"))
    for seed in range(options.seeds)  # seed by seed: an incomplete table is still fair
    for source in dict.fromkeys(options.sources)  # once, if it was named twice
    for variant in dict.fromkeys(options.variants)
  ]
  configs = {run: _config_of(run, options) for run in runs}
  started = time.monotonic()
  failed = _of_other_configurations(configs)
  try:
    with _time_limit(options.minutes):
      for run, config in configs.items():
        # A signal that came when a run was nearly done was consumed by that run's last save.
        if options.minutes is not None and time.monotonic() - started >= 60 * options.minutes:
          raise _Stopped
        if run in failed or run.result() is not None:
          continue
        try:
          make_run(run, config, workdir / "frames", predict)
        except FAILURES as error:  # the other runs go ahead
          failed[run] = error
  except (Preempted, _Stopped) as stop:
    print(f"\n{str(stop) or 'Stopped'}. Run the same command again to continue.")
  expected, runs = len(runs), [run for run in runs if run not in failed]
  done = [run for run in runs if run.result() is not None]
  print(f"\n{len(done)} of {expected} runs are done.\n")
  for source in dict.fromkeys(options.sources):
    print(f"{table(runs, source)}\n")
  seconds = time.monotonic() - started
  print(f"{seconds:.0f} s on {device_name()}, {os.cpu_count()} cores, JAX {jax.__version__}")
  if options.plot and done:
    draw(runs, options.plot, DACS if DACS in options.variants else options.variants[0])
  if failed:
    run, error = next(iter(failed.items()))
    message = f"{len(failed)} runs could not be made; {run.folder.name}: {first_line(error)}"
    raise UserError(message)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
  """The command's options.

  Raises:
    UserError: an option is invalid.
  """
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", choices=list(SIZES), default="small")
  parser.add_argument(
    "--config",
    default=BASE,
    help="street world config of configs/, such as demo:as_released,batch=8",
  )
  parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
  parser.add_argument(
    "--variants",
    nargs="+",
    choices=[*VARIANTS, *ORACLES],
    default=list(PARTS_OF_CORDA),
    help="default: the parts of CorDA, one by one",
  )
  parser.add_argument("--seeds", type=int, default=3, help="runs of each variant")
  parser.add_argument(
    "--minutes",
    type=float,
    help="time limit: saves the current run and stops, but not while a step compiles",
  )
  parser.add_argument("--workdir", type=Path, help="folder; default: runs/ablation_SIZE")
  add_depth_run(parser)
  parser.add_argument(
    "--plot",
    type=Path,
    help="PNG file of the runs that are done: scores, and gains over DACS or the first variant",
  )
  add_set_option(parser, "all runs")
  options = parser.parse_args(arguments)
  if options.seeds < 1:
    raise UserError(f"--seeds is {options.seeds}, expected 1 or more")
  if taken := sorted(_CHOSEN & dict(options.set).keys()):
    raise UserError(f"--set names {taken[0]}, which the ablation chooses itself: leave it out")
  return options


def _config_of(run: Run, options: argparse.Namespace) -> Any:
  """A run's configuration, with what the ablation chooses, `_CHOSEN`."""
  settings = dict(options.set)
  config = variant_config(run.variant, run.source, options.size, settings, base=options.config)
  config.seed = run.seed
  config.evaluate_every, config.draw_every = config.num_steps, 0
  config.evaluation.pictures = 0
  # Long runs save in between, so that a kill costs only minutes.
  config.checkpoint_every = min(config.num_steps, 2_500)
  return config


def _of_other_configurations(configs: Mapping[Run, Any]) -> dict[Run, Exception]:
  """Runs whose folder has results of another configuration → what differs.

  All are checked before any run starts: the table also has runs that a stop leaves unvisited.
  """
  found: dict[Run, Exception] = {}
  for run, config in configs.items():
    try:
      if run.result() is not None:
        check_results(run.folder, config.to_dict())
    except UserError as error:
      found[run] = error
  return found


def make_run(run: Run, config: Any, frames: Path, predict: PredictedDepth | None = None) -> None:
  """Trains on frames in memory; evaluates at the end, saves in between and at the end.

  Args:
    run: run to make.
    config: configuration of the run.
    frames: folder of rendered frames.
    predict: as of `frames_of`.

  Raises:
    UserError: the folder holds a run of another configuration.
    Preempted: SIGTERM came; the state is saved.
  """
  folder = run.folder
  check_config(folder, config.to_dict())
  task = AdaptationTask.from_config(config)
  check_training_batch(task.mesh, config.data.batch_size, config.model.batch_norm_group)
  check_divisible(task.mesh, config.data.evaluation_batch_size, "data.evaluation_batch_size")
  folder.mkdir(parents=True, exist_ok=True)
  record_config(folder, config.to_dict())
  source, target, validation = (
    frames_of_variant(run.variant, each, target=place == 1)
    for place, each in enumerate(frames_of(config, frames, predict))
  )
  print(f"\n{folder.name}", flush=True)
  feed = MemoryFeed(
    lambda step: train_batches(source, target, config, start_step=step),
    lambda: whole_frames(validation, config.data.evaluation_batch_size),
  )
  train(task, folder, feed, NoWriter())


def frames_of(
  config: Any, folder: Path, predict: PredictedDepth | None = None
) -> tuple[Frames, Frames, Frames]:
  """The source's, the target's and the validation frames, from `folder` if they exist there.

  Args:
    config: the whole configuration.
    folder: where rendered frames are kept.
    predict: network whose predictions take the place of the true depth; None: none.
  """

  def frames(domain: str, split: str) -> Frames:
    data, world = config.data[domain], config.data.street_world
    real = data.dataset == "cityscapes"  # the oracle's source, too
    counts = {"train": world.target_frames if real else world.source_frames}
    counts["val"] = world.validation_frames
    which = {"seed": world.seed, "gap": world.gap}
    found = render(
      data.dataset,
      split,
      counts[split],
      height=data.height,
      width=data.width,
      folder=folder,
      right=split == "train" and "right" in data.views,
      **which,
    )
    if predict is None:
      return found
    size = (data.height, data.width)
    depth = predict(data.dataset, split, counts[split], size=size, **which)
    return found._replace(inverse_depth=depth)

  return (
    frames("source", "train"),
    frames("target", "train"),
    frames("target", "val"),
  )


class _Stopped(BaseException):
  """SIGTERM came while no run was under way."""


@contextlib.contextmanager
def _time_limit(minutes: float | None) -> Iterator[None]:
  """Sends this process SIGTERM after so many minutes: `train` saves first, all else just stops."""

  def stop(*_: object) -> None:
    raise _Stopped

  timer = threading.Timer(60 * (minutes or 0), os.kill, (os.getpid(), signal.SIGTERM))
  before = signal.signal(signal.SIGTERM, stop)
  try:
    if minutes is not None:
      timer.start()
    yield
  finally:
    timer.cancel()
    signal.signal(signal.SIGTERM, before)


def _name(text: str) -> str:
  """Name of a run's folder."""
  words = "".join(letter if letter.isalnum() else " " for letter in text)
  return "_".join(words.split())


if __name__ == "__main__":
  run_command(main)
