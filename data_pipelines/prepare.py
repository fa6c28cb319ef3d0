"""Prepares a data set: files → records at working resolution, once.

  python -m data_pipelines.prepare --dataset gta5 --root data/gta --height 720 --width 1280 \
    --depth disparity --records_dir data/records
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines import quiet_tensorflow  # noqa: F401  # isort: skip (before all its users)

import tensorflow_datasets as tfds
from absl import logging

from corda_jax.errors import UserError
from corda_jax.labels import CITYSCAPES, ClassList
from data_pipelines import bucket
from data_pipelines.builder import FramesBuilder
from data_pipelines.builders import BUILDERS, make_builder, quiet
from data_pipelines.frames import fingerprint


def prepare(
  dataset_config: Any,
  *,
  records_dir: str,
  cache_dir: str = bucket.DEFAULT_CACHE,
  retry: bucket.Retry = bucket.DEFAULT_RETRY,
  progress: bool = True,
  **options: Any,
) -> FramesBuilder:
  """Writes the records of a data set, unless they are there, and returns their builder.

  Safe to call from several processes at once: one writes, the others wait. A preparation that was
  killed leaves nothing that looks whole; the next one goes on from its last finished shard. What
  was found is in the builder's `report`, and in `preparation.json` beside the records.

  With `workers` > 1 each of so many processes, on one machine or on several that share
  `records_dir`, prepares its part, and the last one makes the whole of it; where that was another,
  the builder returned is not prepared.

  Args:
    dataset_config: with `dataset`, `root`, `height`, `width` and `depth`, and if wanted
      `depth_root`, `splits`, `views` and `neighbour_offset`. The roots may be missing where the
      records are there.
    records_dir: folder of all records, or one in a bucket, gs://….
    cache_dir: where those of a bucket are prepared and kept.
    retry: where the bucket does not answer.
    progress: whether to show a progress bar.
    **options: `classes`, `bad_frames`, `processes`, `shard_frames`, `worker` and `workers` of
      `frame_config.FrameConfig`.

  Raises:
    UserError: a value is not one of those wanted, the root is missing or laid out in another way,
      a frame is bad, the records cannot be written, or were made from other files than the root's.
  """
  local = bucket.local_folder(records_dir, cache_dir)
  builder = make_builder(dataset_config, local, progress=progress, **options)
  remote = _remote(builder, records_dir)
  if remote is not None:
    if builder.builder_config.workers > 1:
      raise UserError(
        f"several workers cannot share {records_dir!r}: set records_dir to a folder that all of "
        "them see, and copy it when it is whole"
      )
    with _lock(builder, shared=False):
      bucket.fetch(remote, Path(builder.data_path), retry)
  builder = _prepare(dataset_config, local, progress=progress, **options)
  if remote is not None:
    bucket.publish(Path(builder.data_path), remote, retry)
  return builder


def _prepare(dataset_config: Any, records_dir: str, **options: Any) -> FramesBuilder:
  """`prepare` into a folder."""
  builder = make_builder(dataset_config, records_dir, **options)
  if not builder.is_prepared():
    frames = builder.frames()  # a root that cannot be used is told before anything is written
    if builder.builder_config.workers > 1:
      with _lock(builder, shared=True):
        if not builder.is_prepared():
          builder.write_shards(frames)
      if not builder.is_prepared() and builder.missing_shards():
        return builder  # others are not done yet; the last of them makes the whole
    with _lock(builder, shared=False):
      builder = make_builder(dataset_config, records_dir, **options)
      if not builder.is_prepared():
        _write(builder)
        return builder
  builder.check_records()
  _check_same_files(builder)
  if builder.report.bad and builder.builder_config.bad_frames == "stop":
    raise UserError(
      f"the records in {os.fspath(builder.data_path)!r} lack {len(builder.report.bad)} bad frames: "
      'use them with data.bad_frames="skip", or mend the files and delete the records'
    )
  return builder


def open_records(
  dataset_config: Any,
  records_dir: str,
  cache_dir: str = bucket.DEFAULT_CACHE,
  *,
  retry: bucket.Retry = bucket.DEFAULT_RETRY,
  classes: ClassList = CITYSCAPES,
) -> FramesBuilder:
  """The builder of records that are there; those of a bucket are in the cache after it.

  Raises:
    UserError: they are not.
  """
  local = bucket.local_folder(records_dir, cache_dir)
  builder = make_builder(dataset_config, local, classes=classes)
  remote = _remote(builder, records_dir)
  if remote is not None:
    with _lock(builder, shared=False):
      bucket.fetch(remote, Path(builder.data_path), retry)
    builder = make_builder(dataset_config, local, classes=classes)
  if not builder.is_prepared():
    raise UserError(
      f"no records of {builder.name} {builder.builder_config.name} in {records_dir!r}: prepare "
      "them first with python -m data_pipelines.prepare"
    )
  builder.check_records()
  return builder


def _remote(builder: FramesBuilder, records_dir: str) -> str | None:
  """Where a bucket has the builder's records; None for those on a disk."""
  if not bucket.is_remote(records_dir):
    return None
  path = Path(builder.data_path)
  return "/".join([records_dir.rstrip("/"), *path.parts[-3:]])


