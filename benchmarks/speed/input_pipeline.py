"""How fast are training samples made, and where does the time go?

    python -m benchmarks.speed.input_pipeline

Compares batches of prepared records with a re-statement of the released loaders on the same
frames, in time of the processor, which other programs do not stretch. Frames of the street world at
the data sets' own sizes, with the sensor noise and texture that make their PNG files as large; a
few are rendered, the others are links to them. All files are in the page cache, for both.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

from data_pipelines import quiet_tensorflow  # noqa: F401  # isort: skip (before all its users)

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from benchmarks.options import run_command
from benchmarks.reference.released_loaders import Stopwatch, load_source, load_target
from benchmarks.speed.input_frames import KINDS, Kind, find_frames, make_frames
from configs.default import get_config
from corda_jax.configuration import settings
from corda_jax.errors import UserError
from data_pipelines.input_pipeline import READY_BATCHES, as_numpy, train_dataset
from data_pipelines.prepare import open_records, prepare
from data_pipelines.settings import Frames
from data_pipelines.tiles import unpack

CORES = 16  # of the projection
_WANTED = 100  # steps a second, of the projection


@dataclasses.dataclass(frozen=True)
class Result:
  """Timings of one kind, in milliseconds of processor time per sample.

  Attributes:
    files: megabytes of a frame's files.
    record: megabytes of a record.
    released: part → milliseconds.
    ours: part → milliseconds. The parts are timed one by one; "the rest" is the difference to
      the batches as a whole, with order, crops, threads and memory.
  """

  files: float
  record: float
  released: dict[str, float]
  ours: dict[str, float]


def main(arguments: list[str] | None = None) -> None:
  """Makes the frames that are missing, times everything and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--frames", type=int, default=24, help="of each kind, with the links")
  parser.add_argument("--rendered", type=int, default=3, help="different frames among them")
  parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
  parser.add_argument("--seconds", type=float, default=20.0, help="for each kind and side")
  parser.add_argument("--workdir", type=Path, default=Path("data/benchmark_input"))
  options = parser.parse_args(arguments)
  for name in ("frames", "rendered", "seconds"):
    if getattr(options, name) <= 0:
      raise UserError(f"--{name} is {getattr(options, name)}, expected more than 0")
  configs, results = {}, {}
  for name in options.kinds:
    configs[name] = dataset_config(name, options)
    records_dir = str(options.workdir / f"records_{options.rendered}_{options.frames}")
    prepare(configs[name], records_dir=records_dir)
    data = data_config(configs[name], configs[name], records_dir)
    results[name] = time_kind(KINDS[name], data, options.seconds)
    print(f"timed {name}", file=sys.stderr, flush=True)
  print(table(results))
  for side in ("released", "ours"):
    print(f"\n{side}, ms a sample by part:\n\n{parts_table(results, side)}")
  for source, target in itertools.product(options.kinds, options.kinds):
    if KINDS[source].is_source and not KINDS[target].is_source:
      print(f"\n{projection(results, source, target)}")
  print(
    "\n" + memory(data_config(configs[options.kinds[0]], configs[options.kinds[-1]], records_dir))
  )


def dataset_config(name: str, options: argparse.Namespace) -> ConfigDict:
  """A kind's data set, with its frames made."""
  kind = KINDS[name]
  root = make_frames(kind, options.workdir, options.rendered, options.frames)
  (height, width), depth = kind.size, kind.depth
  return settings(
    Frames, dataset=kind.dataset, root=str(root), height=height, width=width, depth=depth
  )


def data_config(source: ConfigDict, target: ConfigDict, records_dir: str) -> ConfigDict:
  """The default configuration's batches, of other sets and by one thread."""
  data = get_config().data
  data.source, data.target = source, target
  data.records_dir = records_dir
  data.reader_threads = 1
  return data


def time_kind(kind: Kind, data: ConfigDict, seconds: float) -> Result:
  """Times both sides on the frames of a kind."""
  frames = find_frames(kind, data.source.root)["train"]
  files = np.mean([sum(map(os.path.getsize, frame.files())) for frame in frames]) / 1e6
  released = time_released(kind, frames, (data.crop_height, data.crop_width), seconds)
  record, ours = time_ours(data, seconds)
  return Result(files, record, released, ours)


def time_released(kind: Kind, frames: list, crop: tuple[int, int], seconds: float) -> dict:
  """Part → milliseconds a sample of the released loaders."""
  random = np.random.RandomState(0)
  load, argument = (load_source, kind.dataset) if kind.is_source else (load_target, kind.depth)
  watch, samples, end = Stopwatch(), 0, time.perf_counter() + seconds
  while not samples or time.perf_counter() < end:
    if samples == 1:  # the first one warms up
      watch = Stopwatch()
    corner = [random.randint(full - part + 1) for full, part in zip(kind.size, crop, strict=True)]
    frame = frames[samples % len(frames)]
    load(frame, argument, size=kind.size, crop=crop, corner=corner, watch=watch)
    samples += 1
  return {part: 1e3 * total / max(samples - 1, 1) for part, total in watch.seconds.items()}


