"""What bounds the evaluation of full-size frames? Times its parts, on the host and on the device.

    python -m benchmarks.speed.evaluation

Frames of the street world at Cityscapes' size, 2048x1024, with the sensor noise that makes their
PNG files as large, are prepared as real ones are: images at the configuration's input size, labels
at the size of their files. A few are rendered and repeated under other names. The network has
random weights; what it computes does not depend on them.
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from data_pipelines import quiet_tensorflow  # noqa: F401  # isort: skip (before all its users)

import jax
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from benchmarks.options import load_config, run_command
from benchmarks.speed.operations import count_operations
from corda_jax.adaptation.evaluate import Evaluator
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.inference.views import class_map, make_views
from corda_jax.metrics import confusion_matrix
from corda_jax.training.sharding import put_batch
from data_pipelines.input_pipeline import as_numpy, evaluation_dataset
from data_pipelines.prepare import open_records, prepare
from data_pipelines.street_world.write import write_cityscapes
from data_pipelines.tiles import packed_shape, unpack

HEIGHT, WIDTH = 1024, 2048  # of the files, pixels
SPLIT = "validation"


@dataclasses.dataclass(frozen=True)
class Part:
  """A row of the table: a part, the frames it was timed on, and the milliseconds of each."""

  name: str
  frames: int
  milliseconds: float


def main(arguments: list[str] | None = None) -> None:
  """Makes the frames that are missing, times everything and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", default="gta2cs", help="name of a file in configs")
  parser.add_argument("--frames", type=int, default=64, help="for the host's parts")
  parser.add_argument("--network_frames", type=int, default=4, help="for the device's parts")
  parser.add_argument("--rendered", type=int, default=4, help="different frames among them")
  parser.add_argument("--threads", type=int, default=0, help="that read ahead; 0: one a core")
  parser.add_argument("--workdir", type=Path, default=Path("data/benchmark_evaluation"))
  options = parser.parse_args(arguments)
  for name in ("frames", "network_frames", "rendered"):
    if getattr(options, name) < 1:
      raise UserError(f"--{name} is {getattr(options, name)}, expected 1 or more")
  config = load_config(options.config)
  config.data.reader_threads = options.threads
  config.data.evaluation_batch_size = jax.device_count()
  make_frames(config.data, options)
  host = time_host(config.data)
  threads, feed = time_pipeline(config.data)
  device, whole, flops = time_device(config, options.network_frames)
  print(report(host, device, whole, threads=threads, feed=feed))
  print(f"The network's forward pass is {flops / 1e9:.0f} GFLOP a frame.")


def make_frames(data_config: Any, options: argparse.Namespace) -> None:
  """Renders, repeats and prepares the frames, and points the configuration to them."""
  rendered = write_cityscapes(
    options.workdir / f"rendered_{options.rendered}",
    train_frames=0,
    validation_frames=options.rendered,
    seed=0,
    height=HEIGHT,
    width=WIDTH,
    neighbours=0,
  )
  root = options.workdir / f"frames_{options.rendered}_{options.frames}"
  for folder, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
    files = sorted((rendered / folder / "val").glob("*/*.png"))
    for number in range(options.frames):
      link = root / folder / "val" / "repeated" / f"repeated_{number:06d}_000019_{ending}.png"
      _link(link, files[number % len(files)])
  data_config.target.root = str(root)
  data_config.records_dir = str(options.workdir / f"records_{options.rendered}_{options.frames}")
  prepare(data_config.target, records_dir=data_config.records_dir, split=SPLIT)


def _link(link: Path, target: Path) -> None:
  link.parent.mkdir(parents=True, exist_ok=True)
  if not link.is_symlink():
    link.symlink_to(target.absolute())


def time_host(data_config: Any) -> list[Part]:
  """Times reading and decoding, in milliseconds of one core, and the transfer."""
  builder = open_records(data_config.target, data_config.records_dir, split=SPLIT)
  records = builder.as_data_source(
    SPLIT, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
  )
  count = len(records)
  parsed = [tf.train.Example.FromString(record).features.feature for record in records]
  examples = [
    {name: features[name].bytes_list.value[0] for name in ("image", "label")} for features in parsed
  ]

  def decode(name):
    size = np.mean([len(example[name]) for example in examples]) / 1e3
    height, width = packed_shape(examples[0][name])[:2]
    return Part(
      f"decode the {name}, {width}x{height}, packed in {size:.0f} kB",
      count,
      _time(lambda number: unpack(examples[number][name]), range(count), clock),
    )

  # In time of the processor, which other programs on the machine do not stretch.
  clock = time.process_time
  return [
    Part("read a record", count, _time(lambda number: records[number], range(count), clock)),
    decode("image"),
    decode("label"),
    Part("all of it as batches, parsed and stacked", count, _pipeline(data_config, clock)[1]),
  ]


