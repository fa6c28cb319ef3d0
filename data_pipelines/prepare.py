"""Prepares data sets: files → records at working resolution, once."""

import contextlib
import grp
import importlib.util
import io
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import quiet_tensorflow  # noqa: F401  # isort: skip (before all its users)

import tensorflow_datasets as tfds
from absl import logging

from corda_jax.atomic_io import check_links
from corda_jax.errors import UserError
from corda_jax.labels import CITYSCAPES, ClassList
from corda_jax.locks import only_writer
from data_pipelines.datasets.base import FramesBuilder
from data_pipelines.datasets.builders import make_builder, quiet
from data_pipelines.frames import fingerprint
from data_pipelines.street_world.provide import render

_LOGGED_NOTES = 5  # the report has all


def prepare(
  dataset_config: Any,
  *,
  records_dir: str,
  split: str = "train",
  contents: Sequence[str] = (),
  beam: Sequence[str] = (),
  **options: Any,
) -> FramesBuilder:
  """Writes the records that hold a split, unless they exist, and returns their builder.

  Safe to call from several processes at once: one writes, the others wait. A killed
  preparation leaves nothing that looks complete; the next one starts over. The builder's `report`
  says what was found.

  Args:
    dataset_config: as in `make_builder`. The roots may be missing where the records exist.
    records_dir: folder of all records.
    split: "validation", or one of the configuration's `splits`.
    contents: what is read from the records.
    beam: options of the Apache Beam pipeline that prepares; empty: processes of this machine.
    **options: `classes`, `bad_frames`, `processes` and `progress` of `FrameConfig`.

  Raises:
    UserError: a value is invalid, the root is missing or has another layout, a frame is bad, the
      records cannot be written, or they were made from other files than the root's.
  """

  def make() -> FramesBuilder:
    return make_builder(dataset_config, records_dir, split=split, contents=contents, **options)

  builder = make()
  check_links(Path(builder.data_path))
  if not is_prepared(builder):
    if beam and not importlib.util.find_spec("apache_beam"):
      raise UserError("data.beam_options needs Apache Beam: pip install -e '.[beam]'")
    builder.find()  # a root that cannot be used is reported before anything is written
    with _lock(builder):
      builder = make()
      if not is_prepared(builder):
        _write(builder, beam)
        for note in builder.report.notes[:_LOGGED_NOTES]:
          logging.warning("%s %s: %s: %s", builder.name, *note.values())
        return builder
  _check_whole(builder)
  _check_same_files(builder)
  if builder.report.bad and builder.builder_config.bad_frames == "stop":
    raise UserError(
      f"the records in {os.fspath(builder.data_path)!r} lack {len(builder.report.bad)} bad frames: "
      'use them with data.bad_frames="skip", or fix the files and delete the records'
    )
  return builder


def provide(
  data_config: Any, needs: Sequence[tuple[str, str, Sequence[str]]]
) -> list[FramesBuilder]:
  """Prepares what a run reads, with progress bars for long steps.

  Args:
    data_config: the `data` part of a configuration.
    needs: (domain, split, contents) of what is read; contents are among "image", "label",
      "inverse_depth" and "views".

  Returns:
    The builder for each of the needs.

  Raises:
    UserError: a value is invalid, or files are missing, broken or in another layout.
  """
  options = {
    "records_dir": data_config.records_dir,
    "classes": ClassList.from_config(data_config.classes),
    "bad_frames": data_config.bad_frames,
    "processes": data_config.prepare_processes,
  }
  for domain, split, contents in needs:  # mistakes are reported before hours of preparing
    with naming(domain):
      make_builder(data_config[domain], split=split, contents=contents, **options)
  builders = []
  for domain, split, contents in needs:
    if data_config.street_world.enabled:
      render(data_config[domain], data_config)
    with naming(domain):
      builder = prepare(
        data_config[domain],
        split=split,
        contents=contents,
        beam=data_config.beam_options,
        **options,
      )
    builders.append(builder)
    if bad := builder.report.bad:  # at the start of every run that lacks them
      logging.warning(
        "%s %s: the records lack %d bad frames, listed in %s",
        builder.name, split, len(bad), builder.data_path / "metadata.json",
      )  # fmt: skip
  return builders


@contextlib.contextmanager
def naming(domain: str) -> Iterator[None]:
  """Prefixes errors about a data set with its section of the configuration."""
  try:
    yield
  except UserError as error:
    raise UserError(f"data.{domain}: {error}") from error


