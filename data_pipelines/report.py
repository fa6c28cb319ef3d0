"""What a preparation found: counts, bad frames, shares."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from corda_jax import labels
from data_pipelines.frames import Frame
from data_pipelines.preprocess import PreparedFrame
from data_pipelines.readers import BadFrameError


@dataclasses.dataclass
class Part:
  """What was found in some frames of a split.

  Attributes:
    split: split of the frames.
    names: names of the frames that are kept, in the order of the records.
    bad: one {"split", "file", "reason"} per frame left out.
    notes: the same for frames that are kept although something about them is unusual.
    label_pixels: for each of these frames `PreparedFrame.label_pixels`.
    depth_share: sum over the frames of the share of pixels that have depth.
  """

  split: str
  names: list[str] = dataclasses.field(default_factory=list)
  bad: list[dict[str, str]] = dataclasses.field(default_factory=list)
  notes: list[dict[str, str]] = dataclasses.field(default_factory=list)
  label_pixels: list[list[int]] = dataclasses.field(default_factory=list)
  depth_share: float = 0.0

  def keep(self, frame: Frame, prepared: PreparedFrame) -> None:
    """Counts a frame that is kept."""
    self.names.append(frame.name)
    self.depth_share += prepared.depth_share
    self.label_pixels.append(prepared.label_pixels)
    if frame.depth is not None and not prepared.depth_share:
      reason = "holds no depth at any pixel"
      self.notes.append({"split": self.split, "file": frame.depth, "reason": reason})

  def leave_out(self, error: BadFrameError) -> None:
    """Counts a frame that cannot be used."""
    self.bad.append({"split": self.split, "file": error.path, "reason": error.reason})


@dataclasses.dataclass
class Report:
  """What a preparation found.

  Attributes:
    expected: split → frames of the whole data set, where that is known.
    found: split → frames found.
    fingerprint: fingerprint of the files, see `frames.fingerprint`.
    ends: split → frames at the ends of clips, which lack a neighbour and are not among those found.
    names: split → names of the frames in the order of the records.
    bad: one {"split", "file", "reason"} per frame left out.
    notes: the same for frames that are kept although something about them is unusual.
    label_pixels: split → for each frame, in the order of the records, the number of pixels of each
      class at the size of the label's file.
    label_share: split → training id → share of the pixels of all labels at the size of their files,
      255 (ignored, or without a label) included.
    depth_share: split → mean share of a frame's pixels that have depth.
  """

  expected: dict[str, int]
  found: dict[str, int]
  fingerprint: str
  ends: dict[str, int] = dataclasses.field(default_factory=dict)
  names: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  bad: list[dict[str, str]] = dataclasses.field(default_factory=list)
  notes: list[dict[str, str]] = dataclasses.field(default_factory=list)
  label_pixels: dict[str, list[list[int]]] = dataclasses.field(default_factory=dict)
  label_share: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
  depth_share: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def kept(self) -> dict[str, int]:
    """Split → frames written."""
    return {split: len(names) for split, names in self.names.items()}

  def add(self, split: str, parts: Iterable[Part], num_classes: int) -> None:
    """Adds a split from its parts, in the order of the records."""
    parts = list(parts)
    self.names[split] = [name for part in parts for name in part.names]
    self.bad += [bad for part in parts for bad in part.bad]
    self.notes += [note for part in parts for note in part.notes]
    frames = [pixels for part in parts for pixels in part.label_pixels]
    self.label_pixels[split] = [pixels[:num_classes] for pixels in frames]
    pixels = np.reshape(frames, (-1, 256)).sum(axis=0, dtype=np.int64).tolist()
    self.label_share[split] = {
      str(number): round(count / max(1, sum(pixels)), 6)
      for number, count in enumerate(pixels)
      if count
    }
    share = sum(part.depth_share for part in parts) / max(1, len(self.names[split]))
    self.depth_share[split] = round(share, 6)

  def lines(self) -> list[str]:
    """The report as lines of text: counts, then every bad file with its reason."""
    lines = []
    for split, found in self.found.items():
      line = f"{split}: {self.kept.get(split, 0)} of {found} frames kept"
      if self.expected.get(split, found) != found:
        line += f", {self.expected[split]} expected"
      if self.ends.get(split):
        line += f", {self.ends[split]} more at the ends of clips left out"
      ignored = self.label_share[split].get(str(labels.IGNORE), 0.0)
      lines.append(
        f"{line}; of the pixels {self.depth_share[split]:.1%} have depth, {1 - ignored:.1%} a class"
      )
    for title, frames in (("left out of", self.bad), ("note on", self.notes)):
      lines += [f"{title} {bad['split']}: {bad['file']}: {bad['reason']}" for bad in frames]
    return lines
