"""What the TFDS builders of all data sets share: features, checking, the report.

A data set is a subclass that says where its files are and how they are read; see gta5.py.
"""

import abc
import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tqdm import tqdm

from corda_jax.errors import UserError
from data_pipelines.frames import Frame, fingerprint, missing_file
from data_pipelines.parallel import ordered_map
from data_pipelines.preprocess import (
  BadFrameError,
  Recipe,
  prepare_frame,
)
from data_pipelines.record_encodings import pack, unpack

REPORT_FILE = "preparation.json"  # lies beside the records


@dataclasses.dataclass(eq=False, kw_only=True)
class FrameConfig(tfds.core.BuilderConfig):
  """Where a data set is and how it is prepared.

  The name holds what decides the records' contents, so that every size and depth kind has a folder
  of its own.

  Attributes:
    root: folder of the data set's files.
    height: working resolution, pixels.
    width: working resolution, pixels.
    depth: which files hold the inverse depth, or "none".
    bad_frames: "stop" at the first frame that cannot be used, or "skip" such frames.
    processes: that decode and resize; 0 is one a core.
    progress: whether to show a progress bar.
  """

  root: str
  height: int
  width: int
  depth: str
  bad_frames: str = "stop"
  processes: int = 0
  progress: bool = True
  name: str = dataclasses.field(init=False)

  def __post_init__(self):
    """Makes the name."""
    self.name = f"{self.width}x{self.height}_{self.depth}"


@dataclasses.dataclass
class Report:
  """What a preparation found.

  Attributes:
    found: split → frames found.
    kept: split → frames written.
    bad: one {"split", "file", "reason"} a frame left out.
    fingerprint: of the files, see `frames.fingerprint`.
  """

  found: dict[str, int]
  kept: dict[str, int] = dataclasses.field(default_factory=dict)
  bad: list[dict[str, str]] = dataclasses.field(default_factory=list)
  fingerprint: str = ""

  def lines(self) -> list[str]:
    """The report as lines of text: counts, then every bad file with its reason."""
    counts = [
      f"{split}: {self.kept.get(split, 0)} of {found} frames kept"
      for split, found in self.found.items()
    ]
    return counts + [
      f"left out of {bad['split']}: {bad['file']}: {bad['reason']}" for bad in self.bad
    ]


class PackedArray(tfds.features.FeatureConnector):
  """An array stored by `record_encodings.pack`.

  Args:
    shape: of the array; None where it differs between examples.
    dtype: uint8 or float32.
  """

  def __init__(self, *, shape: Sequence[int | None], dtype: np.dtype):
    """See the class."""
    super().__init__()
    self._shape = tuple(shape)
    self._dtype = np.dtype(dtype)

  def get_tensor_info(self) -> tfds.features.TensorInfo:
    """Of a decoded example."""
    return tfds.features.TensorInfo(shape=self._shape, dtype=self._dtype)

  def get_serialized_info(self) -> tfds.features.TensorInfo:
    """Of what a record holds."""
    return tfds.features.TensorInfo(shape=(), dtype=np.object_)

  def encode_example(self, example_data: np.ndarray | bytes) -> bytes:
    """Packs an array; what is packed already passes."""
    return example_data if isinstance(example_data, bytes) else pack(example_data)

  def decode_example_np(self, example_data: bytes) -> np.ndarray:
    """Unpacks in NumPy."""
    return unpack(example_data)

  def decode_example(self, tfexample_data: Any) -> Any:
    """Unpacks in NumPy, called by TensorFlow."""
    import tensorflow as tf

    def decode(packed):  # bytes in a graph, an array of one object outside
      return unpack(packed.item() if isinstance(packed, np.ndarray) else packed)

    decoded = tf.numpy_function(decode, [tfexample_data], self._dtype, stateful=False)
    return tf.ensure_shape(decoded, self._shape)

  def to_json_content(self) -> dict[str, Any]:
    """For the description that lies beside the records."""
    return {"shape": list(self._shape), "dtype": self._dtype.name}

  @classmethod
  def from_json_content(cls, value: dict[str, Any]) -> "PackedArray":
    """The inverse of `to_json_content`."""
    return cls(**value)


class _UncompressedWriter(tfds.core.writer.ExampleWriter):
  """Writes ArrayRecord files without a second compression: their contents are compressed."""

  def __init__(self):
    super().__init__(tfds.core.FileFormat.ARRAY_RECORD)

  def write(self, path, examples) -> None:
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for _, example in examples:
      writer.write(example)
    writer.close()


class FramesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Base of the builders.

  Records keep the order of the frames' names. Preparing writes into a folder named `incomplete.*`
  and renames it at the end, report included, so what has the final name is whole.
  """

  VERSION = tfds.core.Version("2.0.0")  # of the records' contents
  DEPTH_KINDS: ClassVar[tuple[str, ...]]  # without "none"; the released one first
  NATIVE_LABEL_SPLITS: ClassVar[tuple[str, ...]] = ()  # whose labels keep their size

  builder_config: FrameConfig

  def __init__(self, **arguments):
    """As in TFDS; `config` is a FrameConfig."""
    super().__init__(file_format=tfds.core.FileFormat.ARRAY_RECORD, **arguments)

  @classmethod
  @abc.abstractmethod
  def find_frames(cls, root: str, depth: str) -> dict[str, list[Frame]]:
    """Split → its frames.

    Raises:
      UserError: the root is missing or laid out in another way.
    """

  @classmethod
  @abc.abstractmethod
  def recipe(cls, size: tuple[int, int], depth: str, split: str) -> Recipe:
    """How frames of a split are prepared at (height, width)."""

  @property
  def report(self) -> Report:
    """Of the preparation that wrote the records."""
    return Report(**json.loads((self.data_path / REPORT_FILE).read_text()))

  def is_prepared(self) -> bool:
    """Whether the records are there; the report is among what appears with them."""
    return (self.data_path / REPORT_FILE).exists()

  def frames(self) -> dict[str, list[Frame]]:
    """Split → its frames, at the configured root.

    Raises:
      UserError: the root is missing or laid out in another way, or a split has no frame.
    """
    splits = self.find_frames(self.builder_config.root, self.builder_config.depth)
    for split, frames in splits.items():
      if not frames:
        raise UserError(f"{self.builder_config.root!r} holds no frame of {self.name} {split}")
    return splits

  def _info(self) -> tfds.core.DatasetInfo:
    height, width = self.builder_config.height, self.builder_config.width
    label_shape = (None, None, 1) if self.NATIVE_LABEL_SPLITS else (height, width, 1)
    return self.dataset_info_from_configs(
      description=f"{type(self).__name__} frames at working resolution; labels are training ids.",
      features=tfds.features.FeaturesDict(
        {
          "name": tfds.features.Text(),
          "image": PackedArray(shape=(height, width, 3), dtype=np.uint8),
          "label": PackedArray(shape=label_shape, dtype=np.uint8),
          "inverse_depth": PackedArray(shape=(height, width), dtype=np.float32),
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    splits = self.frames()
    self._report = Report(
      found={split: len(frames) for split, frames in splits.items()},
      fingerprint=fingerprint(splits),
    )
    if self.builder_config.bad_frames == "stop":  # missing files need no decoding to be found
      for split, frames in splits.items():
        for frame in frames:
          absent = missing_file(frame)
          if absent is not None:
            self._note_bad_frame(split, absent, "file is missing")
    self._bar = tqdm(
      total=sum(self._report.found.values()),
      desc=f"preparing {self.name}",
      unit="frame",
      disable=not self.builder_config.progress,
    )
    return {split: self._generate_examples(split, frames) for split, frames in splits.items()}

  def _generate_examples(
    self, split: str, frames: Sequence[Frame]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    config = self.builder_config
    recipe = self.recipe((config.height, config.width), config.depth, split)
    kept = 0
    prepare = functools.partial(prepare_frame, recipe=recipe)
    with contextlib.closing(ordered_map(prepare, frames, processes=config.processes)) as results:
      for frame, result in zip(frames, results, strict=True):
        self._bar.update()
        if isinstance(result, BadFrameError):
          self._note_bad_frame(split, result.path, result.reason)
          continue
        yield kept, {"name": frame.name, **dataclasses.asdict(result)}
        kept += 1
    if not kept:
      last = self._report.bad[-1]
      raise UserError(
        f"none of the {len(frames)} frames of {self.name} {split} can be used; the last: "
        f"{last['file']}: {last['reason']}"
      )
    self._report.kept[split] = kept

  def _note_bad_frame(self, split: str, path: str, reason: str) -> None:
    if self.builder_config.bad_frames == "stop":
      raise UserError(
        f"bad frame in {self.name} {split}: {path}: {reason}; mend it, or leave such frames out "
        'with data.bad_frames="skip"'
      )
    self._report.bad.append({"split": split, "file": path, "reason": reason})

  def _download_and_prepare(self, dl_manager, download_config) -> None:
    try:
      super()._download_and_prepare(dl_manager, download_config)
    finally:
      if hasattr(self, "_bar"):
        self._bar.close()
    text = json.dumps(dataclasses.asdict(self._report), indent=2)
    (self.data_path / REPORT_FILE).write_text(text + "\n")

  def _example_writer(self) -> tfds.core.writer.ExampleWriter:
    return _UncompressedWriter()

  def _log_download_bytes(self) -> None:
    """Prints nothing: nothing is downloaded."""

  def _log_download_done(self) -> None:
    """Prints nothing: the report says it."""
