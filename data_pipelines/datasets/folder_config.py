"""The `folder` part of a data set's configuration, read and checked."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from corda_jax import labels
from corda_jax.errors import UserError
from corda_jax.labels import IGNORE, ClassList
from data_pipelines import inverse_depth, readers, resizing
from data_pipelines.cameras import Camera
from data_pipelines.frames import VIEWS
from data_pipelines.patterns import NAME, Pattern
from data_pipelines.preprocess import DepthRecipe, LabelColors, LabelIds

SPLITS = ("train", "validation")
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
NETWORK_DEPTH = "inverse_png16"
_METRES_PNG = "metres_png16"
_KITTI = 1 / 256  # unit of KITTI's 16-bit depth (metres) and disparity (pixels)
_DEPTH_READERS = {
  NETWORK_DEPTH: readers.read_depth_png,
  _METRES_PNG: readers.read_depth_png,
  "metres_npy": readers.read_depth_npy,
  "metres_mat": readers.read_depth_mat,
  "kitti_depth_png16": readers.read_depth_png,
  "disparity_png16": readers.read_depth_png,
  "disparity_npy": readers.read_depth_npy,
  "disparity_pfm": readers.read_depth_pfm,
}
DEPTH_KINDS = tuple(_DEPTH_READERS)

# Attribute of `Frame` → the field that holds its pattern.
FIELDS = {"image": "images", "label": "labels", "depth": "depth", "camera": "camera"}
FIELDS |= {view: view for view in VIEWS}
NEIGHBOURS = ("previous", "next")  # views that may be images of other frames


@dataclasses.dataclass(frozen=True)
class FolderFiles:
  """Where the files of a user-defined data set are, and what is in them.

  Attributes:
    patterns: split → attribute of `Frame` → pattern below the root; only what is needed.
    lists: split → text file below the root that names its frames.
    label_classes: label id or (R, G, B) in the files → class name, "" to ignore it; empty: ids are
      indices into the class list; None: the ids of Cityscapes.
    other_labels: "refuse" or "ignore", for labels that are not among them.
    image_filter: filter that resizes images, "bilinear" or "bicubic".
    metres_per_unit: metres per unit of 16-bit metric depth; None for other kinds.
    camera: camera of all frames; None where they have camera files or need none.
    held_out: pattern and list ("": none) of the validation images, which training must not contain;
      None: it may.
  """

  patterns: Mapping[str, Mapping[str, Pattern]]
  lists: Mapping[str, str] = dataclasses.field(default_factory=dict)
  label_classes: Mapping[int | tuple[int, int, int], str] | None = dataclasses.field(
    default_factory=dict
  )
  other_labels: str = "refuse"
  image_filter: str = "bilinear"
  metres_per_unit: float | None = None
  camera: Camera | None = None
  held_out: tuple[Pattern, str] | None = dataclasses.field(default=None, repr=False)

  @classmethod
  def from_config(
    cls,
    config: Any,
    *,
    splits: Sequence[str],
    depth: str,
    views: Sequence[str],
    contents: Sequence[str],
  ) -> "FolderFiles":
    """Reads the `folder` section, without what neither depth nor views need.

    Args:
      config: the section, see `data_pipelines.settings.Folder`.
      splits: splits that are prepared.
      depth: kind of the depth files, or "none".
      views: images that records hold beside the frame's own.
      contents: what is read from the records.

    Raises:
      UserError: a value is invalid.
    """
    metric = depth == _METRES_PNG
    _check_fields(config, metric)
    stereo = depth.startswith("disparity_")
    camera = None
    if views or stereo:
      camera = _camera(config["camera"], stereo or "right" in views)
    patterns = {}
    for split in splits:
      required = [view for view in views if view not in NEIGHBOURS]
      if split == "validation" and "label" in contents:
        required.append("label")
      if split == "train" and "inverse_depth" in contents and depth != "none":
        required.append("depth")
      optional = [*views, "label", *(("depth",) if depth != "none" else ())]
      why = f"depth is {depth!r}" if depth != "none" else f"views are {tuple(views)}"
      found = _patterns(config[split], split, ["image", *required], optional=optional, why=why)
      if camera is None and (views or (stereo and "depth" in found)):
        reason = f"views are {tuple(views)}" if views else why
        found |= _patterns(config[split], split, ["camera"], why=reason)
      elif camera is not None and config[split]["camera"]:
        raise UserError(
          f"folder.{split}.camera and folder.camera.intrinsics are both set: leave one of them "
          "empty"
        )
      patterns[split] = {kind: found[kind] for kind in FIELDS if kind in found}
    validation = config["validation"]
    apart = "train" in splits and validation["images"] and not config["shared_images"]
    return cls(
      patterns=patterns,
      lists={split: config[split]["list"] for split in splits if config[split]["list"]},
      label_classes=_label_classes(config["label_classes"]),
      other_labels=config["other_labels"],
      image_filter=config["image_filter"],
      metres_per_unit=float(config["metres_per_unit"]) if metric else None,
      camera=camera,
      held_out=(Pattern(validation["images"]), validation["list"]) if apart else None,
    )

  def label_reader(self, classes: ClassList) -> Callable[[str], np.ndarray]:
    """Path of a label file → training ids.

    Raises:
      UserError: a label is mapped to an unknown class.
    """
    refuse = self.other_labels == "refuse"
    hint = (
      "; folder.label_classes maps ids or colours (R, G, B) to classes, and "
      'folder.other_labels="ignore" ignores the others'
    )
    if self.label_classes is None:
      table = labels.label_table(labels.CITYSCAPES_IDS, classes, "Cityscapes")
      known = frozenset((*range(35), IGNORE)) if refuse else None
      return LabelIds(table, known, hint, of="Cityscapes")
    ids = {}
    for label, name in self.label_classes.items():
      if name and name not in classes.names:
        raise UserError(
          f"folder.label_classes maps {label} to {name!r}, which is not a class; expected one of "
          f"{', '.join(classes.names)}, or '' to ignore it"
        )
      ids[label] = classes.names.index(name) if name else IGNORE
    if any(isinstance(label, tuple) for label in ids):
      return LabelColors({r << 16 | g << 8 | b: i for (r, g, b), i in ids.items()}, refuse, hint)
    ids = ids or {number: number for number in range(len(classes))}
    table = np.full(256, IGNORE, np.uint8)
    table[list(ids)] = list(ids.values())
    return LabelIds(table, frozenset((*ids, IGNORE)) if refuse else None, hint)

  def depth_recipe(self, depth: str) -> DepthRecipe | None:
    """How files of a kind are read. Only a network's inverse depth is interpolated."""
    if depth == "none":
      return None
    stereo = depth.startswith("disparity_")
    if depth == NETWORK_DEPTH:
      encode, resize = inverse_depth.from_disparity, resizing.resize_bilinear_with_holes
    elif stereo:
      unit = _KITTI if depth.endswith("png16") else 1.0
      encode = functools.partial(inverse_depth.from_stereo_disparity, pixels_per_unit=unit)
      resize = resizing.resize_nearest_center
    else:
      unit = _KITTI if depth == "kitti_depth_png16" else self.metres_per_unit or 1.0
      encode = functools.partial(inverse_depth.from_measured, metres_per_unit=unit)
      resize = resizing.resize_nearest_center
    return DepthRecipe(_DEPTH_READERS[depth], encode, resize, any_size=True, needs_camera=stereo)


