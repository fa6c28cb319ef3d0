"""Does depth help? Climbs from source-only training to CorDA, rung by rung, on the street world.

    python -m benchmarks.ladder
    python -m benchmarks.ladder --size large --minutes 9

The same steps and batches for all rungs of a source, several seeds. It goes on where it was
stopped: runs that are done are not repeated, and one that was under way goes on from its newest
checkpoint. Frames are rendered into memory, so that neither TensorFlow nor files are needed.
"""

import argparse
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.ladder_bounds import BOUNDS, experiment_of, told
from benchmarks.ladder_report import Run, draw, table
from benchmarks.ladder_rungs import RUNGS, SIZES, SOURCES, rung_config
from benchmarks.options import run_command, setting
from benchmarks.runners import device_name
from benchmarks.world import Frames, render, train_batches, whole_frames
from corda_jax.errors import UserError
from corda_jax.jobs.train import train
from corda_jax.training.preemption import Preempted
from corda_jax.training.run_files import check_config, record_config
from corda_jax.training.sharding import check_divisible, check_training_batch


def main(arguments: list[str] | None = None) -> None:
  """Makes the runs that are missing and prints the tables of all that are done."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", choices=list(SIZES), default="small")
  parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
  parser.add_argument(
    "--rungs", nargs="+", choices=[*RUNGS, *BOUNDS], default=list(RUNGS), help="default: no bounds"
  )
  parser.add_argument("--seeds", type=int, default=3, help="runs of each rung")
  parser.add_argument(
    "--minutes", type=float, help="after so many the run under way is saved, and it ends"
  )
  parser.add_argument("--workdir", type=Path, help="of all runs; default: runs/ladder_SIZE")
  parser.add_argument("--plot", type=Path, help="PNG file of the runs that are done")
  parser.add_argument(
    "--set", nargs="*", default=[], type=setting, metavar="FIELD=VALUE", help="changes all runs"
  )
  options = parser.parse_args(arguments)
  if options.seeds < 1:
    raise UserError(f"--seeds is {options.seeds}, wanted 1 or more")
  workdir = options.workdir or Path("runs") / f"ladder_{options.size}"
  jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))
  runs = [
    Run(rung, source, seed, workdir / _name(f"{source} {rung} {seed}"))
    for seed in range(options.seeds)  # seed by seed: a table that is cut short is still fair
    for source in options.sources
    for rung in options.rungs
  ]
  started = time.monotonic()
  try:
    with _time_limit(options.minutes):
      for run in runs:
        config = rung_config(run.rung, run.source, options.size, dict(options.set))
        config.seed = run.seed
        make_run(run, config, workdir / "frames")
  except (Preempted, _Stopped) as stop:
    print(f"\n{stop or 'Stopped'}. The same command goes on from here.")
  done = [run for run in runs if run.result() is not None]
  print(f"\n{len(done)} of {len(runs)} runs are done.\n")
  for source in options.sources:
    print(f"{table(runs, source)}\n")
  if options.plot and done:
    draw(runs, options.plot)
  seconds = time.monotonic() - started
  print(f"{seconds:.0f} s on {device_name()}, {os.cpu_count()} cores, JAX {jax.__version__}")


def make_run(run: Run, config: Any, frames: Path) -> None:
  """Trains, unless that is done, in memory; evaluated and saved at the end, and saved meanwhile.

  Args:
    run: which.
    config: of it, changed in place.
    frames: folder of rendered frames.

  Raises:
    UserError: the folder holds a run of another configuration.
    Preempted: SIGTERM came; the state is saved.
  """
  config.evaluate_every, config.draw_every = config.num_steps, 0
  config.checkpoint_every = config.num_steps if config.num_steps <= 5_000 else 2_500
  folder = run.folder
  check_config(folder, config.to_dict())  # results of another configuration must not slip in
  if (folder / "results.json").exists():
    return
  experiment = experiment_of(run.rung, config)
  check_training_batch(experiment.mesh, config.data.batch_size, config.model.batch_norm_group)
  check_divisible(experiment.mesh, config.data.evaluation_batch_size, "data.evaluation_batch_size")
  folder.mkdir(parents=True, exist_ok=True)
  record_config(folder, config.to_dict())
  source, target, validation = (
    told(run.rung, each, target=place == 1) for place, each in enumerate(frames_of(config, frames))
  )
  print(f"\n{folder.name}", flush=True)
  train(
    experiment,
    folder,
    train_batches=lambda step: train_batches(source, target, config, start_step=step),
    evaluation_batches=lambda: whole_frames(validation, config.data.evaluation_batch_size),
    write_scalars=lambda step, values: None,  # history.jsonl has them
  )


def frames_of(config: Any, folder: Path) -> tuple[Frames, Frames, Frames]:
  """The source's, the target's and the validation frames, from `folder` if they are there."""

  def frames(domain: str, split: str, count: str) -> Frames:
    data, world = config.data[domain], config.data.street_world
    if data.dataset == "cityscapes":  # of the oracle's source, too
      count = "validation_frames" if split == "val" else "target_frames"
    return render(
      data.dataset,
      split,
      world[count],
      seed=world.seed,
      gap=world.gap,
      height=data.height,
      width=data.width,
      folder=folder,
    )

  return (
    frames("source", "train", "source_frames"),
    frames("target", "train", "target_frames"),
    frames("target", "val", "validation_frames"),
  )


class _Stopped(BaseException):
  """SIGTERM came while no run was under way."""


@contextlib.contextmanager
def _time_limit(minutes: float | None) -> Iterator[None]:
  """Sends this process SIGTERM after so many minutes: `train` saves, all else is left as it is."""

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
  """A folder's name of a run's."""
  words = "".join(letter if letter.isalnum() else " " for letter in text)
  return "_".join(words.split())


if __name__ == "__main__":
  run_command(main)
