"""Reads and writes the videos of `--mode=predict`. PyAV is imported where it is used."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from corda_jax.atomic_io import replace_durably
from corda_jax.errors import UserError
from corda_jax.inference.media import BadImageError


class Video:
  """A video file that is read frame by frame.

  Args:
    path: path of the file.

  Raises:
    UserError: it cannot be opened, or PyAV is not installed.
  """

  def __init__(self, path: Path):
    """Opens the file and reads its header."""
    self._path, self._av = path, _import_av()
    with self._open() as container:
      stream = container.streams.video[0]
      self.rate = stream.average_rate or stream.guessed_rate or 25
      self.frames = stream.frames  # 0 if the file does not store it

  def _open(self) -> Any:
    try:
      container = self._av.open(os.fspath(self._path))
      if not container.streams.video:
        container.close()
        raise UserError(f"{self._path} has no video stream: name a video")
      return container
    except (self._av.FFmpegError, OSError, ValueError) as error:
      raise UserError(f"{self._path} cannot be read as a video ({error})") from error

  def read(self) -> Iterator[np.ndarray]:
    """Yields the frames in order, uint8 RGB [H, W, 3], rotated upright by the metadata.

    Raises:
      BadImageError: a frame cannot be decoded; the frames before it were yielded.
    """
    with self._open() as container:
      try:
        for frame in container.decode(video=0):
          # Phones store frames sideways, with the rotation as metadata.
          yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
      except self._av.FFmpegError as error:
        raise BadImageError(f"{self._path} cannot be read to the end ({error})") from error


class VideoWriter:
  """Writes an H.264 video atomically: the file appears when it is closed.

  Args:
    path: path of the file.
    rate: frames per second.
  """

  def __init__(self, path: Path, rate: Any):
    """Opens no file yet: the first frame sets the size."""
    self._path, self._rate, self._container = path, rate, None
    self._partial = path.with_name(path.name + ".partial")

  def write(self, frame: np.ndarray) -> None:
    """Adds a frame, uint8 RGB [H, W, 3]; the last row or column of an odd size is dropped."""
    av = _import_av()
    height, width = (size // 2 * 2 for size in frame.shape[:2])
    if self._container is None:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._container = av.open(os.fspath(self._partial), "w", format="mp4")
      self._stream = self._container.add_stream("libx264", rate=self._rate)
      self._stream.width, self._stream.height = width, height
      self._stream.pix_fmt = "yuv420p"  # supported by every player
    picture = av.VideoFrame.from_ndarray(
      np.ascontiguousarray(frame[:height, :width]), format="rgb24"
    )
    for packet in self._stream.encode(picture):
      self._container.mux(packet)

  def close(self) -> None:
    """Finishes the file and renames it to its path."""
    if self._container is None:
      return
    for packet in self._stream.encode():
      self._container.mux(packet)
    self._container.close()
    self._container = None
    replace_durably(self._partial, self._path)

  def abandon(self) -> None:
    """Deletes a file that was not closed."""
    if self._container is not None:
      self._container.close()
      self._container = None
    self._partial.unlink(missing_ok=True)


def _import_av() -> Any:
  try:
    import av
  except ImportError as error:
    raise UserError(
      "reading videos requires PyAV, which is not installed: pip install 'corda_jax[video]'"
    ) from error
  return av