def time_ours(data: ConfigDict, seconds: float) -> tuple[float, dict]:
  """Megabytes of a record, and part → milliseconds a sample of the batches."""
  batches = as_numpy(train_dataset(data, seed=0))
  ahead = data.reader_threads + READY_BATCHES
  for _ in range(2 * ahead):  # warms up, and fills what is made ahead
    next(batches)
  steps, start, end = 0, time.process_time(), time.perf_counter() + 0.7 * seconds
  while steps < 4 * ahead or time.perf_counter() < end:
    next(batches)
    steps += 1
  whole = 1e3 * (time.process_time() - start) / (2 * data.batch_size * steps)

  records = open_records(data.source, data.records_dir).as_data_source(
    "train", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
  )
  random = np.random.RandomState(0)
  crop = (data.crop_height, data.crop_width)
  free = np.subtract((data.source.height, data.source.width), crop) + 1
  watch, samples, size, end = Stopwatch(), 0, [], time.perf_counter() + 0.3 * seconds
  while not samples or time.perf_counter() < end:
    with watch("read"):
      serialized = records[random.randint(len(records))]
    with watch("parse"):
      features = tf.train.Example.FromString(serialized).features.feature
    window = (*random.randint(free), *crop)
    for key in ("image", "label", "inverse_depth"):
      with watch(f"decode the {key.replace('_', ' ')}'s crop"):
        unpack(features[key].bytes_list.value[0], window)
    samples += 1
    size.append(len(serialized))
  parts = {part: 1e3 * total / samples for part, total in watch.seconds.items()}
  return np.mean(size) / 1e6, parts | {"the rest": whole - sum(parts.values())}


def table(results: dict[str, Result]) -> str:
  """What a sample costs, on both sides."""
  lines = [
    "| | files, MB a frame | record, MB | released, ms | ours, ms | times as fast |",
    "|---|---|---|---|---|---|",
  ]
  for name, result in results.items():
    released, ours = total(result.released), total(result.ours)
    lines.append(
      f"| {name} | {result.files:.1f} | {result.record:.1f} | {released:.1f} | {ours:.2f} "
      f"| {released / ours:.1f} |"
    )
  return "\n".join(lines)


def total(parts: dict[str, float]) -> float:
  """Sum over all parts."""
  return sum(parts.values())


def parts_table(results: dict[str, Result], side: str) -> str:
  """Where the time goes, on one side."""
  parts = dict.fromkeys(part for result in results.values() for part in getattr(result, side))
  lines = ["| | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
  for part in parts:
    values = [getattr(result, side).get(part, 0.0) for result in results.values()]
    lines.append(f"| {part} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
  return "\n".join(lines)


def projection(results: dict[str, Result], source: str, target: str) -> str:
  """Projected feed of several cores, from the speed of one."""
  milliseconds = (total(results[source].ours) + total(results[target].ours)) / 2
  released = (total(results[source].released) + total(results[target].released)) / 2
  rate = 1e3 / milliseconds
  batch = get_config().data.batch_size
  steps = CORES * rate / (2 * batch)
  return (
    f"{source} + {target}: {rate:.0f} samples a second a core (released: {1e3 / released:.1f}). By "
    f"projection {CORES} cores feed {steps:.0f} steps a second of batch {batch} + {batch}; "
    f"{_WANTED} steps need {100 * _WANTED / steps:.0f} % of them."
  )


def memory(data: ConfigDict) -> str:
  """Growth of a new process that reads, and what bounds it."""
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
    grown, batch = executor.submit(_read, data.to_json(), 100).result()
  ahead = data.reader_threads + READY_BATCHES
  return (
    f"Memory: {ahead} batches of {batch:.1f} MB are ahead ({data.reader_threads} in the making), "
    f"{ahead * batch:.0f} MB; a process that reads 100 of them grew by {grown:.0f} MB."
  )


def _read(data_json: str, steps: int) -> tuple[float, float]:
  """Megabytes that this process grows by, at most, and those of a batch."""
  before = _resident()
  largest, size = before, 0
  dataset = train_dataset(ConfigDict(json.loads(data_json)), seed=0)
  for batch in itertools.islice(as_numpy(dataset), steps):
    largest = max(largest, _resident())
    size = sum(value.nbytes for value in batch.values())
  return (largest - before) / 1e6, size / 1e6


def _resident() -> int:
  """Bytes of this process in memory."""
  return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
  run_command(main)
