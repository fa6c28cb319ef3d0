"""Does depth help? Climbs from source-only training to CorDA, rung by rung, on the street world.

    python -m benchmarks.ladder
    python -m benchmarks.ladder --size large --minutes 9

The same steps and batches for all rungs of a source, several seeds. It goes on where it was
stopped: runs that are done are not repeated, and one that was under way goes on from its newest
checkpoint. Frames are rendered into memory, so that neither TensorFlow nor files are needed.
"""

import argparse
import contextlib
import dataclasses
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.ladder_rungs import ORACLE, RUNGS, SIZES, SOURCES, rung_config
from benchmarks.options import run_command, setting
from benchmarks.runners import device_name
from benchmarks.world import Frames, render, train_batches, whole_frames
from corda_jax.errors import UserError
from corda_jax.jobs.experiment import Experiment
from corda_jax.jobs.train import train
from corda_jax.training.preemption import Preempted
from corda_jax.training.run_files import check_config, read_json, record_config
from corda_jax.training.sharding import check_divisible, check_training_batch


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of the ladder.

  Attributes:
    rung: of `RUNGS`.
    source: of `SOURCES`.
    seed: of weights, order, crops, mixing and augmentation; the world is the same for all.
    folder: of the run.
  """

  rung: str
  source: str
  seed: int
  folder: Path

  def result(self) -> dict[str, Any] | None:
    """What it came to; None while it is not done."""
    return read_json(self.folder / "results.json")


def main(arguments: list[str] | None = None) -> None:
  """Makes the runs that are missing and prints the tables of all that are done."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", choices=list(SIZES), default="small")
  parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
  parser.add_argument("--rungs", nargs="+", choices=list(RUNGS), default=list(RUNGS))
  parser.add_argument("--seeds", type=int, default=3, help="runs of each rung")
  parser.add_argument(
    "--minutes", type=float, help="after so many the run under way is saved, and it ends"
  )
  parser.add_argument("--workdir", type=Path, help="of all runs; default: runs/ladder_SIZE")
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
        make_run(run.folder, config, workdir / "frames")
  except (Preempted, _Stopped) as stop:
    print(f"\n{stop or 'Stopped'}. The same command goes on from here.")
  done = [run for run in runs if run.result() is not None]
  print(f"\n{len(done)} of {len(runs)} runs are done.\n")
  for source in options.sources:
    print(f"{table(runs, source)}\n")
  seconds = time.monotonic() - started
  print(f"{seconds:.0f} s on {device_name()}, {os.cpu_count()} cores, JAX {jax.__version__}")


def make_run(folder: Path, config: Any, frames: Path) -> None:
  """Trains, unless that is done, in memory; evaluated and saved at the end, and saved meanwhile.

  Args:
    folder: of the run.
    config: changed in place.
    frames: folder of rendered frames.

  Raises:
    UserError: the folder holds a run of another configuration.
    Preempted: SIGTERM came; the state is saved.
  """
  config.evaluate_every, config.draw_every = config.num_steps, 0
  config.checkpoint_every = config.num_steps if config.num_steps <= 5_000 else 2_500
  check_config(folder, config.to_dict())  # results of another configuration must not slip in
  if (folder / "results.json").exists():
    return
  experiment = Experiment.from_config(config)
  check_training_batch(experiment.mesh, config.data.batch_size, config.model.batch_norm_group)
  check_divisible(experiment.mesh, config.data.evaluation_batch_size, "data.evaluation_batch_size")
  folder.mkdir(parents=True, exist_ok=True)
  record_config(folder, config.to_dict())
  source, target, validation = frames_of(config, frames)
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


def table(runs: Sequence[Run], source: str) -> str:
  """Tables of a source's runs that are done: mIoU by rung and what each adds; IoU by class.

  Args:
    runs: in any order.
    source: of `SOURCES`.

  Returns:
    Markdown.
  """
  by_rung: dict[str, dict[int, dict[str, Any]]] = {}
  for rung in RUNGS:
    found = {run.seed: run.result() for run in runs if (run.rung, run.source) == (rung, source)}
    if done := {seed: found[seed] for seed in sorted(found) if found[seed] is not None}:
      by_rung[rung] = done
  if not by_rung:
    return f"{source}: no run is done yet."
  lines = [
    f"| {source} | mIoU, mean ± spread | seeds | to the rung before | depth: abs rel |",
    "|---|---|---|---|---|",
  ]
  before: dict[int, dict[str, Any]] = {}
  for rung, results in by_rung.items():
    scores = {seed: result["miou"] for seed, result in results.items()}
    both = [scores[seed] - before[seed]["miou"] for seed in scores.keys() & before.keys()]
    gain = spread(both, "+.1f") if both and rung != ORACLE else ""
    depth = [result["depth"]["abs_rel"] for result in results.values() if "depth" in result]
    each = ", ".join(f"{score:.1f}" for score in scores.values())
    cells = [rung, spread(list(scores.values())), each, gain, spread(depth, ".3f") if depth else ""]
    lines.append(f"| {' | '.join(cells)} |")
    before = results
  lines += ["", f"| IoU, mean | {' | '.join(by_rung)} |", "|---" * (len(by_rung) + 1) + "|"]
  for name in next(iter(next(iter(by_rung.values())).values()))["iou"]:
    cells = []
    for results in by_rung.values():
      values = [result["iou"][name] for result in results.values()]
      known = [value for value in values if value is not None]
      cells.append(f"{statistics.mean(known):.1f}" if known else "-")
    lines.append(f"| {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


def spread(values: Sequence[float], form: str = ".1f") -> str:
  """Mean and standard deviation; of a single value itself."""
  mean = format(statistics.mean(values), form)
  if len(values) < 2:
    return mean
  return f"{mean} ± {format(statistics.stdev(values), form.lstrip('+'))}"


if __name__ == "__main__":
  run_command(main)
