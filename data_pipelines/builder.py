"""What the TFDS builders of all data sets share: features, checking, the report.

A data set is a subclass that says where its files are and how they are read; see gta5.py.
"""

import abc
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source
from tensorflow_datasets.core import example_parser, example_serializer

from corda_jax.console import progress_bar
from corda_jax.errors import UserError
from data_pipelines.features import PackedArray
from data_pipelines.files import DataFiles
from data_pipelines.frame_config import FrameConfig
from data_pipelines.frames import FoundFrames, Frame, fingerprint, missing_file
from data_pipelines.network_depth import NetworkDepth
from data_pipelines.parallel import ordered_map
from data_pipelines.preprocess import PreparedFrame, Recipe, prepare_item
from data_pipelines.readers import BadFrameError
from data_pipelines.report import Report
from data_pipelines.shards import Part, Shard, ShardFolder, cut

REPORT_FILE = "preparation.json"  # lies beside the records


class _LocalInfo(tfds.core.DatasetInfo):
  """Of records that are made here."""

  def initialize_from_bucket(self) -> None:
    """Asks for nothing: TFDS would leave a temporary folder at every call."""


class FramesBuilder(
  NetworkDepth, tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True
):
  """Base of the builders.

  Records keep the order of the frames' names. Shards are prepared in a folder `partial.VERSION`,
  from which a stopped preparation goes on. Whole, they are given to TFDS, which renames its folder
  at the end, report included: what has the final name is whole.
  """

  VERSION = tfds.core.Version("2.0.0")  # of the records' contents
  DEPTH_KINDS: ClassVar[tuple[str, ...]]  # without "none"; the released one first
  TRAINING_SPLITS: ClassVar[tuple[str, ...]] = ("train",)  # that can be asked for
  NATIVE_LABEL_SPLITS: ClassVar[tuple[str, ...]] = ()  # whose labels keep their size
  VIEWS: ClassVar[tuple[str, ...]] = ()  # that can be asked for
  EXPECTED: ClassVar[dict[str, int]] = {}  # split → frames of the whole data set

  builder_config: FrameConfig

  def __init__(self, **arguments):
    """As in TFDS; `config` is a FrameConfig."""
    super().__init__(file_format=tfds.core.FileFormat.ARRAY_RECORD, **arguments)
    # While TFDS prepares, data_path is a folder of its own.
    partial = self.data_path.with_name(f"partial.{self.version}")
    self.shards = ShardFolder(os.fspath(partial))

  @classmethod
  def make_config(cls, dataset_config: Any, **values: Any) -> FrameConfig:
    """From the part of a configuration that describes the data set, and what it gave already.

    Raises:
      UserError: a value cannot work.
    """
    del dataset_config
    return FrameConfig(**values)

  @classmethod
  @abc.abstractmethod
  def find_frames(cls, files: DataFiles, config: FrameConfig) -> FoundFrames:
    """The frames of the splits that the configuration asks for.

    Depth files lie in the tree `depth_tree` of the configuration.

    Raises:
      UserError: the files are laid out in another way.
    """

  @classmethod
  @abc.abstractmethod
  def recipe(cls, config: FrameConfig, split: str) -> Recipe:
    """How frames of a split are prepared.

    Raises:
      UserError: the data set lacks a class of the list.
    """

  @property
  def report(self) -> Report:
    """Of the preparation that wrote the records."""
    return Report(**json.loads((self.data_path / REPORT_FILE).read_text()))

  def is_prepared(self) -> bool:
    """Whether the records are there; the report is among what appears with them."""
    return (self.data_path / REPORT_FILE).exists()

  def check_records(self) -> None:
    """Raises UserError unless every record file is there and as long as it was made."""
    for name, size in self.report.bytes.items():
      path = os.path.join(os.fspath(self.data_path), name)
      found = os.path.getsize(path) if os.path.exists(path) else None
      if found != size:
        told = "is missing" if found is None else f"has {found} bytes, not {size}"
        raise UserError(
          f"the record file {path!r} {told}: delete its folder, and prepare the data set again"
        )

  def frames(self) -> dict[str, list[Frame]]:
    """Split → its frames, at the configured root.

    Raises:
      UserError: the root is missing or laid out in another way, or a split has no frame.
    """
    return self._found().splits

  def _found(self) -> FoundFrames:
    found = self.find_frames(DataFiles(self.builder_config.root), self.builder_config)
    for split, frames in found.splits.items():
      if not frames:
        raise UserError(f"{self.builder_config.root!r} holds no frame of {self.name} {split}")
    return found

  def missing_shards(self) -> list[str]:
    """Names of the shards that are not prepared yet."""
    shards = cut(self.frames(), self.builder_config.shard_frames)
    return [shard.name for shard in shards if self.shards.part(shard) is None]

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    height, width = config.height, config.width
    label_shape = (None, None, 1) if self.NATIVE_LABEL_SPLITS else (height, width, 1)

    def image():
      return PackedArray(shape=(height, width, 3), dtype=np.uint8)

    features = {
      "name": tfds.features.Text(),
      "image": image(),
      "label": PackedArray(shape=label_shape, dtype=np.uint8),
      "inverse_depth": PackedArray(shape=(height, width), dtype=np.float32),
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
    )

  def write_shards(self, splits: dict[str, list[Frame]]) -> None:
    """Prepares this worker's shards that are not there yet.

    Raises:
      UserError: a frame is bad and `bad_frames` is "stop", or the records cannot be written.
    """
    config = self.builder_config
    mine = cut(splits, config.shard_frames)[config.worker :: config.workers]
    todo = []
    for shard in mine:
      part = self.shards.part(shard)
      if part is None:
        todo.append(shard)
      elif part.bad:  # was prepared with "skip", which may be "stop" now
        self._stop_at(part.bad[0])
    if config.bad_frames == "stop":  # missing files need no decoding to be found
      for shard in todo:
        for frame in shard.frames:
          absent = missing_file(frame)
          if absent is not None:
            self._stop_at({"split": shard.split, "file": absent, "reason": "file is missing"})

    recipes = {split: self.recipe(config, split) for split in splits}
    items = ((frame, recipes[shard.split]) for shard in todo for frame in shard.frames)
    results = ordered_map(prepare_item, items, processes=config.processes)
    frames = sum(len(shard.frames) for shard in mine)
    bar = progress_bar(
      total=frames,
      initial=frames - sum(len(shard.frames) for shard in todo),
      desc=f"preparing {self.name}",
      unit="frame",
      disable=not config.progress,
    )
    with bar:
      try:
        for shard in todo:
          self._write_shard(shard, results, bar.update)
      finally:
        results.close()

  def _write_shard(
    self,
    shard: Shard,
    results: Iterator[PreparedFrame | BadFrameError],
    advance: Callable[[], Any],
  ) -> None:
    with self.shards.write(shard) as (writer, part):
      for frame in shard.frames:
        result = next(results)
        if isinstance(result, BadFrameError):
          bad = {"split": shard.split, "file": result.path, "reason": result.reason}
          self._stop_at(bad)
          part.bad.append(bad)
        else:
          writer.write(self._serialize(frame, result))
          part.kept += 1
          part.depth_share += result.depth_share
          part.label_pixels = np.add(part.label_pixels, result.label_pixels).tolist()
          if frame.depth is not None and not result.depth_share:
            reason = "holds no depth at any pixel"
            part.notes.append({"split": shard.split, "file": frame.depth, "reason": reason})
        advance()

  def _serialize(self, frame: Frame, result: PreparedFrame) -> bytes:
    features = self.info.features
    contents = {"name": frame.name, **result.contents}
    contents = {key: contents[key] for key in features}  # a camera may have served the depth alone
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    example = serializer.get_tf_example(features.encode_example(contents))
    # Else the order of the features is another in every process.
    return example.SerializeToString(deterministic=True)

  def _stop_at(self, bad: dict[str, str]) -> None:
    if self.builder_config.bad_frames == "stop":
      raise UserError(
        f"bad frame in {self.name} {bad['split']}: {bad['file']}: {bad['reason']}; mend it, or "
        'leave such frames out with data.bad_frames="skip"'
      )

  def _download_and_prepare(self, dl_manager, download_config) -> None:
    """Prepares what is missing, then makes TFDS's files of the shards."""
    config, found = self.builder_config, self._found()
    splits = found.splits
    self.write_shards(splits)
    report = Report(
      expected={split: self.EXPECTED[split] for split in splits if split in self.EXPECTED},
      found={split: len(frames) for split, frames in splits.items()},
      fingerprint=fingerprint(splits),
      ends=found.ends,
    )
    infos = []
    for split, frames in splits.items():
      cut_frames = cut({split: frames}, config.shard_frames)
      shards = [(shard, self.shards.part(shard)) for shard in cut_frames]
      report.add(split, [part for _, part in shards])
      infos.append(self._collect(split, shards, report))
    self.info.set_splits(tfds.core.splits.SplitDict(infos))
    text = json.dumps(dataclasses.asdict(report), indent=2)
    (self.data_path / REPORT_FILE).write_text(text + "\n")

  def _collect(
    self, split: str, shards: Sequence[tuple[Shard, Part]], report: Report
  ) -> tfds.core.splits.SplitInfo:
    """Gives the shards their final names in the data folder."""
    kept = [(shard, part) for shard, part in shards if part.kept]
    if not kept:
      last = [bad for bad in report.bad if bad["split"] == split][-1]
      raise UserError(
        f"none of the {report.found[split]} frames of {self.name} {split} can be used; the last: "
        f"{last['file']}: {last['reason']}"
      )
    template = self._get_filename_template(split_name=split)
    for number, (shard, _) in enumerate(kept):
      target = template.sharded_filepath(shard_index=number, num_shards=len(kept))
      try:
        os.link(self.shards.records(shard), target)  # takes no room, and loses none if killed
      except OSError:  # a file system without links
        os.replace(self.shards.records(shard), target)
      report.bytes[os.path.basename(target)] = os.path.getsize(target)
    return tfds.core.splits.SplitInfo(
      name=split,
      shard_lengths=[part.kept for _, part in kept],
      num_bytes=sum(part.bytes for _, part in kept),
      filename_template=template,
    )

  def _as_dataset(self, split, decoders=None, read_config=None, shuffle_files=False):
    """`as_dataset` of TFDS, which has none for this format. Training reads in batches.py."""
    import tensorflow as tf  # here, so that to prepare needs none

    source = array_record_data_source.ArrayRecordDataSource(
      self.info.splits[split].file_instructions
    )
    order = np.arange(len(source))
    if shuffle_files:
      np.random.default_rng(read_config.shuffle_seed if read_config else None).shuffle(order)
    dataset = tf.data.Dataset.from_generator(
      lambda: (source[number] for number in order.tolist()),
      output_signature=tf.TensorSpec([], tf.string),
    ).apply(tf.data.experimental.assert_cardinality(len(source)))
    features = self.info.features
    parser = example_parser.ExampleParser(features.get_serialized_info())
    return dataset.map(parser.parse_example).map(
      lambda example: features.decode_example(example, decoders=decoders)
    )

  def _post_download_and_prepare_hook(self) -> None:
    self.shards.remove()

  def _log_download_bytes(self) -> None:
    """Prints nothing: nothing is downloaded."""

  def _log_download_done(self) -> None:
    """Prints nothing: the report says it."""
