"""Shards of records that are being prepared: what a stopped preparation goes on from.

A split's frames are cut into shards of a fixed number, in the order of the frames. Each is written
under a temporary name and gets its own when it is whole; beside it a JSON file, written after it,
says what the shard was made from and what was found. A shard that was made from the same files is
never made again, whoever made it. The folder belongs to one set of parameters: its path names them.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from array_record.python import array_record_module

from corda_jax.errors import UserError
from data_pipelines.files import file_size
from data_pipelines.frames import Frame

_RECORDS = ".array_record"
_PART = ".json"
_UNFINISHED = ".unfinished-"  # and host and process


@dataclasses.dataclass(frozen=True)
class Shard:
  """Some frames of a split.

  Attributes:
    split: of the frames.
    number: of the shard in its split.
    frames: of the shard.
  """

  split: str
  number: int
  frames: Sequence[Frame]

  @property
  def name(self) -> str:
    """Of its files, without their endings."""
    return f"{self.split}-{self.number:05d}"


@dataclasses.dataclass
class Part:
  """A shard's part of the report.

  Attributes:
    kept: frames written.
    bytes: size of the records.
    bad: one {"split", "file", "reason"} a frame left out.
    notes: the same of frames that are kept, though something about them is unusual.
    label_pixels: pixels of each training id, at 0..255.
    depth_share: sum over the frames of the share of pixels that have depth.
  """

  kept: int = 0
  bytes: int = 0
  bad: list[dict[str, str]] = dataclasses.field(default_factory=list)
  notes: list[dict[str, str]] = dataclasses.field(default_factory=list)
  label_pixels: list[int] = dataclasses.field(default_factory=lambda: [0] * 256)
  depth_share: float = 0.0


def cut(splits: dict[str, list[Frame]], size: int) -> list[Shard]:
  """All shards of the splits, `size` frames each; the last of a split may have fewer."""
  return [
    Shard(split, number, frames[start : start + size])
    for split, frames in splits.items()
    for number, start in enumerate(range(0, len(frames), size))
  ]


class ShardFolder:
  """The folder that shards are prepared in."""

  def __init__(self, path: Path):
    """Need not exist.

    Args:
      path: of the folder.
    """
    self.path = Path(path)
    self._digests: dict[str, str] = {}  # of shards, by name: a look at every file takes its time

  def records(self, shard: Shard) -> Path:
    """The file of a shard's records."""
    return self.path / (shard.name + _RECORDS)

  def part(self, shard: Shard) -> Part | None:
    """What was found in a shard; None where it is not whole, or was made from something else."""
    try:
      contents = json.loads((self.path / (shard.name + _PART)).read_text())
    except FileNotFoundError:
      return None
    if contents.pop("made_from") != self._made_from(shard) or not self.records(shard).exists():
      return None
    return Part(**contents)

  def clear_unfinished(self) -> None:
    """Removes what killed processes have left; no process may be writing."""
    for path in self.path.glob(f"*{_UNFINISHED}*"):
      path.unlink()

  def remove(self) -> None:
    """Removes the folder and all in it."""
    shutil.rmtree(self.path, ignore_errors=True)

  @contextlib.contextmanager
  def write(self, shard: Shard) -> Iterator[tuple[array_record_module.ArrayRecordWriter, Part]]:
    """A writer of the shard's records and its part to fill in; both appear when the block ends.

    Raises:
      UserError: the disk is full or may not be written.
    """
    made_from, part = self._made_from(shard), Part()
    final = self.records(shard)
    unfinished = final.with_name(f"{final.name}{_UNFINISHED}{socket.gethostname()}-{os.getpid()}")
    with self._telling_trouble():
      self.path.mkdir(parents=True, exist_ok=True)
      # No second compression: what the records hold is compressed.
      writer = array_record_module.ArrayRecordWriter(
        os.fspath(unfinished), "group_size:1,uncompressed"
      )
    try:
      try:
        yield writer, part
      finally:
        with self._telling_trouble():
          writer.close()
      with self._telling_trouble():
        part.bytes = unfinished.stat().st_size
        (self.path / (shard.name + _PART)).unlink(missing_ok=True)  # of another shard's records
        _replace(unfinished, final)
        text = json.dumps({"made_from": made_from, **dataclasses.asdict(part)})
        unfinished.write_text(text)
        _replace(unfinished, self.path / (shard.name + _PART))
    finally:
      unfinished.unlink(missing_ok=True)

  def _made_from(self, shard: Shard) -> str:
    if shard.name in self._digests:
      return self._digests[shard.name]
    files = [[file_size(location) for location in frame.files()] for frame in shard.frames]
    names = [frame.name for frame in shard.frames]
    digest = hashlib.sha256(repr((names, files)).encode()).hexdigest()
    self._digests[shard.name] = digest
    return digest

  @contextlib.contextmanager
  def _telling_trouble(self) -> Iterator[None]:
    try:
      yield
    except (OSError, RuntimeError) as error:  # the writer raises the latter
      reason = getattr(error, "strerror", None) or str(error).split(";")[0]
      raise UserError(
        f"records cannot be written to {os.fspath(self.path)!r} ({reason}): make room or mend "
        "that, and run again; what is finished is kept"
      ) from error


def _replace(unfinished: Path, final: Path) -> None:
  """Gives a file its name after its contents are on the disk."""
  with open(unfinished, "rb") as file:
    os.fsync(file.fileno())
  os.replace(unfinished, final)