def _write(builder: FramesBuilder) -> None:
  # The lock is held, so what is being written belongs to a process that was killed.
  for stale in builder.data_path.parent.glob("incomplete.*"):
    shutil.rmtree(stale)
  builder.shards.clear_unfinished()
  # TFDS makes a folder for downloads, though there are none.
  with quiet(), tempfile.TemporaryDirectory() as downloads:
    builder.download_and_prepare(
      download_dir=downloads,
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )


def _check_same_files(builder: FramesBuilder) -> None:
  """Raises UserError where the roots exist and hold other files than the records were made of."""
  config = builder.builder_config
  roots = [config.root] + [config.depth_root] * bool(config.depth_root and config.depth != "none")
  if not all(map(os.path.isdir, roots)):
    return
  if fingerprint(builder.frames()) != builder.report.fingerprint:
    raise UserError(
      f"the records in {os.fspath(builder.data_path)!r} were prepared from other files than are "
      f"in {' and '.join(map(repr, roots))} now: delete them, or set another records_dir"
    )


@contextlib.contextmanager
def _lock(builder: FramesBuilder, *, shared: bool) -> Iterator[None]:
  """Holds off other processes that would write the same records; ends with the process.

  Shared, it holds off only those that want it for themselves.
  """
  folder = Path(builder.data_path.parent.parent.parent)
  path = folder / f".{builder.name}-{builder.builder_config.name}.lock"
  try:
    folder.mkdir(parents=True, exist_ok=True)
    path.touch()
  except OSError as error:
    raise UserError(
      f"records cannot be written to {os.fspath(folder)!r} ({error.strerror}): mend that, or set "
      "another records_dir"
    ) from error
  kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
  with open(path, "r+") as file:
    try:
      fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
      logging.warning("another process prepares %s; waiting for it", builder.name)
      fcntl.flock(file, kind)
    yield


def prepare_as_asked(options: argparse.Namespace, *, progress: bool = True) -> FramesBuilder:
  """`prepare` with the options of the command."""
  return prepare(
    options,
    records_dir=options.records_dir,
    cache_dir=options.cache_dir,
    progress=progress,
    bad_frames=options.bad_frames,
    processes=options.processes,
    shard_frames=options.shard_frames,
    worker=options.worker,
    workers=options.workers,
  )


def run(options: argparse.Namespace) -> int:
  """Prepares as asked and prints the report; returns the exit code."""
  try:
    builder = prepare_as_asked(options)
    if not builder.is_prepared():
      missing = len(builder.missing_shards())
      print(f"worker {options.worker} is done; {missing} shards of other workers are missing")
      return 0
  except (UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print("\nStopped before the records were whole; the same command goes on.", file=sys.stderr)
    return 130
  for line in builder.report.lines():
    print(line)
  print(f"records: {os.fspath(builder.data_path)}")
  return 0


def main(arguments: list[str] | None = None) -> int:
  """The command; returns its exit code."""
  return run(make_parser().parse_args(arguments))


def make_parser() -> argparse.ArgumentParser:
  """The options of the command."""
  parser = argparse.ArgumentParser(
    prog="python -m data_pipelines.prepare",
    description="Prepare a data set into records; a folder of your own: docs/your_data.md.",
  )
  parser.add_argument("--dataset", required=True, choices=sorted({*BUILDERS} - {"folder"}))
  parser.add_argument("--root", required=True, help="folder of the data set's files or archives")
  parser.add_argument("--height", required=True, type=int, help="working resolution, pixels")
  parser.add_argument("--width", required=True, type=int, help="working resolution, pixels")
  kinds = "; ".join(
    f"{name}: {', '.join(cls.DEPTH_KINDS)}" for name, cls in BUILDERS.items() if name != "folder"
  )
  parser.add_argument("--depth", required=True, help=f"{kinds}; any: none")
  parser.add_argument(
    "--depth_root", default="", help="folder of the depth files, if they lie apart from the root"
  )
  parser.add_argument("--records_dir", required=True, help="folder of all records, or gs://…")
  parser.add_argument(
    "--cache_dir", default=bucket.DEFAULT_CACHE, help="local folder for records of a bucket"
  )
  parser.add_argument(
    "--splits", default="train", type=_names, help="to train on; cityscapes: also train_extra"
  )
  parser.add_argument(
    "--views", default="", type=_names, help="cityscapes: images to add, right,previous,next"
  )
  parser.add_argument(
    "--neighbour_offset", default=1, type=int, help="frames to the previous and next image"
  )
  parser.add_argument("--bad_frames", default="stop", choices=("stop", "skip"))
  parser.add_argument("--processes", default=0, type=int, help="0: one a core")
  parser.add_argument("--shard_frames", default=128, type=int, help="frames of a record file")
  parser.add_argument("--worker", default=0, type=int, help="number of this worker, from 0")
  parser.add_argument("--workers", default=1, type=int, help="that prepare the data set together")
  return parser


def _names(text: str) -> tuple[str, ...]:
  return tuple(name for name in text.split(",") if name)


if __name__ == "__main__":
  sys.exit(main())