def time_pipeline(data_config: Any) -> tuple[int, float]:
  """Reader threads, and the frames a second that they make when nothing else runs."""
  threads = data_config.reader_threads or len(os.sched_getaffinity(0))
  return threads, 1e3 / _pipeline(data_config, time.perf_counter)[1]


def _pipeline(data_config: Any, clock: Callable[[], float]) -> tuple[int, float]:
  """Frames of all batches, and milliseconds of each."""
  next(as_numpy(evaluation_dataset(data_config, spread=1)))  # traces the decoder
  start = clock()
  frames = sum(int(batch["valid"].sum()) for batch in as_numpy(evaluation_dataset(data_config)))
  return frames, 1e3 * (clock() - start) / frames


def time_device(config: Any, frames: int) -> tuple[list[Part], Part, float]:
  """Times the device's parts and the whole evaluation of `frames`; also the network's FLOP."""
  task = AdaptationTask.from_config(config)
  state = task.initial_state()
  variables = {"params": state.params, "batch_stats": state.batch_stats}

  def batches(limit):
    return as_numpy(evaluation_dataset(config.data, spread=limit))

  size = config.data.evaluation_batch_size
  batch = next(batches(size))
  arrays = {name: batch[name] for name in ("image", "label")}
  shape = batch["label"].shape[1:]

  @jax.jit
  def network(variables, images):
    x = task.normalization.normalize(images)
    predict = lambda x: task.model.apply(variables, x, train=False)["S"]  # noqa: E731
    return make_views(predict, x, scales=(1.0,), flip=False)[0][0]

  classify = jax.jit(lambda logits: class_map([(logits,)], shape))
  count = jax.jit(lambda label, classes: confusion_matrix(label, classes, len(task.classes)))

  def timed(name, function, repeats):
    milliseconds = _time(lambda _: jax.block_until_ready(function()), range(repeats))
    return Part(name, repeats * size, milliseconds / size)

  put = put_batch(task.mesh, arrays)
  logits = network(variables, put["image"])
  classes = classify(logits)
  parts = [
    timed("to the device", lambda: put_batch(task.mesh, arrays), 4 * frames),
    timed("network", lambda: network(variables, put["image"]), frames),
    timed(f"class map, {shape[1]}x{shape[0]}", lambda: classify(logits), 4 * frames),
    timed("confusion matrix", lambda: count(put["label"], classes), 4 * frames),
  ]
  evaluator = Evaluator(task)
  evaluator.confusion(state, batches(size))  # compiles
  start = time.perf_counter()
  _, counted = evaluator.confusion(state, batches(frames * size))
  milliseconds = 1e3 * (time.perf_counter() - start) / counted
  flops = count_operations(network, variables, put["image"]).total() / size
  return parts, Part("the whole evaluation", counted, milliseconds), flops


def _time(
  function: Callable[[Any], Any],
  items: Iterable[Any],
  clock: Callable[[], float] = time.perf_counter,
) -> float:
  """Mean milliseconds of a call, one call per item, after a warm-up with the first item."""
  items = list(items)
  function(items[0])
  start = clock()
  for item in items:
    function(item)
  return 1e3 * (clock() - start) / len(items)


def report(host: list[Part], device: list[Part], whole: Part, *, threads: int, feed: float) -> str:
  """The table as Markdown, and what bounds the evaluation.

  Args:
    host: parts of the input pipeline on one core; the last is all of them.
    device: parts on the device.
    whole: the whole evaluation.
    threads: threads of the input pipeline.
    feed: frames a second that these make.
  """
  lines = ["| part | frames timed | ms a frame |", "|---|---|---|"]
  for where, parts in (("host, one core", host), ("device", device), ("together", [whole])):
    lines += [f"| {where}: {p.name} | {p.frames} | {p.milliseconds:.1f} |" for p in parts]
  total = sum(part.milliseconds for part in device)
  needed = 1e3 / total / feed
  bound = "device" if needed < 1 else "host"
  kind = jax.devices()[0].device_kind
  return "\n".join(
    lines
    + [
      "",
      f"Host: {threads} threads make {feed:.0f} frames a second; one core makes "
      f"{1e3 / host[-1].milliseconds:.0f}.",
      f"Device ({jax.device_count()} x {kind}): {total:.1f} ms a frame, {1e3 / total:.2f} frames a "
      f"second, {total / host[-1].milliseconds:.0f} times the work of one core of the host.",
      f"The {bound} bounds the evaluation: the device uses {100 * min(needed, 1):.1f} % of what "
      f"the host can make. 500 frames take {whole.milliseconds / 2:.0f} s.",
    ]
  )


if __name__ == "__main__":
  run_command(main)
