"""The frames of one record file, and the examples that are made of them."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from corda_jax.errors import UserError
from data_pipelines.frames import Frame
from data_pipelines.preprocess import PreparedFrame, Recipe, prepare_item
from data_pipelines.readers import BadFrameError
from data_pipelines.report import Part


@dataclasses.dataclass(frozen=True)
class Shard:
  """Frames of one record file, and where the part of the report about them is written."""

  split: str
  frames: Sequence[Frame]
  recipe: Recipe
  features: Sequence[str]
  stop: Callable[[Mapping[str, str]], None] | None
  part: str


def stop_at(dataset: str, bad: Mapping[str, str]) -> None:
  """Raises the error of a frame that cannot be used.

  Args:
    dataset: name of the data set.
    bad: "split", "file" and "reason".

  Raises:
    UserError: always.
  """
  raise UserError(
    f"bad frame in {dataset} {bad['split']}: {bad['file']}: {bad['reason']}; fix it, or leave such "
    'frames out with data.bad_frames="skip"'
  )


def generate(
  shard: Shard, results: Iterator[PreparedFrame | BadFrameError] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields key and example of each usable frame of a shard; writes its part of the report."""
  part = Part(shard.split)
  if results is None:
    results = map(prepare_item, ((frame, shard.recipe) for frame in shard.frames))
  for frame, result in zip(shard.frames, results, strict=False):  # `results` may hold more
    if isinstance(result, BadFrameError):
      part.leave_out(result)
      if shard.stop:
        shard.stop(part.bad[-1])
    else:
      part.keep(frame, result)
      contents = {"name": frame.name, **result.contents}
      # The camera may have been read only for depth.
      yield frame.name, {key: contents[key] for key in shard.features}
  Path(shard.part).write_text(json.dumps(dataclasses.asdict(part)))
