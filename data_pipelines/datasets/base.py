"""The TFDS builder that all data sets share: features, shards, checks, the report.

A data set is a subclass that says where its files are and how they are read; see gta5.py.

TFDS drives it shard by shard (`tfds.core.ShardBasedBuilder`), because records keep the order of the
frames' names: a `GeneratorBasedBuilder` that does not shuffle sorts a whole split in memory.
"""

import abc
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from corda_jax.console import progress_bar
from corda_jax.errors import UserError
from corda_jax.labels import label_table
from data_pipelines.archives import DataFiles, depth_tree
from data_pipelines.datasets.frame_config import FrameConfig
from data_pipelines.datasets.shards import Shard, generate, stop_at
from data_pipelines.frames import FoundFrames, Frame, fingerprint, match_frames, missing_file
from data_pipelines.parallel import ordered_map
from data_pipelines.patterns import NAME, Pattern
from data_pipelines.plausible import examine
from data_pipelines.preprocess import DepthRecipe, LabelIds, PreparedFrame, Recipe, prepare_item
from data_pipelines.readers import BadFrameError
from data_pipelines.report import Part, Report
from data_pipelines.tiled_array import TiledArray


class _LocalInfo(tfds.core.DatasetInfo):
  """Information about records that are made locally."""

  def initialize_from_bucket(self) -> None:
    """Does nothing: TFDS would leave a temporary folder at every call."""


class FramesBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
  """Base class of the builders. Records under their final name are complete, report included."""

  VERSION = tfds.core.Version("4.0.0")  # version of the record format
  MANUAL_DOWNLOAD_INSTRUCTIONS = "docs/data.md says which files each data set has."
  TITLE: ClassVar[str]  # name of the data set in messages
  IMAGE_FILTER: ClassVar[Image.Resampling]
  LABEL_IDS: ClassVar[tuple[Mapping[str, int], frozenset[int]]]  # class → id; all valid ids
  DEPTH_RECIPES: ClassVar[Mapping[str, DepthRecipe]]  # depth kind → recipe
  TRAINING_SPLITS: ClassVar[tuple[str, ...]] = ("train",)
  HAS_VALIDATION: ClassVar[bool] = False  # a split "validation", whose labels keep their size
  VIEWS: ClassVar[tuple[str, ...]] = ()
  EXPECTED: ClassVar[dict[str, int]] = {}  # split → frames of the whole data set
  NETWORK_DEPTH: ClassVar[str]  # the depth kind that files of a depth network are read as

  builder_config: FrameConfig

  @classmethod
  def make_config(
    cls, dataset_config: Any, *, contents: Sequence[str], **values: Any
  ) -> FrameConfig:
    """The configuration of the records of some splits.

    Args:
      dataset_config: the part of a configuration that describes the data set.
      contents: what is read from the records: "image", "label", "inverse_depth", "views".
      **values: fields of `FrameConfig`.

    Raises:
      UserError: a value is invalid.
    """
    del dataset_config, contents
    return FrameConfig(**values)

  @classmethod
  def depth_kinds(cls) -> tuple[str, ...]:
    """Kinds of depth files, without "none"; the released one first."""
    return tuple(cls.DEPTH_RECIPES)

  @classmethod
  @abc.abstractmethod
  def patterns(cls, config: FrameConfig, split: str) -> dict[str, tuple[str, ...]]:
    """Attribute of `Frame` → patterns of its files; the first one that a file matches counts."""

  @classmethod
  def find_frames(cls, files: DataFiles, config: FrameConfig) -> FoundFrames:
    """The frames of the configured splits, named after their files without folders.

    Raises:
      UserError: the files have another layout.
    """
    splits, notes = {}, []
    for split in config.splits:
      patterns = {k: [*map(Pattern, texts)] for k, texts in cls.patterns(config, split).items()}
      frames, left = match_frames(*cls.trees(files, config, split, patterns))
      notes += [(split, *note) for note in left]
      by_name: dict[str, Frame] = {}
      for frame in frames:
        name = os.path.basename(frame.name)
        if name in by_name:
          raise UserError(
            f"{by_name[name].image!r} and {frame.image!r} have one name: leave one of them out"
          )
        by_name[name] = dataclasses.replace(frame, name=name)
      splits[split] = [*by_name.values()]
    return FoundFrames(splits, notes=notes)

  @classmethod
  def trees(
    cls,
    files: DataFiles,
    config: FrameConfig,
    split: str,
    patterns: Mapping[str, Sequence[Pattern]],
  ) -> tuple[dict[str, Sequence[Pattern]], dict[str, DataFiles]]:
    """The patterns that are read, and the tree of each; validation's depth files are optional.

    Raises:
      UserError: the folder of depth files does not exist.
    """
    patterns = dict(patterns)
    if config.depth == "none" or (
      split == "validation" and config.depth_root and not os.path.isdir(config.depth_root)
    ):
      patterns.pop("depth", None)
    trees = dict.fromkeys(patterns, files)
    if "depth" in patterns:
      trees["depth"] = depth_tree(files, config.depth_root)
      if split == "validation" and not any(p.find(trees["depth"]) for p in patterns["depth"]):
        del patterns["depth"]
    return patterns, trees

  @classmethod
  def recipe(cls, config: FrameConfig, split: str) -> Recipe:
    """How frames of a split are prepared.

    Raises:
      UserError: the data set lacks one of the classes.
    """
    ids, known = cls.LABEL_IDS
    return Recipe(
      size=(config.height, config.width),
      image_filter=None if config.resampling == "opencv" else cls.IMAGE_FILTER,
      label=LabelIds(label_table(ids, config.classes, cls.TITLE), known, of=cls.TITLE),
      resize_label=split != "validation",
      depth=cls.DEPTH_RECIPES.get(config.depth),
    )

  @classmethod
  def network_depth_patterns(cls, dataset_config: Any) -> dict[str, str]:
    """Split → pattern, below the depth root, of the files of the kind `NETWORK_DEPTH`."""
    del dataset_config
    return {"train": f"disparity/{NAME}.png"}

  @classmethod
  def network_depth_file(cls, dataset_config: Any, split: str, name: str) -> str:
    """Path below the depth root of a frame's file of the kind `NETWORK_DEPTH`.

    Args:
      dataset_config: the part of a configuration that describes the data set.
      split: split of the records.
      name: name of the frame, as in its record.

    Raises:
      ValueError: the data set has no such split.
      UserError: the frame's name does not follow the data set's scheme.
    """
    patterns = cls.network_depth_patterns(dataset_config)
    if split not in patterns:
      raise ValueError(f"split is {split!r}, expected one of {', '.join(patterns)}")
    return Pattern(patterns[split]).path(name)

  @property
  def report(self) -> Report:
    """The report of the preparation that wrote the records."""
    return Report(**self.info.metadata)

  def find(self, root: str = "") -> FoundFrames:
    """Finds the frames below the configured root, or below `root` where none is configured.

    Raises:
      UserError: the root is missing or has another layout, or a split has no frames.
    """
    root = self.builder_config.root or root
    found = self.find_frames(DataFiles(root), self.builder_config)
    for split, frames in found.splits.items():
      if not frames:
        raise UserError(f"{root!r} holds no frame of {self.name} {split}")
    return found

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    height, width = config.height, config.width
    label_shape = (None, None, 1) if "validation" in config.splits else (height, width, 1)

    def image():
      return TiledArray(shape=(height, width, 3), dtype=np.uint8)

    features = {
      "name": tfds.features.Text(),
      "image": image(),
      "label": TiledArray(shape=label_shape, dtype=np.uint8),
      "inverse_depth": TiledArray(shape=(height, width), dtype=np.float32),
      **{f"{view}_image": image() for view in config.views},
    }
    if config.views:
      features["intrinsics"] = tfds.features.Tensor(shape=(4,), dtype=np.float32)
      features["baseline"] = tfds.features.Scalar(dtype=np.float32)
    return _LocalInfo(
      builder=self,
      description=f"{type(self).__name__} frames at working resolution; labels are training ids.",
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _shard_iterators_per_split(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
    config = self.builder_config
    found = self.find("" if config.root else os.fspath(dl_manager.manual_dir))
    self._found = found
    stop = functools.partial(stop_at, self.name) if config.bad_frames == "stop" else None
    if stop:  # missing files are found without decoding
      for split, frames in found.splits.items():
        for frame in frames:
          if (absent := missing_file(frame)) is not None:
            stop({"split": split, "file": absent, "reason": "file is missing"})
    for split, frames in found.splits.items():
      notes = examine(frames, self.recipe(config, split))
      found.notes.extend((split, *note) for note in notes)
    shards = [
      Shard(
        split,
        frames[start : start + config.shard_frames],
        self.recipe(config, split),
        tuple(self.info.features),
        stop,
        os.fspath(self.data_path / f"part-{split}-{start:08d}.json"),
      )
      for split, frames in found.splits.items()
      for start in range(0, len(frames), config.shard_frames)
    ]
    # Beam's workers each map the frames of a shard; here all shards share one map.
    results = None if self._beam else self._map_all(shards)
    return {
      split: [functools.partial(generate, s, results) for s in shards if s.split == split]
      for split in found.splits
    }

  def _map_all(self, shards: Sequence[Shard]) -> Iterator[PreparedFrame | BadFrameError]:
    """Prepares the frames of all shards by several processes, with a progress bar."""
    config = self.builder_config
    items = ((frame, shard.recipe) for shard in shards for frame in shard.frames)
    results = ordered_map(prepare_item, items, processes=config.processes)
    bar = progress_bar(
      total=sum(len(shard.frames) for shard in shards),
      desc=f"preparing {self.name}",
      unit="frame",
      disable=not config.progress,
    )
    with bar:
      for result in results:
        bar.update()
        yield result

  def _download_and_prepare(self, dl_manager, download_config=None) -> None:
    """As in TFDS; then assembles the report, which becomes the records' metadata."""
    self._beam = download_config is not None and download_config.beam_runner is not None
    super()._download_and_prepare(dl_manager, download_config)
    splits, config = self._found.splits, self.builder_config
    report = Report(
      expected={split: self.EXPECTED[split] for split in splits if split in self.EXPECTED},
      found={split: len(frames) for split, frames in splits.items()},
      fingerprint=fingerprint(splits),
      ends=self._found.ends,
      notes=[
        dict(zip(("split", "file", "reason"), note, strict=True)) for note in self._found.notes
      ],
    )
    for split in splits:
      paths = sorted(Path(self.data_path).glob(f"part-{split}-*.json"))
      parts = [Part(**json.loads(path.read_text())) for path in paths]
      report.add(split, parts, len(config.classes))
      if not report.names[split]:
        last = report.bad[-1]
        raise UserError(
          f"none of the {report.found[split]} frames of {self.name} {split} can be used; the last: "
          f"{last['file']}: {last['reason']}"
        )
      for path in paths:
        path.unlink()
    self.info.metadata.update(dataclasses.asdict(report))
