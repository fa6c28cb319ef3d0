"""The data sets by name, and their builders from a configuration."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from corda_jax.console import errors_alone
from corda_jax.errors import UserError
from data_pipelines.datasets.base import FramesBuilder
from data_pipelines.datasets.cityscapes import Cityscapes
from data_pipelines.datasets.folder import Folder
from data_pipelines.datasets.frame_config import FrameConfig
from data_pipelines.datasets.gta5 import Gta5
from data_pipelines.datasets.synthia import Synthia
from data_pipelines.settings import RESAMPLING

BUILDERS: dict[str, type[FramesBuilder]] = {
  "gta5": Gta5,
  "synthia": Synthia,
  "cityscapes": Cityscapes,
  "folder": Folder,
}

# Fields that `Frames` and `FrameConfig` have in common.
_SHARED = ("height", "width", "depth", "neighbour_offset", "resampling")


def make_builder(
  dataset_config: Any,
  records_dir: str,
  *,
  split: str = "train",
  contents: Sequence[str] = (),
  **options: Any,
) -> FramesBuilder:
  """The builder of the records that hold a split, prepared or not.

  Validation has its own records, without views unless they are among the contents: evaluation
  alone needs no training files.

  Args:
    dataset_config: `data.source` or `data.target` of a configuration.
    records_dir: folder of all records.
    split: "validation", or one of the configuration's `splits`.
    contents: what is read from the records: "image", "label", "inverse_depth", "views".
    **options: more fields of `FrameConfig`.

  Raises:
    UserError: a value is invalid.
  """
  if "://" in os.fspath(records_dir):
    raise UserError(
      f"records_dir is {os.fspath(records_dir)!r}, expected a folder: mount the bucket, or copy "
      "the records to a disk"
    )
  dataset = dataset_config.dataset
  if dataset not in BUILDERS:
    raise UserError(f"dataset is {dataset!r}, expected one of {', '.join(BUILDERS)}")
  cls = BUILDERS[dataset]
  splits, views = tuple(dataset_config.splits), tuple(dataset_config.views)
  if split == "validation" and cls.HAS_VALIDATION:
    splits, views = ("validation",), views if "views" in contents else ()
  values = {
    "root": os.path.expanduser(dataset_config.root),
    "depth_root": os.path.expanduser(dataset_config.depth_root),
    "splits": splits,
    "views": views,
    **{name: dataset_config[name] for name in _SHARED},
  }
  known = (*splits, *("validation",) * cls.HAS_VALIDATION)
  if split not in known:
    raise UserError(f"{cls.name} has no split {split!r}, expected one of: {', '.join(known)}")
  _check(cls, FrameConfig(**values, **options))
  config = cls.make_config(dataset_config, contents=contents, **values, **options)
  cls.recipe(config, split)  # an unknown class is reported before files are looked for
  records_dir = os.path.abspath(os.path.expanduser(records_dir))
  with quiet():
    try:
      return cls(config=config, data_dir=records_dir)
    except Exception as error:  # whatever JSON and protocol buffers raise
      folder = os.path.join(records_dir, cls.name, config.name)
      raise UserError(
        f"the description of the records in {folder!r} is damaged "
        f"({error or type(error).__name__}): delete that folder, and prepare the data set again"
      ) from error


def _check(cls: type[FramesBuilder], config: FrameConfig) -> None:
  """Raises UserError where the data set does not support a value."""
  validation = config.splits == ("validation",) and cls.HAS_VALIDATION
  for key, given, known in (
    ("depth", (config.depth,), (*cls.depth_kinds(), "none")),
    ("splits", config.splits, config.splits if validation else cls.TRAINING_SPLITS),
    ("views", config.views, cls.VIEWS),
    ("resampling", (config.resampling,), RESAMPLING),
    ("bad_frames", (config.bad_frames,), ("stop", "skip")),
  ):
    unknown = [value for value in given if value not in known]
    if unknown and not known:
      raise UserError(
        f"{key} of {cls.name} is {unknown[0]!r}, but {cls.name} has none: leave {key} empty"
      )
    if unknown or len(set(given)) < len(given) or (key == "splits" and not given):
      shown, how = (unknown[0], "one of") if unknown else (given, "each once of")
      raise UserError(f"{key} of {cls.name} is {shown!r}, expected {how} {', '.join(known)}")
  if min(config.height, config.width) < 1:
    raise UserError(f"size of {cls.name} is {config.width}x{config.height}, expected 1x1 or more")
  for key, given, least in (
    ("prepare_processes", config.processes, 0),
    ("neighbour_offset", config.neighbour_offset, 1),
  ):
    if given < least:
      raise UserError(f"{key} is {given}, expected {least} or more")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences the progress bars and the log of TFDS, which report its internal steps."""
  tfds.disable_progress_bar()
  with errors_alone():
    yield
