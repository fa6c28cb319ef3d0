"""The street world in memory: for training without TensorFlow, and without files.

Frames are those that `data_pipelines.street_world` writes as a data set and the pipeline reads
again, to the bit; their order differs from the pipeline's.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corda_jax.atomic_io import atomic_write
from corda_jax.configuration import build
from corda_jax.console import progress_bar
from corda_jax.errors import UserError
from corda_jax.labels import IGNORE
from data_pipelines import inverse_depth
from data_pipelines.crops import Crops, Cut, Window
from data_pipelines.parallel import ordered_map
from data_pipelines.rare_classes import RareClassSampler, Sampler
from data_pipelines.settings import Data
from data_pipelines.street_world import domains, encodings, formats
from data_pipelines.street_world import gap as gap_lib
from data_pipelines.street_world.scene import BASELINE


class Frames(NamedTuple):
  """Frames of one size.

  Attributes:
    image: uint8 RGB [N, H, W, 3].
    label: uint8 [N, H, W], training ids, 255 where there is none.
    inverse_depth: float32 [N, H, W], 1 where there is no depth.
    intrinsics: float32 [N, 4]: fx, fy, cx, cy in pixels.
    right_image: uint8 RGB [N, H, W, 3], the right camera's images, if requested.
  """

  image: np.ndarray
  label: np.ndarray
  inverse_depth: np.ndarray
  intrinsics: np.ndarray
  right_image: np.ndarray | None = None


def render(
  layout: str,
  split: str,
  count: int,
  *,
  seed: int,
  gap: float,
  height: int,
  width: int,
  folder: Path,
  right: bool = False,
  processes: int = 0,
) -> Frames:
  """The first frames of a split, from `folder` if they were rendered before.

  Args:
    layout: "gta5", "synthia" or "cityscapes": which streets, look and encoding of depth.
    split: "train" or "val".
    count: number of frames.
    seed: seed of the world.
    gap: distance between the looks, see `gap_lib.real_city`.
    height: rows of the images.
    width: columns of the images.
    folder: where frames are kept.
    right: whether the right camera's images are needed, too.
    processes: number of rendering processes; 0: one per core.
  """
  domain = gap_lib.real_city(gap) if layout == "cityscapes" else domains.SYNTHETIC
  plan = formats.Plan(layout, {split: count}, seed, height, width, domain)
  digest = hashlib.sha256(json.dumps(plan.parameters(), sort_keys=True).encode()).hexdigest()
  name = f"{layout}_{split}_{count}_{width}x{height}_{digest[:12]}"

  def kept(what: str, render_one: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    path = folder / f"{name}_{what}.npz"
    if not path.exists():
      folder.mkdir(parents=True, exist_ok=True)
      made = ordered_map(
        functools.partial(render_one, plan, split), range(count), processes=processes
      )
      title = f"{layout} {split}, {what}"
      made = list(progress_bar(iterable=made, total=count, desc=title, unit="frame"))
      arrays = {field: np.stack([each[field] for each in made]) for field in made[0]}
      with atomic_write(path, unique=True) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)
    with np.load(path) as arrays:
      return dict(arrays)

  return Frames(**kept("left", _left), **(kept("right", _right) if right else {}))


def _left(plan: formats.Plan, split: str, index: int) -> dict[str, np.ndarray]:
  view = formats.Views(plan, split, index)()
  camera, depth = view.camera, view.depth
  if plan.layout == "synthia":
    inverse = inverse_depth.from_centimetres(encodings.centimetres_file(depth))
  elif plan.layout == "gta5":
    file = encodings.inverse_depth_file(encodings.inverse_depth(depth))
    inverse = inverse_depth.from_disparity(file)
  else:
    known = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    inverse = inverse_depth.from_stereo_metres(known)
  return {
    "image": view.image,
    "label": view.label,
    "inverse_depth": inverse,
    "intrinsics": np.float32((camera.focal, camera.focal, *camera.center)),
  }


def _right(plan: formats.Plan, split: str, index: int) -> dict[str, np.ndarray]:
  return {"right_image": formats.Views(plan, split, index)(right=True).image}


def train_batches(
  source: Frames, target: Frames, config: Any, *, start_step: int
) -> Iterator[dict[str, np.ndarray]]:
  """Endless batches, with the fields of `input_pipeline.train_dataset`.

  They include right views where the frames have them.

  Sample g of a domain with n frames is frame permutation(g mod n) of epoch g div n, or one sampled
  by rare classes, cropped at a place determined by g: a batch depends on the seed and on its number
  alone. Nothing is mirrored.

  Args:
    source: frames of the source.
    target: frames of the target.
    config: whole configuration, whose `seed`, batch and crops are read, and the source's rules of
      crops and of rare classes.
    start_step: number of the first batch.
  """
  data = config.data
  domains = {"source": source, "target": target}
  choosers = {
    name: _Chooser(frames, data, name, (config.seed, number))
    for number, (name, frames) in enumerate(domains.items())
  }
  step = start_step
  while True:
    batch = {}
    for name, frames in domains.items():
      samples = range(step * data.batch_size, (step + 1) * data.batch_size)
      places, windows = zip(*map(choosers[name], samples), strict=True)
      crops = [
        (place, slice(top, top + height), slice(left, left + width))
        for place, (top, left, height, width) in zip(places, windows, strict=True)
      ]
      for field in ("image", "label", "inverse_depth", "right_image"):
        if (whole := getattr(frames, field)) is not None:
          batch[f"{name}_{field}"] = np.stack([whole[crop] for crop in crops])
      size = frames.label.shape[1:]
      batch[f"{name}_border"] = np.stack([Cut(window).border(size) for window in windows])
      moved = np.float32([(0, 0, left, top) for top, left, *_ in windows])
      batch[f"{name}_intrinsics"] = frames.intrinsics[[*places]] - moved
      batch[f"{name}_baseline"] = np.full(data.batch_size, BASELINE, np.float32)
      batch[f"{name}_name"] = np.array([f"{place:06d}" for place in places])
    yield batch
    step += 1


class _Chooser:
  """Chooses a sample's frame, and the window that is cut from it, by the sample's number."""

  def __init__(self, frames: Frames, data: Any, name: str, seeds: tuple[int, int]):
    own = getattr(build(data, "data", default=Data), name)
    if own.flip:
      raise UserError(f"data.{name}.flip is True, but frames in memory are not mirrored: set False")
    rare = None
    if own.rare_classes.enabled:
      counts = [np.bincount(label.ravel(), minlength=256)[:IGNORE] for label in frames.label]
      rare = RareClassSampler(own.rare_classes, counts)
    size = (data.crop_height, data.crop_width)
    crops = Crops(frames.label.shape[1:], size, own.max_class_share, own.crop_tries)
    self._label, self._count = frames.label, len(frames.image)
    self._sampler = Sampler(crops, own.flip, rare, seeds)
    self._order = functools.lru_cache(2)(functools.partial(_order, *seeds, self._count))

  def __call__(self, sample: int) -> tuple[int, Window]:
    def read_label(number, window):
      top, left, height, width = window
      return self._label[number, top : top + height, left : left + width]

    number = self._order(sample // self._count)[sample % self._count]
    number, cut = self._sampler(sample, number, read_label)
    return number, cut.window


def _order(seed: int, domain: int, count: int, epoch: int) -> np.ndarray:
  return np.random.default_rng((seed, domain, 0, epoch)).permutation(count)


def whole_frames(frames: Frames, size: int) -> Iterator[dict[str, np.ndarray]]:
  """All frames in order, `size` at a time, with fields of `input_pipeline.evaluation_dataset`.

  The last batch is filled up by its last frame, which is not "valid".
  """
  count = len(frames.image)
  for start in range(0, count, size):
    places = np.minimum(np.arange(start, start + size), count - 1)
    yield {
      "image": frames.image[places],
      "label": frames.label[places],
      "inverse_depth": frames.inverse_depth[places],
      "name": np.array([f"{place:06d}" for place in places]),
      "valid": np.arange(start, start + size) < count,
    }
