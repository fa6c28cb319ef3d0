"""Whether files are of the encoding that the configuration says, by what a few of them hold.

A file of another encoding is often a valid one: training ids are label ids of something else, a
distance in centimetres is a disparity. What they would say of a street gives them away.
"""

from collections.abc import Sequence

import numpy as np

from corda_jax.errors import UserError
from corda_jax.labels import IGNORE
from data_pipelines import inverse_depth
from data_pipelines.frames import Frame
from data_pipelines.preprocess import LabelIds, Recipe, load_frame
from data_pipelines.readers import BadFrameError

_SAMPLES = 16  # frames of a split that are looked at
_MANY_IDS = 10  # with fewer, nothing can be said of those that do not occur
_METRES = (2.0, 120.0)  # between these the median distance of streets is, some 10 to 40
_LESS = 1.5  # times less inverse depth at the bottom than at the top: the wrong way up
_AGREEING = 0.75  # share of the frames that show it


def examine(frames: Sequence[Frame], recipe: Recipe) -> list[tuple[str, str]]:
  """Looks at some frames of a split.

  Args:
    frames: of the split.
    recipe: how they are read.

  Returns:
    (file, what is unusual) where files may be of another encoding.

  Raises:
    UserError: labels are of another encoding.
  """
  labels: list[tuple[str, np.ndarray]] = []
  depths: list[tuple[str, np.ndarray]] = []
  for number in np.unique(np.linspace(0, len(frames) - 1, _SAMPLES).astype(int)):
    frame = frames[number]
    if frame.label is None and (frame.depth is None or recipe.depth is None):
      continue
    try:
      _, label, depth = load_frame(frame, recipe)
    except BadFrameError:  # which is reported when its turn comes
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
      f"no pixel of {len(labels)} labels has a class: they may be of another encoding"
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
        "toolboxes write them; use the original label files, or read these as a data set of your "
        'own ("folder", folder.label_classes)'
      )
  return []


def _unusual_depth(depths: Sequence[tuple[str, np.ndarray]], recipe: Recipe) -> list[str]:
  notes = []
  known = [depth[depth != inverse_depth.NO_DEPTH] for _, depth in depths]
  if recipe.depth.encode is not inverse_depth.from_disparity and any(map(len, known)):
    metres = float(np.median([np.median(inverse_depth.to_metres(y)) for y in known if len(y)]))
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
  """Whether what is low in the image, the street, is farther away than what is above it."""
  rows = depth.shape[0]
  top, bottom = (
    part[part != inverse_depth.NO_DEPTH] for part in (depth[: rows // 2], depth[-(rows // 4) :])
  )
  return bool(len(top) and len(bottom) and _LESS * np.median(bottom) < np.median(top))
