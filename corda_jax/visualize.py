"""Pictures of labels, depth and difficulty."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corda_jax.atomic_io import atomic_write
from corda_jax.labels import CITYSCAPES, IGNORE, ClassList


def colorize_labels(labels: np.ndarray, classes: ClassList = CITYSCAPES) -> np.ndarray:
  """Training ids [...] → uint8 RGB [..., 3] in the colours of the classes; 255 is black."""
  return classes.palette()[labels]


def colorize(values: np.ndarray, low: float, high: float, colormap: str) -> np.ndarray:
  """Maps values [...] from low..high to uint8 RGB [..., 3] by a matplotlib colour map."""
  from matplotlib import colormaps  # here, so that training does not need it

  unit = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
  return colormaps[colormap](unit, bytes=True)[..., :3]


def colormap_palette(colormap: str) -> np.ndarray:
  """uint8[256, 3]: the colours of a matplotlib colour map, from its low end to its high one."""
  return colorize(np.arange(256), 0, 255, colormap)


def contact_sheet(
  pictures: Mapping[str, np.ndarray], title: str, path: Path, classes: ClassList = CITYSCAPES
) -> None:
  """Writes a PNG with one column per frame and one row per kind of picture, with a legend.

  Args:
    pictures: arrays with a leading frame axis: "image" uint8 RGB [N, H, W, 3], "label" and
      "prediction" [N, H, W] training ids; optionally "inverse_depth" [N, H, W] (larger is nearer)
      and "difficulty" [N, H, W], 0..1.
    title: title at the top.
    path: path of the PNG, which is written atomically.
    classes: classes of the labels.
  """
  write_sheet(_rows(pictures, classes), title, path, _legend(classes))


def training_sheet(
  pictures: Mapping[str, np.ndarray], title: str, path: Path, classes: ClassList = CITYSCAPES
) -> None:
  """Writes a PNG of the maps of a training batch: one column per pair, one row per map.

  Args:
    pictures: "source_image", "target_image" uint8 RGB [N, H, W, 3], "source_label" [N, H, W]
      training ids, and the maps of `AdaptationStep.maps`.
    title: title at the top.
    path: path of the PNG, which is written atomically.
    classes: classes of the labels.
  """
  write_sheet(_training_rows(pictures, classes), title, path, _legend(classes))


def depth_sheet(
  pictures: Mapping[str, np.ndarray], views: Sequence[str], title: str, path: Path
) -> None:
  """Writes a PNG with one column per frame: depth, and the other views warped by it, if any.

  Args:
    pictures: arrays made by `DepthEvaluator.pictures`.
    views: names of the other views, in the order of the second axis of the pictures.
    title: title at the top.
    path: path of the PNG, which is written atomically.
  """
  write_sheet(_depth_rows(pictures, views), title, path)


def write_sheet(
  rows: Sequence[tuple[str, np.ndarray]],
  title: str,
  path: Path,
  legend: Sequence[tuple[str, Any]] = (),
) -> None:
  """Writes a PNG with one column per frame and one row per kind of picture.

  Args:
    rows: name and RGB pictures [N, H, W, 3] of each row, uint8 or 0..1.
    title: title at the top.
    path: path of the PNG, which is written atomically.
    legend: (name, matplotlib colour) of each entry.
  """
  from matplotlib.figure import Figure
  from matplotlib.patches import Patch

  frames, height, width = rows[0][1].shape[:3]
  cell = 2.6  # inches
  figure = Figure(
    figsize=(cell * frames + 1.4, cell * height / width * len(rows) + 1.1),
    dpi=110,
    layout="constrained",
  )
  axes = figure.subplots(len(rows), frames, squeeze=False)
  for row, (name, images) in enumerate(rows):
    axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    for axis, image in zip(axes[row], images, strict=True):
      axis.imshow(image, interpolation="nearest")
      axis.set_xticks([])
      axis.set_yticks([])
  figure.suptitle("\n".join(textwrap.wrap(title, 40 * frames)), fontsize=12)
  if legend:
    figure.legend(
      handles=[Patch(color=color, label=name) for name, color in legend],
      loc="outside lower center",
      ncols=min(10, 3 * frames),
      fontsize=8,
      frameon=False,
    )
  with atomic_write(path) as partial:
    figure.savefig(partial, format="png")


def _legend(classes: ClassList) -> list[tuple[str, Any]]:
  colors = [tuple(np.array(color) / 255) for color in classes.colors]
  return [*zip(classes.names, colors, strict=True), ("ignored", "black")]


def _as_uint8(images: np.ndarray) -> np.ndarray:
  """Images of 0..1, clipped, as 0..255."""
  return np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)


def _training_rows(
  pictures: Mapping[str, np.ndarray], classes: ClassList
) -> list[tuple[str, np.ndarray]]:
  """Name and RGB pictures [N, H, W, 3] of each row of a training sheet."""
  rows = [
    ("source image", pictures["source_image"]),
    ("its labels", colorize_labels(pictures["source_label"], classes)),
    ("target image", pictures["target_image"]),
  ]
  seen = "source image"
  if "image" in pictures:
    seen = "mixed image"
    mixed = _as_uint8(pictures["image"])
    largest = float(pictures["pixel_weight"].max())
    rows += [
      ("pseudo-labels", colorize_labels(pictures["pseudo_label"], classes)),
      ("mixed image,\naugmented", mixed),
      ("its labels", colorize_labels(pictures["label"], classes)),
      (
        f"weight of a pixel\n(bright: {largest:.2f},\nblack: 0)",
        colorize(pictures["pixel_weight"], 0, largest, "inferno"),
      ),
    ]
  rows.append((f"prediction on\nthe {seen}", colorize_labels(pictures["prediction"], classes)))
  if "masked_image" in pictures:
    rows.append(("masked image", _as_uint8(pictures["masked_image"])))
  if "difficulty" in pictures:
    heads = [pictures[name] for name in ("inverse_depth", "source_inverse_depth")]
    by_target, by_source = colorize_inverse_depth(np.stack(heads))  # in the same colours
    rows += [
      ("inverse depth by\nthe target's head", by_target),
      ("by the source's", by_source),
      (_DIFFICULTY, colorize(pictures["difficulty"], 0, 1, "viridis")),
    ]
  return rows


_DIFFICULTY = "difficulty\n(bright: the two\ndepth heads differ\nby the depth itself)"


def colorize_inverse_depth(inverse_depth: np.ndarray) -> np.ndarray:
  """Inverse depth [...] → uint8 RGB [..., 3], bright where near; one scale for the whole array.

  Logarithmic, since inverse depth spans two orders of magnitude, most of them near the camera.
  """
  values = np.log(np.maximum(inverse_depth, 1))
  return colorize(values, 0, max(float(np.percentile(values, 99)), 1.0), "inferno")


def _rows(pictures: Mapping[str, np.ndarray], classes: ClassList) -> list[tuple[str, np.ndarray]]:
  """Name and RGB pictures [N, H, W, 3] of each row of a contact sheet."""
  label, prediction = pictures["label"], pictures["prediction"]
  ignored = label == IGNORE
  rows = [
    ("target image", pictures["image"]),
    ("truth", colorize_labels(label, classes)),
    ("prediction", colorize_labels(np.where(ignored, IGNORE, prediction), classes)),
    ("errors\n(dark red)", colorize((prediction != label) & ~ignored, 0, 1, "Reds")),
  ]
  if "inverse_depth" in pictures:
    colors = colorize_inverse_depth(pictures["inverse_depth"])
    rows.append(("inverse depth\n(bright: near)", colors))
  if "difficulty" in pictures:
    rows.append((_DIFFICULTY, colorize(pictures["difficulty"], 0, 1, "viridis")))
  return rows


def _depth_rows(
  pictures: Mapping[str, np.ndarray], views: Sequence[str]
) -> list[tuple[str, np.ndarray]]:
  """Name and RGB pictures [N, H, W, 3] of each row of a depth sheet."""
  rows = [("image", pictures["image"])]
  if "truth" in pictures:
    nearness = 1 / pictures["truth"]
    rows.append(("truth\n(bright: near,\nblack: unknown)", _colorize_nearness(nearness)))
  rows.append(("disparity\n(bright: near)", _colorize_nearness(pictures["disparity"])))
  if "automask" not in pictures:  # frames without other views
    return rows
  automask = pictures["automask"][..., None] * np.uint8(255)
  rows.append(("automask\n(white: counts)", np.repeat(automask, 3, axis=-1)))
  for number, view in enumerate(views):
    for kind, words in (("sources", "view"), ("warped", "made from it")):
      colors = _as_uint8(pictures[kind][:, number])
      rows.append((f"{view} {words}" if kind == "sources" else f"{words} ({view})", colors))
    errors = colorize(pictures["errors"][:, number], 0, 0.5, "magma")
    rows.append((f"its error ({view})\n(bright: large)", errors))
  return rows


def _colorize_nearness(values: np.ndarray) -> np.ndarray:
  """Colours of values, logarithmic from the 1st to the 99th percentile; NaN is black."""
  logarithms = np.log(np.maximum(values, 1e-6))
  known = ~np.isnan(logarithms)
  if not known.any():
    return np.zeros((*values.shape, 3), np.uint8)
  low, high = np.percentile(logarithms[known], (1, 99))
  return colorize(np.where(known, logarithms, low), low, high, "inferno") * known[..., None]
