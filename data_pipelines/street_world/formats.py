"""The data sets' layouts: which files a labelled frame has, and what is in them."""

import dataclasses
import json
from collections.abc import Callable, Mapping

import numpy as np

from corda_jax import labels
from data_pipelines.street_world import domains, encodings, png, render
from data_pipelines.street_world import scene as scene_lib

VERSION = 1  # version of the world; raised when the same seed gives other files
LAYOUTS = ("gta5", "synthia", "cityscapes", "folder_synthetic", "folder_real")
SPLITS = ("train", "val")
CITIES = {
  "train": ("ahornberg", "buchental", "erlenfurt", "fichtenau", "kastanienhof"),
  "val": ("lindenhain", "tannenbruck"),
}
LABELLED = 19  # number of the labelled frame in its snippet
MAX_NEIGHBOURS = 10  # a snippet has 30 frames
EGO_VEHICLE = 1  # Cityscapes' label id of the own car's hood
# Label ids of the plain folders, by training id; 0 means no class.
OWN_IDS = np.arange(1, 1 + len(labels.CITYSCAPES), dtype=np.uint8)

Files = Mapping[str, Callable[[], bytes]]  # path below the root → the file's content


@dataclasses.dataclass(frozen=True)
class Plan:
  """Everything that the files of a data set depend on.

  Attributes:
    layout: one of `LAYOUTS`.
    frames: number of labelled frames by split.
    seed: seed of the world.
    height: rows of the images.
    width: columns of the images.
    domain: what it looks like.
    neighbours: frames of the sequence on each side of a labelled one; Cityscapes only.
    mono_error: see `encodings.monocular_estimate`; Cityscapes only.
    mono_blur: see `encodings.monocular_estimate`; Cityscapes only.
  """

  layout: str
  frames: Mapping[str, int]
  seed: int
  height: int
  width: int
  domain: domains.Domain
  neighbours: int = 0
  mono_error: float = 0.0
  mono_blur: float = 0.0

  def parameters(self) -> dict:
    """All fields and the world's version, as JSON returns them."""
    values = {"version": VERSION, **dataclasses.asdict(self)}
    return json.loads(json.dumps(values))


def entropy_of(seed: int, layout: str, split: str, index: int) -> tuple[int, ...]:
  """Entropy of all random values of a frame: its place in the world, not its order."""
  return seed, LAYOUTS.index(layout), SPLITS.index(split), index


class Views:
  """The views of one street, each rendered on first use."""

  def __init__(self, plan: Plan, split: str, index: int):
    """Prepares the views of frame `index` of the split."""
    self.plan, self.split, self.index = plan, split, index
    self.entropy = entropy_of(plan.seed, plan.layout, split, index)
    self._scene = None
    self._seen = {}

  def __call__(self, step: int = 0, right: bool = False) -> render.Frame:
    """The view `step` frames after the labelled one."""
    if self._scene is None:
      self._scene = scene_lib.make_scene(self.plan.domain, self.entropy)
    if (step, right) not in self._seen:
      self._seen[step, right] = render.render(
        self._scene, height=self.plan.height, width=self.plan.width, step=step, right=right
      )
    return self._seen[step, right]


def _gta5(view) -> Files:
  name = f"{view.index + 1:05d}.png"
  return {
    f"images/{name}": lambda: png.encode(view().image),
    f"labels/{name}": lambda: png.encode(_ids(view().label, labels.TRAIN_TO_CITYSCAPES, 0)),
    f"disparity/{name}": lambda: png.encode(
      encodings.inverse_depth_file(encodings.inverse_depth(view().depth))
    ),
  }


