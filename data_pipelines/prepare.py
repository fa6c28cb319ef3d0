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
from data_pipelines.builder import FrameConfig, FramesBuilder
from data_pipelines.cityscapes import Cityscapes
from data_pipelines.frames import fingerprint
from data_pipelines.gta5 import Gta5
from data_pipelines.synthia import Synthia

BUILDERS: dict[str, type[FramesBuilder]] = {
  "gta5": Gta5,
  "synthia": Synthia,
  "cityscapes": Cityscapes,
}


def prepare(
  dataset_config: Any,
  *,
  records_dir: str,
  classes: ClassList = CITYSCAPES,
  bad_frames: str = "stop",
  processes: int = 0,
  progress: bool = True,
) -> FramesBuilder:
  """Writes the records of a data set, unless they are there, and returns their builder.

  Safe to call from several processes at once: one writes, the others wait. A preparation that was
  killed leaves nothing that looks whole; the next one starts anew. What was found is in the
  builder's `report`, and in `preparation.json` beside the records.

  Args:
    dataset_config: with `dataset`, `root`, `height`, `width` and `depth`. The root may be missing
      where the records are there.
    records_dir: folder of all records.
    classes: what the labels of the records tell apart.
    bad_frames: "stop" at the first frame that cannot be used, or "skip" such frames.
    processes: that decode and resize; 0 is one a core.
    progress: whether to show a progress bar.

  Raises:
    UserError: a value is not one of those wanted, the root is missing or laid out in another way,
      a frame is bad, or the records were made from other files than the root's.
  """
  if bad_frames not in ("stop", "skip"):
    raise UserError(f"data.bad_frames is {bad_frames!r}, wanted 'stop' or 'skip'")
  if processes < 0:
    raise UserError(f"data.prepare_processes is {processes}, wanted 0 (one a core) or more")
  options = {
    "classes": classes,
    "bad_frames": bad_frames,
    "processes": processes,
    "progress": progress,
  }
  builder = _make_builder(dataset_config, records_dir, **options)
  if not builder.is_prepared():
    builder.frames()  # a root that cannot be used is told before anything is written
    with _lock(builder):
      builder = _make_builder(dataset_config, records_dir, **options)
      if not builder.is_prepared():
        _write(builder)
        return builder
  _check_same_files(builder)
  return builder


def open_records(
  dataset_config: Any, records_dir: str, classes: ClassList = CITYSCAPES
) -> FramesBuilder:
  """The builder of records that are there.

  Raises:
    UserError: they are not.
  """
  builder = _make_builder(dataset_config, records_dir, classes=classes)
  if not builder.is_prepared():
    raise UserError(
      f"no records of {builder.name} {builder.builder_config.name} in {records_dir!r}: prepare "
      "them first with python -m data_pipelines.prepare"
    )
  return builder


def _make_builder(dataset_config: Any, records_dir: str, **options: Any) -> FramesBuilder:
  dataset, depth = dataset_config.dataset, dataset_config.depth
  if dataset not in BUILDERS:
    raise UserError(f"dataset is {dataset!r}, wanted one of {', '.join(BUILDERS)}")
  kinds = (*BUILDERS[dataset].DEPTH_KINDS, "none")
  if depth not in kinds:
    raise UserError(f"depth of {dataset} is {depth!r}, wanted one of {', '.join(kinds)}")
  if min(dataset_config.height, dataset_config.width) < 1:
    raise UserError(
      f"size of {dataset} is {dataset_config.width}x{dataset_config.height}, wanted 1x1 or more"
    )
  config = FrameConfig(
    root=os.fspath(dataset_config.root),
    height=dataset_config.height,
    width=dataset_config.width,
    depth=depth,
    **options,
  )
  BUILDERS[dataset].recipe(config, "train")  # a class that the data set lacks is told at once
  with _quiet():
    return BUILDERS[dataset](config=config, data_dir=os.path.abspath(records_dir))


def _write(builder: FramesBuilder) -> None:
  # The lock is held, so a folder that is being written belongs to a process that was killed.
  for stale in builder.data_path.parent.glob("incomplete.*"):
    shutil.rmtree(stale)
  # TFDS makes a folder for downloads, though there are none.
  with _quiet(), tempfile.TemporaryDirectory() as downloads:
    builder.download_and_prepare(
      download_dir=downloads,
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
  log = logging.warning if builder.report.bad else logging.info
  for line in builder.report.lines():
    log("%s %s", builder.name, line)


def _check_same_files(builder: FramesBuilder) -> None:
  """Raises UserError where the root exists and holds other files than the records were made of."""
  if not os.path.isdir(builder.builder_config.root):
    return
  if fingerprint(builder.frames()) != builder.report.fingerprint:
    raise UserError(
      f"the records in {os.fspath(builder.data_path)!r} were prepared from other files than are "
      f"in {builder.builder_config.root!r} now: delete them, or set another records_dir"
    )


@contextlib.contextmanager
def _lock(builder: FramesBuilder) -> Iterator[None]:
  """Holds off other processes that would write the same records; ends with the process."""
  folder = builder.data_path.parent.parent.parent
  folder.mkdir(parents=True, exist_ok=True)
  with open(Path(folder) / f".{builder.name}-{builder.builder_config.name}.lock", "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      logging.warning("another process prepares %s; waiting for it", builder.name)
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences the progress bars and the log of TFDS, which name its own inner steps."""
  tfds.disable_progress_bar()
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


def main(arguments: list[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m data_pipelines.prepare", description="Prepare a data set into records."
  )
  parser.add_argument("--dataset", required=True, choices=sorted(BUILDERS))
  parser.add_argument("--root", required=True, help="folder of the data set's files")
  parser.add_argument("--height", required=True, type=int, help="working resolution, pixels")
  parser.add_argument("--width", required=True, type=int, help="working resolution, pixels")
  parser.add_argument(
    "--depth",
    required=True,
    help="gta5: disparity; synthia: simulator; cityscapes: mono, stereo; any: none",
  )
  parser.add_argument("--records_dir", required=True, help="folder of all records")
  parser.add_argument("--bad_frames", default="stop", choices=("stop", "skip"))
  parser.add_argument("--processes", default=0, type=int, help="0: one a core")
  options = parser.parse_args(arguments)
  try:
    builder = prepare(
      options,
      records_dir=options.records_dir,
      bad_frames=options.bad_frames,
      processes=options.processes,
    )
  except (UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print("\nStopped before the records were whole; nothing of them is kept.", file=sys.stderr)
    return 130
  for line in builder.report.lines():
    print(line)
  print(f"records: {os.fspath(builder.data_path)}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
