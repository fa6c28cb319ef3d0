"""Renders the street world for a configuration."""

from typing import Any

from data_pipelines.street_world import write
from data_pipelines.street_world.gap import real_city


def render(dataset_config: Any, data_config: Any) -> None:
  """Writes the world, or checks that what exists was written with the same parameters.

  Folders of other data sets (`dataset` "folder") are left alone.

  Args:
    dataset_config: the part of a configuration that describes the data set.
    data_config: the `data` section, with `street_world` and `prepare_processes`.

  Raises:
    UserError: the folder holds something else.
  """
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
