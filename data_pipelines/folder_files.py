"""The `folder` part of a data set's configuration, read and checked."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from corda_jax.errors import UserError
from corda_jax.labels import IGNORE, ClassList
from data_pipelines.frames import NAME, VIEWS
from data_pipelines.readers import Camera

SPLITS = ("train", "validation")
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
METRIC_PNG = "metres_png16"

# Attribute of `Frame` → the field that holds its pattern.
_FIELDS = {"image": "images", "label": "labels", "depth": "depth", "camera": "camera"}
_FIELDS |= {view: view for view in VIEWS}
NEIGHBOURS = ("previous", "next")  # views that may be images of other frames


@dataclasses.dataclass(frozen=True)
class FolderFiles:
  """Where the files of a data set of one's own are, and what is in them.

  Attributes:
    patterns: split → attribute of `Frame` → pattern below the root; those that are needed.
    label_classes: label id in the files → class name, "" to ignore it; empty: ids are places in the
      class list.
    other_labels: "refuse" or "ignore" ids that are not among them.
    image_filter: "bilinear" or "bicubic".
    metres_per_unit: of 16-bit metric depth; None where there is none.
    camera: of all frames; None where they have files of it, or none is needed.
  """

  patterns: Mapping[str, Mapping[str, str]]
  label_classes: Mapping[int, str]
  other_labels: str
  image_filter: str
  metres_per_unit: float | None
  camera: Camera | None

  @classmethod
  def from_config(cls, config: Any, *, depth: str, views: Sequence[str]) -> "FolderFiles":
    """Reads the `folder` part; what neither depth nor views need is left out.

    Args:
      config: see `get_folder_config` in configs/default.py.
      depth: kind of the depth files, or "none".
      views: images that records hold beside the frame's own.

    Raises:
      UserError: a value cannot work.
    """
    for field, choices in (("other_labels", ("refuse", "ignore")), ("image_filter", FILTERS)):
      if config[field] not in choices:
        told = " or ".join(repr(choice) for choice in choices)
        raise UserError(f"folder.{field} is {config[field]!r}, wanted {told}")
    metric = depth == METRIC_PNG
    if metric and not 0 < config["metres_per_unit"] < math.inf:
      raise UserError(f"folder.metres_per_unit is {config['metres_per_unit']}, wanted more than 0")
    camera = _camera(config["camera"], views) if views else None
    patterns = {}
    for split in SPLITS:
      if split == "train" or config[split]["images"]:
        patterns[split] = _patterns(config[split], split, depth, views, camera is None)
    if depth != "none" and not any("depth" in kinds for kinds in patterns.values()):
      raise no_pattern("train", "depth", f"depth is {depth!r}")
    return cls(
      patterns=patterns,
      label_classes=_label_classes(config["label_classes"]),
      other_labels=config["other_labels"],
      image_filter=config["image_filter"],
      metres_per_unit=float(config["metres_per_unit"]) if metric else None,
      camera=camera,
    )

  def label_ids(self, classes: ClassList) -> frozenset[int] | None:
    """Those that a label may hold; None: any."""
    if self.other_labels == "ignore":
      return None
    return frozenset((*(self.label_classes or range(len(classes))), IGNORE))

  def label_table(self, classes: ClassList) -> np.ndarray:
    """uint8[256], label id → training id; 255 is ignored.

    Raises:
      UserError: an id is mapped to what is no class.
    """
    table = np.full(256, IGNORE, np.uint8)
    if not self.label_classes:
      table[: len(classes)] = np.arange(len(classes))
    for number, name in self.label_classes.items():
      if name and name not in classes.names:
        raise UserError(
          f"folder.label_classes maps {number} to {name!r}, which is no class, wanted one of "
          f"{', '.join(classes.names)}, or '' to ignore it"
        )
      table[number] = classes.names.index(name) if name else IGNORE
    return table


def check_supervision(config: Any, *, depth: str) -> None:
  """Checks that there is what a network is trained on and scored by, beside images.

  Args:
    config: the `folder` part of a data set's configuration.
    depth: kind of the depth files, or "none".

  Raises:
    UserError: validation has no labels, or training no depth.
  """
  if config["validation"]["images"] and not config["validation"]["labels"]:
    raise no_pattern("validation", "label")
  if depth != "none" and not config["train"]["depth"]:
    raise no_pattern("train", "depth", f"depth is {depth!r}")


def no_pattern(split: str, kind: str, why: str = "") -> UserError:
  """The error of a pattern that is empty and needed."""
  field = _FIELDS[kind]
  return UserError(
    f"folder.{split}.{field} is ''{', but ' if why else ''}{why}, wanted a pattern such as "
    f"'{split}/{field}/{NAME}.png'"
  )


def _patterns(
  config: Any, split: str, depth: str, views: Sequence[str], camera_files: bool
) -> dict[str, str]:
  if views and not camera_files and config["camera"]:
    raise UserError(
      f"folder.{split}.camera and folder.camera.intrinsics are both set: leave one of them empty"
    )
  needed = ["image", *(view for view in views if view not in NEIGHBOURS)]
  if views and camera_files:
    needed.append("camera")
  optional = ["label", *(view for view in views if view in NEIGHBOURS)]
  optional += ["depth"] * (depth != "none")
  patterns = {}
  for kind in dict.fromkeys((*needed, *optional)):
    pattern = config[_FIELDS[kind]]
    if not pattern and kind in needed:
      raise no_pattern(split, kind, "" if kind == "image" else f"views are {tuple(views)}")
    if pattern and pattern.count(NAME) != 1:
      raise UserError(
        f"folder.{split}.{_FIELDS[kind]} is {pattern!r}, wanted {NAME} in it once, where the "
        "frames' names stand"
      )
    if pattern:
      patterns[kind] = pattern.removeprefix("./")
  return patterns


def _camera(config: Any, views: Sequence[str]) -> Camera | None:
  if not config["intrinsics"]:
    return None
  numbers = tuple(config["intrinsics"])
  real = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
  if len(numbers) != 4 or not real or min(numbers[:2]) <= 0:
    raise UserError(
      f"folder.camera.intrinsics is {numbers}, wanted (fx, fy, cx, cy) in pixels, or () where "
      "every frame has a file of them"
    )
  if "right" in views and not 0 < config["baseline"] < math.inf:
    raise UserError(
      f"folder.camera.baseline is {config['baseline']}, but views hold 'right', wanted the metres "
      "between the cameras"
    )
  return Camera(numbers[:2], numbers[2:], config["baseline"])


def _label_classes(pairs: Any) -> dict[int, str]:
  mapping: dict[int, str] = {}
  for pair in pairs:
    number, name = pair if isinstance(pair, list | tuple) and len(pair) == 2 else (None, None)
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not (whole and 0 <= number <= 255 and isinstance(name, str)):
      raise UserError(f"folder.label_classes holds {pair!r}, wanted (label id 0..255, class name)")
    if number in mapping:
      raise UserError(f"folder.label_classes maps {number} more than once: map each id once")
    mapping[number] = name
  return mapping
