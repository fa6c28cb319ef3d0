"""The data sets by name, and their builders from a configuration."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from corda_jax.errors import UserError
from data_pipelines.builder import FramesBuilder
from data_pipelines.cityscapes import Cityscapes
from data_pipelines.folder import Folder
from data_pipelines.frame_config import check_config
from data_pipelines.gta5 import Gta5
from data_pipelines.synthia import Synthia

BUILDERS: dict[str, type[FramesBuilder]] = {
  "gta5": Gta5,
  "synthia": Synthia,
  "cityscapes": Cityscapes,
  "folder": Folder,
}


def make_builder(dataset_config: Any, records_dir: str, **options: Any) -> FramesBuilder:
  """The builder of a data set's records, prepared or not.

  Args:
    dataset_config: see `prepare.prepare`.
    records_dir: folder of all records.
    **options: more of `frame_config.FrameConfig`.

  Raises:
    UserError: a value is not one of those wanted.
  """
  dataset = dataset_config.dataset
  if dataset not in BUILDERS:
    raise UserError(f"dataset is {dataset!r}, wanted one of {', '.join(BUILDERS)}")
  optional = {
    key: tuple(getattr(dataset_config, key))
    for key in ("splits", "views")
    if hasattr(dataset_config, key)
  }
  optional |= {
    key: getattr(dataset_config, key)
    for key in ("neighbour_offset", "depth_root")
    if hasattr(dataset_config, key)
  }
  config = BUILDERS[dataset].make_config(
    dataset_config,
    root=os.fspath(dataset_config.root),
    height=dataset_config.height,
    width=dataset_config.width,
    depth=dataset_config.depth,
    **optional,
    **options,
  )
  check_config(config, BUILDERS[dataset])
  BUILDERS[dataset].recipe(config, "train")  # a class that the data set lacks is told at once
  with quiet():
    return BUILDERS[dataset](config=config, data_dir=os.path.abspath(records_dir))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences the progress bars and the log of TFDS, which name its own inner steps."""
  tfds.disable_progress_bar()
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)