def _patterns(
  config: Any, split: str, required: Sequence[str], *, optional: Sequence[str] = (), why: str
) -> dict[str, Pattern]:
  patterns = {}
  for kind in dict.fromkeys((*required, *optional)):
    field = f"folder.{split}.{FIELDS[kind]}"
    pattern = Pattern(config[FIELDS[kind]].removeprefix("./"))
    if not pattern.text and kind in required:
      because = "" if kind in ("image", "label") else f", but {why}"
      raise UserError(
        f"{field} is ''{because}; expected a pattern such as '{split}/{FIELDS[kind]}/{NAME}.png'"
      )
    if pattern.text and not pattern.is_valid(shared=kind == "camera"):
      raise UserError(
        f"{field} is {pattern.text!r}; expected {NAME} in it once, or {{clip}} and then {{frame}}, "
        "in place of the frames' names"
      )
    if pattern.text:
      patterns[kind] = pattern
  return patterns


def _camera(config: Any, stereo: bool) -> Camera | None:
  if not config["intrinsics"]:
    return None
  numbers = tuple(config["intrinsics"])
  real = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
  if len(numbers) != 4 or not real or min(numbers[:2]) <= 0:
    raise UserError(
      f"folder.camera.intrinsics is {numbers}, expected (fx, fy, cx, cy) in pixels, or () where "
      "the frames have camera files"
    )
  if stereo and not 0 < config["baseline"] < math.inf:
    raise UserError(
      f"folder.camera.baseline is {config['baseline']}, but there are right images or disparities; "
      "expected the metres between the cameras"
    )
  return Camera(numbers[:2], numbers[2:], config["baseline"])


def _label_classes(pairs: Any) -> dict[Any, str] | None:
  if tuple(pairs) == ("cityscapes",):
    return None
  mapping: dict[Any, str] = {}
  for pair in pairs:
    label, name = pair if isinstance(pair, list | tuple) and len(pair) == 2 else (None, None)
    numbers = tuple(label) if isinstance(label, list | tuple) else (label,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= 255 for n in numbers)
    if not (whole and len(numbers) in (1, 3) and isinstance(name, str)):
      raise UserError(
        f"folder.label_classes holds {pair!r}, expected (label id 0..255, class name), "
        '((R, G, B), class name), or ("cityscapes",)'
      )
    label = numbers if len(numbers) == 3 else numbers[0]
    if label in mapping:
      raise UserError(f"folder.label_classes maps {label} more than once: map each label once")
    mapping[label] = name
  if len({isinstance(label, tuple) for label in mapping}) > 1:
    raise UserError("folder.label_classes holds ids and colours: give all labels as one of the two")
  return mapping


def _check_fields(config: Any, metric: bool) -> None:
  """Raises UserError where a field has an invalid value."""
  for field, choices in (("other_labels", ("refuse", "ignore")), ("image_filter", FILTERS)):
    if config[field] not in choices:
      expected = " or ".join(repr(choice) for choice in choices)
      raise UserError(f"folder.{field} is {config[field]!r}, expected {expected}")
  if metric and not 0 < config["metres_per_unit"] < math.inf:
    raise UserError(
      f"folder.metres_per_unit is {config['metres_per_unit']}, expected a number above 0"
    )
