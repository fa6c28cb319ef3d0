"""Writes the street world to disk in the data sets' own layouts.

A data set is written into `ROOT.partial`, file by file, each under a temporary name first, and the
folder is renamed to ROOT when nothing is missing. An interrupted run continues where it stopped;
a ROOT that exists is complete.
"""

import functools
import json
import os
import pathlib

from corda_jax.atomic_io import atomic_write
from corda_jax.console import progress_bar
from corda_jax.errors import UserError
from corda_jax.locks import only_writer
from data_pipelines.parallel import ordered_map
from data_pipelines.street_world import domains, formats

PARAMETERS = "street_world.json"
MIN_SIZE = 16  # pixels

Path = str | os.PathLike[str]


def write_gta5(
  root: Path,
  *,
  frames: int,
  seed: int,
  height: int,
  width: int,
  domain: domains.Domain = domains.SYNTHETIC,
  processes: int = 0,
  progress: bool = True,
) -> pathlib.Path:
  """Writes a synthetic city as GTA5: `images/`, `labels/`, `disparity/`, numbered from 00001.

  Args:
    root: folder of the data set. Returns at once if it exists with equal parameters.
    frames: number of frames.
    seed: seed of the world; the layouts never share a street.
    height: rows of the images.
    width: columns of the images.
    domain: what it looks like.
    processes: number of rendering processes; 0: one per core; 1: this process alone.
    progress: whether to show a progress bar.

  Returns:
    The root.

  Raises:
    UserError: the sizes are invalid, the folder was written with other parameters, or another
      process is writing it.
  """
  plan = formats.Plan("gta5", {"train": frames}, seed, height, width, domain)
  return _write(root, plan, processes, progress)


def write_synthia(
  root: Path,
  *,
  frames: int,
  seed: int,
  height: int,
  width: int,
  domain: domains.Domain = domains.SYNTHETIC,
  processes: int = 0,
  progress: bool = True,
) -> pathlib.Path:
  """Writes a synthetic city as SYNTHIA-RAND-CITYSCAPES, numbered from 0000000.

  Folders: `RGB`, `GT/LABELS` (16-bit: class, instance, 0), `synthia_mapped_to_cityscapes` (8-bit
  class) and `Depth/Depth` (centimetres). Arguments, return value and errors as `write_gta5`.
  """
  plan = formats.Plan("synthia", {"train": frames}, seed, height, width, domain)
  return _write(root, plan, processes, progress)


def write_cityscapes(
  root: Path,
  *,
  train_frames: int,
  validation_frames: int,
  seed: int,
  height: int,
  width: int,
  neighbours: int = 1,
  mono_error: float = 0.05,
  mono_blur: float = 0.7,
  domain: domains.Domain = domains.REAL,
  processes: int = 0,
  progress: bool = True,
) -> pathlib.Path:
  """Writes a real city as Cityscapes.

  Both splits: `leftImg8bit`, `rightImg8bit`, `gtFine` (labelIds), `camera`, `leftImg8bit_sequence`
  and `disparity/…_disparity.png`, the exact disparity in the official encoding. Training only:
  `depth/…_depth_stereoscopic.mat`, exact, and `disparity/…_leftImg8bit.png`, a monocular estimate.

  Args:
    root: folder of the data set. Returns at once if it exists with equal parameters.
    train_frames: labelled frames of the split "train".
    validation_frames: labelled frames of the split "val".
    seed: seed of the world; the splits never share a street.
    height: rows of the images.
    width: columns of the images.
    neighbours: frames of the sequence on each side of the labelled one, 0..10; 0: no sequence.
    mono_error: see `encodings.monocular_estimate`.
    mono_blur: see `encodings.monocular_estimate`.
    domain: what it looks like.
    processes: number of rendering processes; 0: one per core; 1: this process alone.
    progress: whether to show a progress bar.

  Returns:
    The root.

  Raises:
    UserError: the sizes are invalid, the folder was written with other parameters, or another
      process is writing it.
  """
  if not 0 <= neighbours <= formats.MAX_NEIGHBOURS:
    raise UserError(
      f"neighbours is {neighbours}; a snippet has room for 0..{formats.MAX_NEIGHBOURS}."
    )
  if mono_error < 0 or mono_blur < 0:
    raise UserError(f"mono_error {mono_error} and mono_blur {mono_blur} must not be negative.")
  frames = {"train": train_frames, "val": validation_frames}
  plan = formats.Plan(
    "cityscapes", frames, seed, height, width, domain, neighbours, mono_error, mono_blur
  )
  return _write(root, plan, processes, progress)


