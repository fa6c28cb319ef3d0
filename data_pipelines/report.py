"""What a preparation found: counts, bad frames, shares."""

import dataclasses
from collections.abc import Iterable

from corda_jax import labels
from data_pipelines.shards import Part


@dataclasses.dataclass
class Report:
  """What a preparation found.

  Attributes:
    expected: split → frames of the whole data set, where that is known.
    found: split → frames found.
    kept: split → frames written.
    bad: one {"split", "file", "reason"} a frame left out.
    notes: the same of frames that are kept, though something about them is unusual.
    label_share: split → training id → share of the pixels.
    depth_share: split → mean share of a frame's pixels that have depth.
    ends: split → frames at the ends of clips, which lack a neighbour and are not among those found.
    fingerprint: of the files, see `frames.fingerprint`.
    bytes: name of a record file → its size.
  """

  expected: dict[str, int]
  found: dict[str, int]
  fingerprint: str
  ends: dict[str, int] = dataclasses.field(default_factory=dict)
  kept: dict[str, int] = dataclasses.field(default_factory=dict)
  bad: list[dict[str, str]] = dataclasses.field(default_factory=list)
  notes: list[dict[str, str]] = dataclasses.field(default_factory=list)
  label_share: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
  depth_share: dict[str, float] = dataclasses.field(default_factory=dict)
  bytes: dict[str, int] = dataclasses.field(default_factory=dict)

  def add(self, split: str, parts: Iterable[Part]) -> None:
    """Adds a split by the parts of its shards."""
    parts = list(parts)
    self.kept[split] = kept = sum(part.kept for part in parts)
    for part in parts:
      self.bad += part.bad
      self.notes += part.notes
    pixels = [sum(counts) for counts in zip(*(part.label_pixels for part in parts), strict=True)]
    total = max(1, sum(pixels))
    self.label_share[split] = {
      str(number): round(count / total, 6) for number, count in enumerate(pixels) if count
    }
    self.depth_share[split] = round(sum(part.depth_share for part in parts) / max(1, kept), 6)

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
    for title, frames in (("left out of", self.bad), ("mind in", self.notes)):
      lines += [f"{title} {bad['split']}: {bad['file']}: {bad['reason']}" for bad in frames]
    return lines
