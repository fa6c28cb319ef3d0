"""Patterns of paths, such as `train/images/{name}.png` or `{clip}/image_2/{frame}.png`."""

import dataclasses
import re

from data_pipelines.archives import DataFiles

NAME = "{name}"  # the name of a frame, including folders in between
CLIP, FRAME = "{clip}", "{frame}"  # a name is CLIP/FRAME
_PLACEHOLDER = re.compile(r"\{(?:name|clip|frame)\}")


@dataclasses.dataclass(frozen=True)
class Pattern:
  """Where files of one kind are, below the root of a data set.

  Attributes:
    text: a path with `{name}`, or with `{clip}` and then `{frame}`. A file that frames
      share has a path with `{clip}` alone, or without placeholders.
  """

  text: str

  @property
  def placeholders(self) -> tuple[str, ...]:
    """The placeholders, in order."""
    return tuple(_PLACEHOLDER.findall(self.text))

  def is_valid(self, *, shared: bool = False) -> bool:
    """Whether every frame has its own path; if `shared`, a clip or the data set may have one."""
    valid = [(NAME,), (CLIP, FRAME)] + [(CLIP,), ()] * shared
    return self.placeholders in valid

  def path(self, name: str) -> str:
    """Path of the file of a frame, below the root."""
    clip, _, frame = name.rpartition("/")
    return self.text.replace(NAME, name).replace(CLIP, clip).replace(FRAME, frame)

  def find(self, files: DataFiles) -> dict[str, str]:
    """Maps the part of the path that the placeholders match to the file's location.

    Raises:
      UserError: a folder may not be read.
    """
    if not self.placeholders:
      return {"": files.locate(self.text)}
    prefix, *between, suffix = _PLACEHOLDER.split(self.text)
    found = files.find(prefix, suffix)
    if not between:
      return found
    middle = re.compile(f"(.+){re.escape(between[0])}([^/]+)")
    matches = {location: middle.fullmatch(text) for text, location in found.items()}
    return {f"{m[1]}/{m[2]}": location for location, m in matches.items() if m}
