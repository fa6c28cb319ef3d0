"""Writes the maps of an image to files."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corda_jax.depth.encodings import to_disparity
from corda_jax.inference import media
from corda_jax.labels import ClassList
from corda_jax.visualize import colorize_inverse_depth, colormap_palette


@dataclasses.dataclass(frozen=True)
class MapWriter:
  """Writes maps to a folder.

  Attributes:
    folder: output folder.
    classes: classes of the labels.
    label_values: uint8[K], value of each class in label files.
    overlay_opacity: opacity of the class colours, 0..1.
  """

  folder: Path
  classes: ClassList
  label_values: np.ndarray
  overlay_opacity: float

  def overlay(self, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Blends the class colours of training ids [H, W] over an image, uint8 RGB [H, W, 3]."""
    return media.overlay(image, label, self.classes.palette(), self.overlay_opacity)

  def overlay_of_file(self, image: np.ndarray, name: str) -> np.ndarray:
    """The same overlay, from the label file written for the image `name`."""
    label = media.read_png(self.folder / f"{name}_label.png")
    by_value = np.zeros((256, 3), np.uint8)
    by_value[self.label_values] = self.classes.palette()[: len(self.label_values)]
    return media.overlay(image, label, by_value, self.overlay_opacity)

  def write(
    self, name: str, image: np.ndarray, maps: Mapping[str, np.ndarray], kinds: Sequence[str]
  ) -> dict[str, Any]:
    """Writes the maps of one image.

    Args:
      name: name of the image, with which the names of the files start.
      image: uint8 RGB [H, W, 3].
      maps: maps made by `Predictor`, [H, W] each.
      kinds: kinds of files to write, from `settings.KINDS`.

    Returns:
      Entry of the image in `results.json`.
    """
    made = {
      "overlay": lambda: (self.overlay(image, maps["label"]), None),
      "label": lambda: (self.label_values[maps["label"]], None),
      "inverse_depth": lambda: (to_disparity(maps["inverse_depth"]), None),
      "inverse_depth_color": lambda: (colorize_inverse_depth(maps["inverse_depth"]), None),
      "difficulty": lambda: (
        np.rint(255 * maps["difficulty"]).astype(np.uint8),
        colormap_palette("viridis"),
      ),
    }
    written = [f"{name}_{kind}.png" for kind in kinds]
    for kind, file in zip(kinds, written, strict=True):
      media.write_png(self.folder / file, *made[kind]())
    counts = np.bincount(maps["label"].ravel(), minlength=len(self.classes))
    shares = (counts / maps["label"].size).tolist()
    return {
      "name": name,
      "size": list(image.shape[:2]),
      "shares": dict(zip(self.classes.names, shares, strict=True)),
      "files": written,
    }
