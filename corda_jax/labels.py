"""Classes of the street scenes: names, colours, and the data sets' own label ids.

The 19 training classes are those of the Cityscapes benchmark, in its order. `IGNORE` marks pixels
that no loss and no score may see.
"""

import dataclasses

import numpy as np

IGNORE = 255
NUM_CLASSES = 19


@dataclasses.dataclass(frozen=True)
class SemanticClass:
  """One training class.

  Attributes:
    name: as in the Cityscapes benchmark.
    color: RGB, 0..255, the benchmark's palette.
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

# Classes that SYNTHIA has, by training id: results on it are reported over 16 and over 13 classes.
SYNTHIA_16 = tuple(i for i, name in enumerate(NAMES) if name not in ("terrain", "truck", "train"))
SYNTHIA_13 = tuple(i for i in SYNTHIA_16 if NAMES[i] not in ("wall", "fence", "pole"))

# Which classes a mean is taken over, by the name that configurations use; training ids.
CLASS_SETS = {
  "all": tuple(range(NUM_CLASSES)),
  "synthia_16": SYNTHIA_16,
  "synthia_13": SYNTHIA_13,
}


def _lookup(ids: list[int]) -> np.ndarray:
  table = np.full(256, IGNORE, np.uint8)
  table[ids] = np.arange(len(ids))
  return table


# uint8[256] tables: a data set's label id → training id, 255 where it has none.
CITYSCAPES_TO_TRAIN = _lookup([c.cityscapes_id for c in CLASSES])
SYNTHIA_TO_TRAIN = _lookup([c.synthia_id for c in CLASSES])

# uint8[19] tables: training id → a data set's label id.
TRAIN_TO_CITYSCAPES = np.array([c.cityscapes_id for c in CLASSES], np.uint8)
TRAIN_TO_SYNTHIA = np.array([c.synthia_id for c in CLASSES], np.uint8)


def palette() -> np.ndarray:
  """uint8[256, 3] RGB colours indexed by training id; black where there is no class."""
  colors = np.zeros((256, 3), np.uint8)
  colors[:NUM_CLASSES] = [c.color for c in CLASSES]
  return colors