def _synthia(view) -> Files:
  name = f"{view.index:07d}.png"

  def ids():
    return _ids(view().label, labels.TRAIN_TO_SYNTHIA, 0)

  def both():
    channels = [ids(), view().instance, np.zeros_like(view().instance)]
    return np.stack([c.astype(np.uint16) for c in channels], axis=-1)

  return {
    f"RGB/{name}": lambda: png.encode(view().image),
    f"GT/LABELS/{name}": lambda: png.encode(both()),
    f"synthia_mapped_to_cityscapes/{name}": lambda: png.encode(ids()),
    f"Depth/Depth/{name}": lambda: png.encode(encodings.centimetres_file(view().depth)),
  }


def _cityscapes(view) -> Files:
  plan, cities = view.plan, CITIES[view.split]
  city = cities[view.index % len(cities)]
  snippet = f"{city}_{view.index // len(cities):06d}"

  def path(folder, ending, step=0):
    return f"{folder}/{view.split}/{city}/{snippet}_{LABELLED + step:06d}_{ending}"

  def image(step=0, right=False):
    return lambda: png.encode(view(step, right).image)

  def mono():
    rng = np.random.default_rng([*view.entropy, 4])
    estimate = encodings.monocular_estimate(
      view().depth, error=plan.mono_error, blur=plan.mono_blur, rng=rng
    )
    estimate[view().label == labels.IGNORE] = 1.0
    return png.encode(encodings.inverse_depth_file(estimate))

  def disparity():
    focal = view().camera.focal
    return png.encode(encodings.disparity_file(view().depth, focal, scene_lib.BASELINE))

  files = {
    path("leftImg8bit", "leftImg8bit.png"): image(),
    path("rightImg8bit", "rightImg8bit.png"): image(right=True),
    path("gtFine", "gtFine_labelIds.png"): lambda: png.encode(
      _ids(view().label, labels.TRAIN_TO_CITYSCAPES, EGO_VEHICLE)
    ),
    path("camera", "camera.json"): lambda: _camera_file(view().camera),
    path("disparity", "disparity.png"): disparity,
  }
  if plan.neighbours:
    for step in range(-plan.neighbours, plan.neighbours + 1):
      files[path("leftImg8bit_sequence", "leftImg8bit.png", step)] = image(step)
  if view.split == "train":
    files[path("depth", "depth_stereoscopic.mat")] = lambda: encodings.stereo_depth_file(
      view().depth
    )
    files[path("disparity", "leftImg8bit.png")] = mono
  return files


def _folder(view) -> Files:
  """A plain folder, as a user may have: neither its layout nor its label ids are known ones."""
  name = f"{view.index:06d}"

  def png_file(folder, make):
    return {f"{view.split}/{folder}/{name}.png": lambda: png.encode(make())}

  def image(step=0, right=False):
    return lambda: view(step, right).image

  return {
    **png_file("images", image()),
    **png_file("right", image(right=True)),
    **png_file("previous", image(-1)),
    **png_file("next", image(1)),
    **png_file("labels", lambda: _ids(view().label, OWN_IDS, 0)),
    **png_file("depth", lambda: encodings.centimetres_file(view().depth)),
    f"{view.split}/camera/{name}.json": lambda: _camera_file(view().camera),
  }


FILES = {
  "gta5": _gta5,
  "synthia": _synthia,
  "cityscapes": _cityscapes,
  "folder_synthetic": _folder,
  "folder_real": _folder,
}


def _ids(label, table, ignored):
  """Training ids → a data set's label ids; `ignored` where there is no class."""
  full = np.full(256, ignored, np.uint8)
  full[: len(table)] = table
  return full[label]


def _camera_file(camera):
  pitch = float(np.arcsin(-camera.rotation[2, 2]))
  values = {
    "extrinsic": {
      "baseline": scene_lib.BASELINE,
      "pitch": pitch,
      "roll": 0.0,
      "x": 1.7,
      "y": 0.0,
      "yaw": 0.0,
      "z": float(camera.position[2]),
    },
    "intrinsic": {
      "fx": camera.focal,
      "fy": camera.focal,
      "u0": camera.center[0],
      "v0": camera.center[1],
    },
  }
  return json.dumps(values, indent=2).encode()
