"""Frames for `benchmarks.speed.input_pipeline`, in the data sets' layouts and at their sizes."""

import dataclasses
from pathlib import Path
from typing import Any

from data_pipelines.archives import DataFiles
from data_pipelines.datasets.builders import BUILDERS
from data_pipelines.datasets.frame_config import FrameConfig
from data_pipelines.frames import Frame
from data_pipelines.street_world.write import write_cityscapes, write_gta5, write_synthia


@dataclasses.dataclass(frozen=True)
class Kind:
  """A data set with one of its kinds of depth.

  Attributes:
    dataset: name of the data set.
    depth: kind of depth.
    files: height and width of the files.
    size: height and width of the records.
  """

  dataset: str
  depth: str
  files: tuple[int, int]
  size: tuple[int, int]

  @property
  def is_source(self) -> bool:
    """Whether it is synthetic."""
    return self.dataset != "cityscapes"


KINDS = {
  "gta5": Kind("gta5", "disparity", (1052, 1914), (720, 1280)),
  "synthia": Kind("synthia", "simulator", (760, 1280), (720, 1280)),
  "cityscapes_stereo": Kind("cityscapes", "stereo", (1024, 2048), (512, 1024)),
  "cityscapes_mono": Kind("cityscapes", "mono", (1024, 2048), (512, 1024)),
}


def find_frames(kind: Kind, root: str) -> dict[str, list[Frame]]:
  """Split → frames of a data set of some kind."""
  height, width = kind.size
  config = FrameConfig(root=root, height=height, width=width, depth=kind.depth)
  return BUILDERS[kind.dataset].find_frames(DataFiles(root), config).splits


def make_frames(kind: Kind, workdir: Path, rendered: int, frames: int) -> Path:
  """Renders and repeats the frames that are missing.

  Args:
    kind: kind of the frames.
    workdir: folder for the frames.
    rendered: number of different frames.
    frames: number of frames, including links.

  Returns:
    Root of a data set of `frames` training frames.
  """
  height, width = kind.files
  shape: dict[str, Any] = {"seed": 0, "height": height, "width": width}
  folder = workdir / f"{kind.dataset}_{rendered}"
  if kind.dataset == "cityscapes":
    counts = {"train_frames": rendered, "validation_frames": 0, "neighbours": 0}
    original = write_cityscapes(folder, **counts, **shape)
  else:
    write = {"gta5": write_gta5, "synthia": write_synthia}[kind.dataset]
    original = write(folder, frames=rendered, **shape)
  root = workdir / f"{kind.dataset}_{rendered}_{frames}"
  for found in find_frames(kind, str(original)).values():
    for number in range(frames):
      frame = found[number % len(found)]
      for path in map(Path, frame.files()):
        name = path.name.replace(frame.name, f"repeated_{number:06d}_000019")
        link = root / path.parent.relative_to(original) / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
          link.symlink_to(path.absolute())
  return root
