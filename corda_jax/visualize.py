"""Pictures of labels, depth and difficulty."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from corda_jax import labels as label_module


def colorize_labels(labels: np.ndarray) -> np.ndarray:
  """Training ids [...] → uint8 RGB [..., 3] in the benchmark's palette; 255 is black."""
  return label_module.palette()[labels]


def colorize(values: np.ndarray, low: float, high: float, colormap: str) -> np.ndarray:
  """Maps values [...] from low..high to uint8 RGB [..., 3] by a matplotlib colour map."""
  from matplotlib import colormaps  # here, so that training does not need it

  unit = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
  return colormaps[colormap](unit, bytes=True)[..., :3]


def contact_sheet(pictures: Mapping[str, np.ndarray], title: str, path: Path) -> None:
  """Writes a PNG with one column a frame and one row a kind of picture, with legends.

  Args:
    pictures: arrays with a leading frame axis: "image" uint8 RGB [N, H, W, 3], "label" and
      "prediction" [N, H, W] training ids; optionally "inverse_depth" [N, H, W] (larger is nearer)
      and "difficulty" [N, H, W], 0..1.
    title: shown at the top.
    path: of the PNG; written whole or not at all.
  """
  from matplotlib.figure import Figure
  from matplotlib.patches import Patch

  frames, height, width = pictures["image"].shape[:3]
  wrong = (pictures["prediction"] != pictures["label"]) & (pictures["label"] != label_module.IGNORE)
  rows = [
    ("target image", pictures["image"]),
    ("truth", colorize_labels(pictures["label"])),
    (
      "prediction",
      colorize_labels(
        np.where(
          pictures["label"] == label_module.IGNORE, label_module.IGNORE, pictures["prediction"]
        )
      ),
    ),
    ("errors", colorize(wrong, 0, 1, "Reds")),
  ]
  if "inverse_depth" in pictures:
    near = float(np.percentile(pictures["inverse_depth"], 99))
    rows.append(
      (
        "inverse depth\n(bright: near)",
        colorize(
          np.log(np.maximum(pictures["inverse_depth"], 1)), 0, np.log(max(near, 2)), "inferno"
        ),
      )
    )
  if "difficulty" in pictures:
    rows.append(
      (
        "difficulty\n(bright: depth\nheads disagree)",
        colorize(pictures["difficulty"], 0, 1, "viridis"),
      )
    )

  cell_width = 2.6
  cell_height = cell_width * height / width
  figure = Figure(figsize=(cell_width * frames + 1.4, cell_height * len(rows) + 1.7), dpi=110)
  axes = figure.subplots(len(rows), frames, squeeze=False)
  for row, (name, images) in enumerate(rows):
    for column in range(frames):
      axis = axes[row, column]
      axis.imshow(images[column], interpolation="nearest")
      axis.set_xticks([])
      axis.set_yticks([])
    axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
  figure.suptitle("\n".join(textwrap.wrap(title, 40 * frames)), fontsize=12)
  figure.legend(
    handles=[Patch(color=np.array(c.color) / 255, label=c.name) for c in label_module.CLASSES]
    + [Patch(color="black", label="ignored")],
    loc="lower center",
    ncols=min(10, 3 * frames),
    fontsize=8,
    frameon=False,
  )
  figure.tight_layout(rect=(0, 0.9 / figure.get_figheight(), 1, 1), pad=0.4)
  partial = path.with_name(path.name + ".partial")
  figure.savefig(partial, format="png")
  partial.replace(path)
