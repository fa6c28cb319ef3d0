"""Checks a few files for signs of a different encoding than configured.

A file in another encoding is often valid: training ids can be read as label ids, centimetres as
disparity. The implausible street that results gives it away.
"""

from collections.abc import Sequence

import numpy as np

from corda_jax.depth.inverse_depth import NO_DEPTH, to_metres
from corda_jax.errors import UserError
from corda_jax.labels import IGNORE
from data_pipelines import inverse_depth
from data_pipelines.frames import Frame
from data_pipelines.preprocess import LabelIds, Recipe, load_frame
from data_pipelines.readers import BadFrameError

_SAMPLES = 16  # frames of a split that are checked
_MANY_IDS = 10  # with fewer, missing ids show nothing
_METRES = (2.0, 120.0)  # limits of the median distance in a street; usual are 10 to 40
_LESS = 1.5  # factor between the inverse depths of top and bottom in inverted files
_AGREEING = 0.75  # share of the frames that show it


def examine(frames: Sequence[Frame], recipe: Recipe) -> list[tuple[str, str]]:
  """Checks some frames of a split.

  Args:
    frames: frames of the split.
    recipe: how they are read.

  Returns:
    (file, what is unusual) where files may have another encoding.

  Raises:
    UserError: labels have another encoding.
  """
  labels: list[tuple[str, np.ndarray]] = []
  depths: list[tuple[str, np.ndarray]] = []
  for number in np.unique(np.linspace(0, len(frames) - 1, _SAMPLES).astype(int)):
    frame = frames[number]
    if frame.label is None and (frame.depth is None or recipe.depth is None):
      continue
    try:
      _, label, depth = load_frame(frame, recipe)
    except BadFrameError:  # reported when the frame is prepared
      continue
    if frame.label is not None:
      labels.append((frame.label, label))
    if frame.depth is not None and recipe.depth is not None:
      depths.append((frame.depth, depth))
  notes = []
  if labels:
    notes += [(labels[0][0], note) for note in _unusual_labels(labels, recipe)]
  if depths:
    notes += [(depths[0][0], note) for note in _unusual_depth(depths, recipe)]
  return notes


def _unusual_labels(labels: Sequence[tuple[str, np.ndarray]], recipe: Recipe) -> list[str]:
  path = labels[0][0]
  if all((label == IGNORE).all() for _, label in labels):
    return [
      f"no pixel of {len(labels)} labels has a class: they may have another encoding"
      f"{getattr(recipe.label, 'hint', '')}"
    ]
  if isinstance(recipe.label, LabelIds):
    found = {int(i) for file, _ in labels for i in np.unique(recipe.label.read(file))} - {IGNORE}
    of_classes = np.flatnonzero(recipe.label.table != IGNORE)
    higher = np.mean(of_classes >= len(of_classes))
    if len(found) >= _MANY_IDS and max(found) < len(of_classes) and higher > 0.5:
      raise UserError(
        f"labels such as {path!r} hold {len(found)} ids, none above {max(found)}, but {higher:.0%} "
        f"of the classes have higher ids in {recipe.label.of}: these may be training ids, as other "
        "toolboxes write them; use the original label files, or read these as your own data "
        'set ("folder", folder.label_classes)'
      )
  return []


def _unusual_depth(depths: Sequence[tuple[str, np.ndarray]], recipe: Recipe) -> list[str]:
  notes = []
  known = [depth[depth != NO_DEPTH] for _, depth in depths]
  if recipe.depth.encode is not inverse_depth.from_disparity and any(map(len, known)):
    metres = float(np.median([np.median(to_metres(y)) for y in known if len(y)]))
    if not _METRES[0] <= metres <= _METRES[1]:
      notes.append(
        f"the median distance of {len(known)} depth files is {metres:.3g} m, expected "
        f"{_METRES[0]:g}..{_METRES[1]:g} m: check the depth kind and its unit"
      )
  inverted = [_is_inverted(depth) for _, depth in depths]
  if len(inverted) >= 4 and np.mean(inverted) >= _AGREEING:
    notes.append(
      f"in {sum(inverted)} of {len(inverted)} depth files the bottom is farther away than the top: "
      "check the depth kind; they may hold distance in place of inverse depth, or the reverse"
    )
  return notes


def _is_inverted(depth: np.ndarray) -> bool:
  """Whether the bottom of the image, the street, is farther away than the top."""
  rows = depth.shape[0]
  top, bottom = (part[part != NO_DEPTH] for part in (depth[: rows // 2], depth[-(rows // 4) :]))
  return bool(len(top) and len(bottom) and _LESS * np.median(bottom) < np.median(top))