def open_records(
  dataset_config: Any,
  records_dir: str,
  *,
  split: str = "train",
  contents: Sequence[str] = (),
  classes: ClassList = CITYSCAPES,
) -> FramesBuilder:
  """The builder of the existing records that hold a split.

  Raises:
    UserError: there are none, or they are damaged.
  """
  builder = make_builder(
    dataset_config, records_dir, split=split, contents=contents, classes=classes
  )
  if not is_prepared(builder):
    raise UserError(
      f"no records of {builder.name} {builder.builder_config.name} in {records_dir!r}: prepare "
      "them first with --mode=prepare"
    )
  _check_whole(builder)
  return builder


def is_prepared(builder: FramesBuilder) -> bool:
  """Whether the records exist; TFDS names their folder when they are complete."""
  return builder.data_path.exists()


def _check_whole(builder: FramesBuilder) -> None:
  """Raises UserError where a file of the records is gone, or their report is damaged."""
  files = [path for split in builder.info.splits.values() for path in split.filepaths]
  files += [builder.data_path / name for name in ("dataset_info.json", "metadata.json")]
  wrong = [f"{os.fspath(path)!r} is missing" for path in files if not os.path.exists(path)]
  try:
    _ = builder.report
  except (TypeError, ValueError):
    wrong.append(f"{os.fspath(builder.data_path / 'metadata.json')!r} is damaged")
  if wrong:
    raise UserError(
      f"the records in {os.fspath(builder.data_path)!r} are incomplete, {wrong[0]}: delete that "
      "folder, and prepare the data set again"
    )


def _write(builder: FramesBuilder, beam: Sequence[str]) -> None:
  # The lock is held, so unfinished records belong to a process that was killed.
  for stale in builder.data_path.parent.glob(f"incomplete.*_{builder.version}*"):
    shutil.rmtree(stale)
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  if beam:
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(list(beam))
    runner = options.get_all_options()["runner"] or "DirectRunner"
    config = config.replace(beam_runner=runner, beam_options=options)
  try:
    # TFDS makes a folder for downloads, though there are none, and prints about them.
    with (
      quiet(),
      _owners_may_be_nameless(),
      tempfile.TemporaryDirectory() as downloads,
      contextlib.redirect_stdout(io.StringIO()),
    ):
      builder.download_and_prepare(
        download_dir=downloads, download_config=config, file_format="array_record"
      )
  except (OSError, RuntimeError) as error:  # array_record raises the latter
    reason = getattr(error, "strerror", None) or str(error).split(";")[0]
    raise UserError(
      f"records cannot be written to {os.fspath(builder.data_path.parent)!r} ({reason}): make room "
      "or fix that, and run again"
    ) from error


@contextlib.contextmanager
def _owners_may_be_nameless() -> Iterator[None]:
  """Gives users and groups without a name, as in containers, their number as a name.

  TFDS asks etils for the sizes of files, which looks up their owners' names, too, and fails.
  """

  def user(number: int) -> Any:
    try:
      return getpwuid(number)
    except KeyError:
      return pwd.struct_passwd((str(number), "", number, 0, "", "", ""))

  def group(number: int) -> Any:
    try:
      return getgrgid(number)
    except KeyError:
      return grp.struct_group((str(number), "", number, []))

  getpwuid, getgrgid = pwd.getpwuid, grp.getgrgid
  pwd.getpwuid, grp.getgrgid = user, group
  try:
    yield
  finally:
    pwd.getpwuid, grp.getgrgid = getpwuid, getgrgid


def _check_same_files(builder: FramesBuilder) -> None:
  """Raises UserError if the roots exist with other files than the records were made from."""
  config = builder.builder_config
  roots = [config.root] + [config.depth_root] * bool(config.depth_root and config.depth != "none")
  if not all(os.path.isdir(root) and os.listdir(root) for root in roots):  # or a disk not mounted
    return
  if fingerprint(builder.find().splits) != builder.report.fingerprint:
    raise UserError(
      f"the records in {os.fspath(builder.data_path)!r} were prepared from other files than are "
      f"in {' and '.join(map(repr, roots))} now: delete them, or set another records_dir"
    )


def _lock(builder: FramesBuilder) -> contextlib.AbstractContextManager[None]:
  """Keeps out other processes that would write the same records."""
  folder = Path(builder.data_path.parent.parent.parent)
  return only_writer(
    folder / f".{builder.name}-{builder.builder_config.name}.lock",
    otherwise="set another records_dir",
    wait=True,
  )
