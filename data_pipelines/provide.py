"""Makes sure that the records a run needs are there: renders, prepares, or finds them."""

from collections.abc import Sequence
from typing import Any

from absl import logging

from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from data_pipelines import bucket
from data_pipelines.builder import REPORT_FILE, FramesBuilder
from data_pipelines.folder_files import check_supervision
from data_pipelines.prepare import prepare
from data_pipelines.street_world import write
from data_pipelines.street_world.domains import real_city


def provide(
  data_config: Any,
  domains: Sequence[str] = ("source", "target"),
  *,
  self_supervised: bool = False,
) -> list[FramesBuilder]:
  """Prepares the data sets of a configuration, with a progress bar for what takes long.

  Args:
    data_config: the `data` part of a configuration.
    domains: which of "source" and "target" are needed.
    self_supervised: whether views are all that is learnt from; validation may then lack labels, and
      training depth.

  Returns:
    The builder of each domain's records.

  Raises:
    UserError: a value is not one of those wanted, files are missing, laid out in another way or
      broken.
  """
  for domain in domains:  # before the first of them is prepared for hours
    dataset_config = data_config[domain]
    if dataset_config.dataset == "folder" and not self_supervised:
      check_supervision(dataset_config.folder, depth=dataset_config.depth)
  builders = []
  for domain in domains:
    dataset_config = data_config[domain]
    if data_config.street_world.enabled:
      _render(dataset_config, data_config)
    builder = prepare(
      dataset_config,
      records_dir=data_config.records_dir,
      classes=ClassList.from_config(data_config.classes),
      cache_dir=data_config.cache_dir,
      retry=bucket.Retry(data_config.bad_records.retries, data_config.bad_records.retry_seconds),
      bad_frames=data_config.bad_frames,
      processes=data_config.prepare_processes,
      shard_frames=data_config.shard_frames,
    )
    if builder.report.bad:  # at the start of every run that trains or scores without them
      logging.warning(
        "%s: the records lack %d bad frames, listed in %s",
        builder.name,
        len(builder.report.bad),
        builder.data_path / REPORT_FILE,
      )
    builders.append(builder)
  return builders


def _render(dataset_config: Any, data_config: Any) -> None:
  """Writes the world, or checks that what is there was written with the same parameters."""
  world, processes = data_config.street_world, data_config.prepare_processes
  common = {"seed": world.seed, "processes": processes}
  source = {"frames": world.source_frames, "height": world.source_height}
  source["width"] = world.source_width
  if dataset_config.dataset == "gta5":
    write.write_gta5(dataset_config.root, **source, **common)
  elif dataset_config.dataset == "synthia":
    write.write_synthia(dataset_config.root, **source, **common)
  elif dataset_config.dataset == "cityscapes":
    write.write_cityscapes(
      dataset_config.root,
      train_frames=world.target_frames,
      validation_frames=world.validation_frames,
      height=world.target_height,
      width=world.target_width,
      domain=real_city(world.gap),
      **common,
    )
  else:
    raise UserError(
      f"the street world cannot be written as {dataset_config.dataset!r}, wanted gta5, synthia or "
      "cityscapes"
    )
