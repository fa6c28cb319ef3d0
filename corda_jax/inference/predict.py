"""Predicts images of any size: one image, a folder of images, or a video."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from corda_jax import labels
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.console import progress_bar
from corda_jax.depth.encodings import MANIFEST
from corda_jax.errors import UserError
from corda_jax.images import Picture
from corda_jax.inference import media as files
from corda_jax.inference.depth_input import depth_files_folder, depth_names
from corda_jax.inference.maps import MapWriter
from corda_jax.inference.predictor import Predictor
from corda_jax.inference.video import Video, VideoWriter
from corda_jax.locks import only_writer
from corda_jax.models.depth_guided import sees_depth
from corda_jax.training.journal import Journal
from corda_jax.training.restore import restore_state
from corda_jax.training.run_files import read_json, write_json

_THREADS = 4  # for reading images and writing maps: compressing takes longer than predicting
_MOST_PIXELS = 100_000_000  # of an image as predicted, without the memory of views and scores


def predict(task: AdaptationTask, workdir: Path) -> Path:
  """Predicts `prediction.input` with a checkpoint of the run in `workdir`.

  Writes maps and `results.json` into one folder. A stopped job resumes when started again; if the
  network or the settings have changed, it starts from scratch, and changed images are repeated.

  Args:
    task: network, mesh and configuration.
    workdir: folder of the run.

  Returns:
    The output folder.

  Raises:
    UserError: there is nothing to predict, or an image cannot be read and `prediction.bad_files`
      is "stop".
  """
  config = task.config.prediction
  if not config.input:
    raise UserError(
      "prediction.input is '', expected an image, a folder of images or a video: set "
      "--config.prediction.input=PATH"
    )
  path = Path(config.input)
  name = path.resolve().name if path.is_dir() else path.resolve().stem
  folder = Path(config.output) if config.output else workdir / "predictions" / name
  images = [] if files.is_video(path) else files.find_images(path, folder)
  table = files.label_ids(task.classes.names, labels.CITYSCAPES_IDS, config.label_ids)
  video = None if images else Video(path)
  files.check_output(folder, path)
  state = restore_state(task, workdir)  # before a folder is created: there may be no run
  with only_writer(folder / ".lock", otherwise="set prediction.output to another folder"):
    files.check_output(folder, path)  # again: another process may have written there
    run = _Prediction(task, state, folder, table)
    if video is None:
      run.images(images)
    else:
      run.video(path, video)
    run.report()
  return folder


class _Prediction:
  """One call of `predict` with one output folder."""

  def __init__(self, task, state, folder, table):
    self._config = config = task.config.prediction
    self._height = config.height or task.config.data.target.height
    self._predictor = Predictor(task, state)
    self._step, self._folder = int(state.step), folder
    self._network = task.config.evaluation.network
    self._classes, self._table = task.classes, table
    self._writer = MapWriter(folder, task.classes, table, config.overlay_opacity)
    maps = ("overlay", "label", *depth_names(task.model))
    self._kinds = [kind for kind in config.write if kind.removesuffix("_color") in maps]
    if left := [k for k in config.write if k not in self._kinds]:
      print(f"note: this network has no depth heads, so {' and '.join(left)} cannot be written")
    evaluation = task.config.evaluation
    self._journal = Journal(
      folder / files.JOURNAL,
      {
        "network": self._predictor.fingerprint(),
        "input": str(Path(config.input).resolve()),
        "settings": {
          name: config[name]
          for name in config
          if name not in ("input", "output", "batch_size", "bad_files")
        },
        "height": self._height,
        "flip": evaluation.flip,
        "scales": list(evaluation.scales),
        "resize_via_input": evaluation.resize_via_input,
        "windows": [list(evaluation.window), list(evaluation.window_stride)],
        "depth": sees_depth(task.model) and read_json(Path(depth_files_folder(task)) / MANIFEST),
        "colors": [list(color) for color in task.classes.colors],
      },
    )
    self._entries: list[dict[str, Any]] = []
    self._failed: list[str] = []

  def images(self, images: list[files.ImageFile]) -> None:
    """Predicts the images that are not predicted yet."""
    stamps = {image.path: files.stamp(image.path) for image in images}
    missing = []
    for image in images:
      entry = None if image.fault else self._known(image.name, stamps[image.path])
      if entry is None:
        missing.append(image)
      else:
        self._entries.append(entry)
    missing.sort(key=lambda image: not image.fault)  # known bad files are reported first
    if self._entries:
      print(f"{len(self._entries)} of {len(images)} images are already predicted.")

    def write(key, pixels, maps):
      image, note = key
      entry = self._write(image.name, pixels, maps, self._kinds)
      entry |= {"file": str(image.path), "stamp": stamps[image.path]}
      return entry | {"note": note} if note else entry

    with (
      progress_bar(
        total=len(images), initial=len(self._entries), desc="predict", unit="image"
      ) as bar,
      concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
    ):
      read = self._readable(files.in_order(pool, self._read, missing), bar)
      for entry in self._predicted(read, write, pool):
        self._journal.add(entry)
        self._entries.append(entry)
        bar.update()

  def _read(self, image: files.ImageFile) -> Picture:
    """Reads an image; raises BadImageError if it cannot be predicted."""
    picture = image.read()
    height, width = files.resized_shape(picture.rgb, self._rows(picture.rgb))
    if height * width > _MOST_PIXELS:
      shape = "x".join(map(str, picture.rgb.shape[1::-1]))
      raise files.BadImageError(
        f"{image.path} is {shape}, which would be predicted at {width}x{height}: cut it into pieces"
      )
    return picture

  def _readable(self, images, bar):
    """Yields ((image, note), pixels) of readable images; reports the others, or stops."""
    for image, found in images:
      try:
        picture = found.result()
      except files.BadImageError as error:
        if self._config.bad_files == "stop":
          raise UserError(
            f"{error}; fix or remove it, or set --config.prediction.bad_files=skip"
          ) from error
        self._failed.append(str(error))
        bar.write(f"skipped: {error}")
        bar.update()
        continue
      if picture.note:
        bar.write(f"note: {image.path}: {picture.note}")
      yield (image, picture.note), picture.rgb

  def _known(self, name: str, stamp: list[int]) -> dict[str, Any] | None:
    """The entry of an image that is already predicted and whose maps exist, or None."""
    entry = self._journal.get(name, stamp)
    whole = entry and all((self._folder / file).is_file() for file in entry["files"])
    return entry if whole else None

  def video(self, path: Path, video: Video) -> None:
    """Predicts the frames that are not predicted yet, and writes the video of all overlays."""
    writer = None
    if "overlay" in self._kinds:
      writer = VideoWriter(self._folder / f"{path.stem}_overlay.mp4", video.rate)
    try:
      self._frames(path, video, writer)
      if writer is not None:
        writer.close()
    finally:
      if writer is not None:
        writer.abandon()

  def _frames(self, path: Path, video: Video, writer: VideoWriter | None) -> None:
    stamp = files.stamp(path)
    kinds, broken = [kind for kind in self._kinds if kind != "overlay"], []

    def names():
      try:
        for number, pixels in enumerate(video.read()):
          yield f"{path.stem}/{number:06d}", pixels
      except files.BadImageError as error:  # the frames before it are good
        broken.append(str(error))

    def write(name, pixels, maps):
      entry = self._write(name, pixels, maps, kinds)
      return entry | {"file": str(path), "stamp": stamp}, self._writer.overlay(
        pixels, maps["label"]
      )

    def known(name):
      return self._known(name, stamp) if "label" in kinds or writer is None else None

    def overlay_of_known(entry, pixels):
      if writer is None:
        return entry, None
      return entry, self._writer.overlay_of_file(pixels, entry["name"])

    with (
      progress_bar(total=video.frames or None, desc="predict", unit="frame") as bar,
      concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
    ):
      for entry, picture in self._predicted(
        names(), write, pool, known=known, use_known=overlay_of_known
      ):
        if self._journal.get(entry["name"], stamp) is not entry:
          self._journal.add(entry)
        self._entries.append(entry)
        if writer is not None:
          writer.write(picture)
        bar.update()
    self._failed += broken
    if broken and self._config.bad_files == "stop":
      raise UserError(
        f"{broken[0]}: the maps of the {len(self._entries)} frames before it are written; to write "
        "their video, too, set --config.prediction.bad_files=skip"
      )

  def _predicted(
    self,
    images: Iterable[tuple[Any, np.ndarray]],
    write: Callable[..., Any],
    pool: concurrent.futures.Executor,
    *,
    known: Callable[[Any], Any] = lambda image: None,
    use_known: Callable[..., Any] | None = None,
  ) -> Iterator[Any]:
    """Yields the results of `write` for each image, in order, while the next are predicted."""
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    group: list[tuple[Any, np.ndarray]] = []

    def predict_group():
      pixels = [image for _, image in group]
      seen = np.stack([files.resized(x, self._rows(x), self._config.image_filter) for x in pixels])
      maps = self._predictor(seen, pixels[0].shape[:2])
      for number, (image, original) in enumerate(group):
        own = {name: value[number] for name, value in maps.items()}
        waiting.append(pool.submit(write, image, original, own))
      group.clear()

    for image, pixels in images:
      entry = known(image)
      full = len(group) == self._predictor.batch_size
      if group and (full or entry is not None or pixels.shape != group[0][1].shape):
        predict_group()
      if entry is None:
        group.append((image, pixels))
      else:
        waiting.append(pool.submit(use_known, entry, pixels))
      while len(waiting) > 2 * _THREADS:
        yield waiting.popleft().result()
    if group:
      predict_group()
    while waiting:
      yield waiting.popleft().result()

  def _rows(self, image: np.ndarray) -> int:
    return image.shape[0] if self._height < 0 else self._height

  def _write(self, name, image, maps, kinds) -> dict[str, Any]:
    """Writes the maps of one image and returns its entry in `results.json`."""
    seen = files.resized(image, self._rows(image), "nearest").shape[:2]
    return self._writer.write(name, image, maps, kinds) | {"input_size": list(seen)}

  def report(self) -> None:
    """Writes `results.json` and prints the paths of the output."""
    entries = sorted(self._entries, key=lambda entry: entry["name"])
    values = dict(zip(self._classes.names, self._table.tolist(), strict=True))
    colors = dict(zip(self._classes.names, self._classes.colors, strict=True))
    result = {
      "step": self._step,
      "network": self._network,
      "label_values": values,
      "colors": colors,
      "images": [{k: v for k, v in entry.items() if k != "stamp"} for entry in entries],
      "failed": self._failed,
    }
    write_json(self._folder / files.RESULTS, result)
    if self._failed and not entries:
      raise UserError(f"none of {len(self._failed)} images can be predicted: {self._failed[0]}")
    if self._failed:
      print(f"{len(self._failed)} could not be predicted: see {self._folder / 'results.json'}")
    if len(entries) == 1:
      for file in entries[0]["files"]:
        print(self._folder / file)
    images = "1 image" if len(entries) == 1 else f"{len(entries)} images"
    print(f"Predictions: {self._folder} ({images}, {self._network} of step {self._step})")
