"""Records → arrays of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.record_encodings import unpack_all
from data_pipelines.records import parse

Example = Mapping[str, Any]  # by `records.parse`


def decode_crops(
  serialized: Sequence[bytes],
  corners: Sequence[tuple[int, int]],
  crop: tuple[int, int],
  *,
  views: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Image, label, inverse depth and views of examples, cut to the crop, and their names.

  Args:
    serialized: examples, as records hold them.
    corners: (top, left) of each one's crop.
    crop: height and width.
    views: that the records hold; with any, the camera is among the contents.
  """
  examples = [parse(example) for example in serialized]
  windows = [(*corner, *crop) for corner in corners]
  keys = ("image", "label", "inverse_depth", *view_keys(views))
  batch = {key: unpack_all([example[key] for example in examples], windows) for key in keys}
  batch["label"] = batch["label"][..., 0]
  batch["name"] = np.array([frame_name(example) for example in examples])
  if views:
    batch |= _cameras(examples)
    batch["intrinsics"] -= np.array([(0, 0, left, top) for top, left in corners], np.float32)
  return batch


def decode_frames(
  examples: Sequence[Example], contents: Sequence[str], *, views: Sequence[str] = ()
) -> dict[str, np.ndarray]:
  """Whole frames of parsed examples, and their names.

  Args:
    examples: of equal sizes.
    contents: any of "image", "label", "inverse_depth" and "views".
    views: that the records hold.
  """
  keys = [key for key in contents if key != "views"]
  keys += view_keys(views) if "views" in contents else ()
  whole = [None] * len(examples)
  batch = {key: unpack_all([example[key] for example in examples], whole) for key in keys}
  if "label" in batch:
    batch["label"] = batch["label"][..., 0]
  if "views" in contents:
    batch |= _cameras(examples)
  return batch | {"name": np.array([frame_name(example) for example in examples])}


def frame_name(example: Example) -> str:
  """Name of a parsed example's frame."""
  return str(example["name"], "utf-8")


def view_keys(views: Sequence[str]) -> tuple[str, ...]:
  """What records and batches call the images of views."""
  return tuple(f"{view}_image" for view in views)


def _cameras(examples: Sequence[Example]) -> dict[str, np.ndarray]:
  """`intrinsics` float32 (b, 4) of whole frames, `baseline` float32 (b,)."""
  camera = {
    key: np.stack([np.frombuffer(example[key], "<f4") for example in examples])
    for key in ("intrinsics", "baseline")
  }
  return camera | {"baseline": camera["baseline"][:, 0]}
