"""A contact sheet of frames, and the renderer's speed."""

import os
import time

import numpy as np

from corda_jax import labels
from corda_jax.depth.inverse_depth import FAR
from data_pipelines.street_world import domains, encodings, formats, png, render
from data_pipelines.street_world import scene as scene_lib

COLUMNS = 8
NEAREST = 4.0  # metres, shown white


def make_frame(
  domain: domains.Domain, entropy: tuple[int, ...], *, height: int, width: int
) -> render.Frame:
  """Samples a street and renders its labelled frame."""
  scene = scene_lib.make_scene(domain, entropy)
  return render.render(scene, height=height, width=width)


def picture(frame: render.Frame) -> np.ndarray:
  """uint8[3 * H, W, 3]: image over coloured label over inverse depth."""
  inverse = encodings.inverse_depth(frame.depth) * (NEAREST / FAR)
  grey = (np.minimum(inverse, 1) ** 0.6 * 255).astype(np.uint8)
  colors = labels.CITYSCAPES.palette()[frame.label]
  return np.concatenate([frame.image, colors, np.repeat(grey[..., None], 3, axis=-1)])


def write_sheet(
  path: str | os.PathLike[str], real: domains.Domain, *, height: int, width: int, seed: int
) -> None:
  """Writes a PNG with frames of `SYNTHETIC` and of a real city, the same streets in both."""
  rows = []
  for domain in (domains.SYNTHETIC, real):
    streets = [formats.entropy_of(seed, "gta5", "train", k) for k in range(COLUMNS)]
    frames = [make_frame(domain, street, height=height, width=width) for street in streets]
    rows.append(np.concatenate([picture(frame) for frame in frames], axis=1))
  with open(path, "wb") as file:
    file.write(png.encode(np.concatenate(rows)))


def frames_per_second(
  domain: domains.Domain, *, height: int, width: int, frames: int = 100
) -> float:
  """Streets sampled and rendered per second in this process, one view each."""
  make_frame(domain, (0, 0, 0, 0), height=height, width=width)
  start = time.perf_counter()
  for index in range(frames):
    make_frame(domain, (0, 0, 0, index), height=height, width=width)
  return frames / (time.perf_counter() - start)