def write_folder(
  root: Path,
  *,
  train_frames: int,
  validation_frames: int,
  seed: int,
  height: int,
  width: int,
  domain: domains.Domain,
  processes: int = 0,
  progress: bool = True,
) -> pathlib.Path:
  """Writes a city of either domain as a plain folder, numbered from 000000.

  Folders, in `train` and in `val`: `images`, `labels` (8-bit, `formats.OWN_IDS`), `depth` (16-bit
  centimetres), `right` and `previous` and `next` views, `camera` (Cityscapes' JSON).
  Arguments, return value and errors as `write_cityscapes`.
  """
  frames = {"train": train_frames, "val": validation_frames}
  layout = "folder_real" if domain.name == domains.REAL.name else "folder_synthetic"
  return _write(
    root, formats.Plan(layout, frames, seed, height, width, domain), processes, progress
  )


def _write(root, plan, processes, progress):
  _check(plan, processes)
  root = pathlib.Path(os.path.expanduser(root))
  if root.exists():
    _same_parameters(root, plan, "Choose another folder, or delete this one.")
    return root
  partial = root.with_name(root.name + ".partial")
  with only_writer(partial / ".lock", otherwise="choose another folder"):
    if (partial / PARAMETERS).exists():
      _same_parameters(partial, plan, "Give these parameters again, or delete this folder.")
    else:
      _put(partial / PARAMETERS, json.dumps(plan.parameters(), indent=2).encode())
    every = [(split, index) for split, count in plan.frames.items() for index in range(count)]
    todo = [frame for frame in every if _missing(partial, plan, *frame)]
    bar = progress_bar(
      total=len(every), initial=len(every) - len(todo), desc=root.name, unit="frame",
      disable=not progress,
    )  # fmt: skip
    with bar:
      write_one = functools.partial(write_frame, partial, plan)
      for _ in ordered_map(write_one, todo, processes=min(processes, len(todo))):
        bar.update()
    (partial / ".lock").unlink()
    partial.rename(root)
  return root


def _check(plan, processes):
  if min(plan.height, plan.width) < MIN_SIZE:
    raise UserError(
      f"Size {plan.width}x{plan.height} is too small; give at least {MIN_SIZE}x{MIN_SIZE} pixels."
    )
  if min(plan.frames.values()) < 0 or not sum(plan.frames.values()):
    raise UserError(f"Frames {dict(plan.frames)}: give at least one, and none negative.")
  if plan.seed < 0 or processes < 0:
    raise UserError(f"seed {plan.seed} and processes {processes} must not be negative.")


def _same_parameters(folder, plan, remedy):
  try:
    found = json.loads((folder / PARAMETERS).read_text())
  except (OSError, ValueError):
    raise UserError(
      f"{folder} exists and is not a street world (it has no readable {PARAMETERS}): for files of "
      "your own set data.street_world.enabled=False, or choose another folder"
    ) from None
  expected = plan.parameters()
  for key in expected:
    if found.get(key) != expected[key]:
      values = "" if key == "domain" else f" ({found.get(key)}, not {expected[key]})"
      raise UserError(f"{folder} was written with another {key}{values}. {remedy}")


def _put(path, data):
  with atomic_write(path, durable=False) as partial:
    partial.write_bytes(data)


def write_frame(partial: pathlib.Path, plan: formats.Plan, frame: tuple[str, int]) -> None:
  """Renders one labelled frame, (split, index), and writes those of its files that are missing."""
  missing = _missing(partial, plan, *frame)
  for name, make in missing.items():
    _put(partial / name, make())


def _missing(partial, plan, split, index) -> formats.Files:
  files = formats.FILES[plan.layout](formats.Views(plan, split, index))
  return {name: make for name, make in files.items() if not (partial / name).exists()}
