"""Semantic classes: names, colours, and the label ids of the known data sets.

A class list defines the outputs of a network: training id i is its i-th class. The default is the
19 classes of the Cityscapes benchmark, in its order. `IGNORE` marks pixels that all losses and
scores ignore.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corda_jax.errors import UserError

IGNORE = 255
MAX_CLASSES = 255  # labels are 8-bit: ids 0..254, and IGNORE


@dataclasses.dataclass(frozen=True)
class SemanticClass:
  """One training class.

  Attributes:
    name: name in the Cityscapes benchmark.
    color: RGB, 0..255, in the palette of the benchmark.
    cityscapes_id: value in `*_gtFine_labelIds.png` and in GTA5's `labels/*.png`.
    synthia_id: value in SYNTHIA's `GT/LABELS` and in its files mapped for Cityscapes.
  """

  name: str
  color: tuple[int, int, int]
  cityscapes_id: int
  synthia_id: int


CLASSES = (
  SemanticClass("road", (128, 64, 128), 7, 3),
  SemanticClass("sidewalk", (244, 35, 232), 8, 4),
  SemanticClass("building", (70, 70, 70), 11, 2),
  SemanticClass("wall", (102, 102, 156), 12, 21),
  SemanticClass("fence", (190, 153, 153), 13, 5),
  SemanticClass("pole", (153, 153, 153), 17, 7),
  SemanticClass("traffic light", (250, 170, 30), 19, 15),
  SemanticClass("traffic sign", (220, 220, 0), 20, 9),
  SemanticClass("vegetation", (107, 142, 35), 21, 6),
  SemanticClass("terrain", (152, 251, 152), 22, 16),
  SemanticClass("sky", (70, 130, 180), 23, 1),
  SemanticClass("person", (220, 20, 60), 24, 10),
  SemanticClass("rider", (255, 0, 0), 25, 17),
  SemanticClass("car", (0, 0, 142), 26, 8),
  SemanticClass("truck", (0, 0, 70), 27, 18),
  SemanticClass("bus", (0, 60, 100), 28, 19),
  SemanticClass("train", (0, 80, 100), 31, 20),
  SemanticClass("motorcycle", (0, 0, 230), 32, 12),
  SemanticClass("bicycle", (119, 11, 32), 33, 11),
)

NAMES = tuple(c.name for c in CLASSES)

# Class name → label id in the files of Cityscapes and GTA5, and of SYNTHIA.
CITYSCAPES_IDS = {c.name: c.cityscapes_id for c in CLASSES}
SYNTHIA_IDS = {c.name: c.synthia_id for c in CLASSES}

_SYNTHIA_16 = tuple(name for name in NAMES if name not in ("terrain", "truck", "train"))
_SYNTHIA_13 = tuple(name for name in _SYNTHIA_16 if name not in ("wall", "fence", "pole"))


@dataclasses.dataclass(frozen=True)
class ClassList:
  """The classes of a network; the training id of a class is its index in the list.

  Attributes:
    names: names of the classes.
    colors: RGB colours of the classes, 0..255.
  """

  names: tuple[str, ...]
  colors: tuple[tuple[int, int, int], ...]

  @classmethod
  def from_config(cls, config: Any) -> "ClassList":
    """Reads `data.classes` of a configuration: `names` and `colors`, either of which may be empty.

    Without names the list is `CITYSCAPES`; without colours `distinct_colors` chooses them.

    Raises:
      UserError: names repeat, there are too many, or a colour is invalid.
    """
    names, colors = tuple(config["names"]), tuple(config["colors"])
    if not names:
      if colors:
        raise UserError(
          "data.classes.colors is set but data.classes.names is not: name the classes, in order"
        )
      return CITYSCAPES
    for name in names:
      if not isinstance(name, str) or not name.strip():
        raise UserError(f"data.classes.names holds {name!r}, expected names such as 'road'")
      if names.count(name) > 1:
        raise UserError(f"data.classes.names holds {name!r} more than once: name each class once")
    if len(names) > MAX_CLASSES:
      raise UserError(
        f"data.classes.names holds {len(names)} classes, expected at most {MAX_CLASSES}: labels "
        f"are 8-bit, and {IGNORE} marks ignored pixels"
      )
    if not colors:
      return cls(names, distinct_colors(names))
    if len(colors) != len(names):
      raise UserError(
        f"data.classes.colors holds {len(colors)} colours for {len(names)} names: give each class "
        "one, or leave colors empty"
      )
    return cls(names, tuple(_color(color) for color in colors))

  def __len__(self) -> int:
    """The number of classes."""
    return len(self.names)

  def palette(self) -> np.ndarray:
    """uint8[256, 3] RGB colours indexed by training id; black for ids without a class."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(self)] = self.colors
    return palette

  def class_sets(self, named: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """The sets of classes over which means are taken, by name.

    Args:
      named: sets defined by the user, name → class names.

    Returns:
      Name → training ids: "all", then the sets of `named`; and, with the 19 classes of Cityscapes,
      "synthia_16" and "synthia_13", the classes that results on SYNTHIA are reported over.

    Raises:
      UserError: a set is empty, has an unknown class, or has the name of another set.
    """
    sets = {"all": self.names}
    if self.names == NAMES:
      sets |= {"synthia_16": _SYNTHIA_16, "synthia_13": _SYNTHIA_13}
    for name, members in named.items():
      if name in sets:
        raise UserError(f"evaluation.class_sets.{name}: this set already exists; rename it")
      unknown = [member for member in members if member not in self.names]
      if unknown or not members:
        fault = f"holds {unknown[0]!r}, which is no class" if unknown else "holds no class"
        raise UserError(
          f"evaluation.class_sets.{name} {fault}, expected some of: {', '.join(self.names)}"
        )
      sets[name] = tuple(dict.fromkeys(members))
    return {name: tuple(map(self.names.index, members)) for name, members in sets.items()}


def _color(value: Any) -> tuple[int, int, int]:
  channels = tuple(value) if isinstance(value, Sequence) else (value,)
  if len(channels) != 3 or not all(isinstance(x, int) and 0 <= x <= 255 for x in channels):
    raise UserError(
      f"data.classes.colors holds {value!r}, expected (red, green, blue), 0..255 each"
    )
  return channels


def distinct_colors(names: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
  """One colour per name: that of the benchmark if it has the name, else one far from all others.

  Farthest-point sampling over a grid of colours; the channels are weighted roughly by perception.
  """
  weights = np.sqrt([2.0, 4.0, 3.0])
  levels = np.arange(16) * 17  # 0, 17, … 255
  grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
  known = {c.name: c.color for c in CLASSES if c.name in names}
  nearest = np.full(len(grid), np.inf)

  def keep_off(color):
    return np.minimum(nearest, np.linalg.norm((grid - np.array(color)) * weights, axis=1))

  # Black marks ignored pixels, and white is the background of legends.
  for color in ((0, 0, 0), (255, 255, 255), *known.values()):
    nearest = keep_off(color)
  colors = []
  for name in names:
    if name in known:
      colors.append(known[name])
      continue
    colors.append(tuple(int(x) for x in grid[nearest.argmax()]))
    nearest = keep_off(colors[-1])
  return tuple(colors)


def label_table(ids: Mapping[str, int], classes: ClassList, dataset: str) -> np.ndarray:
  """Table of a known data set: its label id → training id, 255 if the list has no such class.

  Args:
    ids: class name → label id of the data set.
    classes: class list; every class must be in `ids`, in any order.
    dataset: name of the data set, for the message.

  Returns:
    uint8[256].

  Raises:
    UserError: the data set lacks a class of the list.
  """
  unknown = [name for name in classes.names if name not in ids]
  if unknown:
    raise UserError(
      f"data.classes.names holds {unknown[0]!r}, which {dataset} does not label, expected some of: "
      f"{', '.join(ids)}"
    )
  table = np.full(256, IGNORE, np.uint8)
  table[[ids[name] for name in classes.names]] = np.arange(len(classes))
  return table


CITYSCAPES = ClassList(NAMES, tuple(c.color for c in CLASSES))

# uint8[256] tables: label id of a data set → training id of the 19 classes, 255 for other ids.
CITYSCAPES_TO_TRAIN = label_table(CITYSCAPES_IDS, CITYSCAPES, "Cityscapes")
SYNTHIA_TO_TRAIN = label_table(SYNTHIA_IDS, CITYSCAPES, "SYNTHIA")

# uint8[19] tables: training id of the 19 classes → label id of a data set.
TRAIN_TO_CITYSCAPES = np.array([c.cityscapes_id for c in CLASSES], np.uint8)
TRAIN_TO_SYNTHIA = np.array([c.synthia_id for c in CLASSES], np.uint8)
