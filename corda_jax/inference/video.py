"""Videos that `--mode=predict` reads and writes. PyAV is imported where it is used."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from corda_jax.atomic_io import replace_durably
from corda_jax.errors import UserError
from corda_jax.inference.media import BadImageError


class Video:
  """A video file, read frame by frame.

  Args:
    path: of the file.

  Raises:
    UserError: it cannot be opened, or PyAV is not installed.
  """

  def __init__(self, path: Path):
    """Opens the file and reads its header."""
    self._path, self._av = path, _import_av()
    with self._open() as container:
      stream = container.streams.video[0]
      self.rate = stream.average_rate or stream.guessed_rate or 25
      self.frames = stream.frames  # 0 where the file does not say

  def _open(self) -> Any:
    try:
      container = self._av.open(os.fspath(self._path))
      if not container.streams.video:
        container.close()
        raise UserError(f"{self._path} has no pictures: name a video")
      return container
    except (self._av.FFmpegError, OSError, ValueError) as error:
      raise UserError(f"{self._path} cannot be read as a video ({error})") from error

  def read(self) -> Iterator[np.ndarray]:
    """Yields the frames in order, uint8 RGB [H, W, 3], upright as the file says.

    Raises:
      BadImageError: a frame cannot be decoded; those before it were yielded.
    """
    with self._open() as container:
      try:
        for frame in container.decode(video=0):
          # Phones lay frames on their side and say by how much to turn them.
          yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
      except self._av.FFmpegError as error:
        raise BadImageError(f"{self._path} cannot be read to its end ({error})") from error


class VideoWriter:
  """Writes an H.264 video, which is there when it is closed, whole or not at all.

  Args:
    path: of the file.
    rate: frames a second.
  """

  def __init__(self, path: Path, rate: Any):
    """Waits for the first frame, which gives the size."""
    self._path, self._rate, self._container = path, rate, None
    self._partial = path.with_name(path.name + ".partial")

  def write(self, frame: np.ndarray) -> None:
    """Adds a frame, uint8 RGB [H, W, 3]; an odd last row or column is left out."""
    av = _import_av()
    height, width = (size // 2 * 2 for size in frame.shape[:2])
    if self._container is None:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._container = av.open(os.fspath(self._partial), "w", format="mp4")
      self._stream = self._container.add_stream("libx264", rate=self._rate)
      self._stream.width, self._stream.height = width, height
      self._stream.pix_fmt = "yuv420p"  # what every player shows
    picture = av.VideoFrame.from_ndarray(
      np.ascontiguousarray(frame[:height, :width]), format="rgb24"
    )
    for packet in self._stream.encode(picture):
      self._container.mux(packet)

  def close(self) -> None:
    """Ends the file and gives it its name."""
    if self._container is None:
      return
    for packet in self._stream.encode():
      self._container.mux(packet)
    self._container.close()
    self._container = None
    replace_durably(self._partial, self._path)

  def abandon(self) -> None:
    """Leaves nothing of a file that was not closed."""
    if self._container is not None:
      self._container.close()
      self._container = None
    self._partial.unlink(missing_ok=True)


def _import_av() -> Any:
  try:
    import av
  except ImportError as error:
    raise UserError(
      "videos are read by PyAV, which is not installed: pip install 'corda_jax[video]'"
    ) from error
  return av
