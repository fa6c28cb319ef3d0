"""Predicts images of any size: an image, a folder of them, or a video."""

import collections
import concurrent.futures
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax import labels
from corda_jax.adaptation.evaluate import network_variables
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.console import progress_bar
from corda_jax.depth.encodings import to_disparity
from corda_jax.errors import UserError
from corda_jax.images import Picture
from corda_jax.inference import media as files
from corda_jax.inference.settings import KINDS
from corda_jax.inference.views import class_map, depth_maps, make_views
from corda_jax.inference.windows import predict_tiled
from corda_jax.locks import only_writer
from corda_jax.models.layers import accumulation_dtype
from corda_jax.models.operations import at_matmul_precision
from corda_jax.training.journal import Journal
from corda_jax.training.restore import restore_state
from corda_jax.training.run_files import write_json
from corda_jax.training.sharding import BATCH_AXIS, batch_sharded, put_batch, replicated
from corda_jax.training.state import TrainState
from corda_jax.visualize import colorize_inverse_depth, colormap_palette

_THREADS = 4  # that read images, and that write maps: compressing takes longer than predicting

_OF_DEPTH = KINDS[2:]

_MOST_PIXELS = 100_000_000  # of an image as it is predicted; all views and scores of it come on top


class Predictor:
  """Maps of images by the network of a state; compiles once for each size of images.

  Args:
    task: network, mesh and configuration; `evaluation` tells which network, whether it sees
      mirrored images, and at which scales, `prediction` how large images are tiled.
    state: of a checkpoint.
  """

  def __init__(self, task: AdaptationTask, state: TrainState):
    """Prepares the compiled functions."""
    self._mesh, self._config = task.mesh, task.config
    self._stride = task.stride
    self.variables = network_variables(state, self._config.evaluation.network)
    model, normalization = task.model, task.normalization
    wide = accumulation_dtype(jnp.dtype(self._config.model.param_dtype))

    def compiled(function, **options):
      function = at_matmul_precision(function, self._config.compute.matmul_precision)
      return jax.jit(function, **options)

    def predict(variables, x):
      outputs = model.apply(variables, x, train=False)
      names = {"S", "D", "D_src"} & outputs.keys()
      return {name: outputs[name].astype(wide) for name in names}

    def finish(views, outputs, size):
      finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves((views, outputs))]).all()
      return {"label": class_map(views, size), "finite": finite} | depth_maps(outputs, size)

    split = batch_sharded(self._mesh)
    self._normalize = compiled(lambda images: normalization.normalize(images, wide))
    self._predict = compiled(predict, in_shardings=(None, split), out_shardings=split)
    self._finish = compiled(finish, static_argnames="size", out_shardings=replicated(self._mesh))

  @property
  def batch_size(self) -> int:
    """Images that are predicted together: `prediction.batch_size`, rounded up to the devices."""
    devices = self._mesh.shape[BATCH_AXIS]
    return -(-self._config.prediction.batch_size // devices) * devices

  def __call__(self, images: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Predicts images of one size.

    Args:
      images: uint8 RGB [B, h, w, 3] at the size that the network is to see; at most `batch_size`.
      size: (H, W) of the maps, in pixels.

    Returns:
      "label" uint8 [B, H, W], training ids; with depth heads "inverse_depth" [B, H, W] and
      "difficulty" [B, H, W], 0..1.

    Raises:
      UserError: the network predicts numbers that are not finite.
    """
    count, evaluation = len(images), self._config.evaluation
    filled = np.concatenate([images, np.repeat(images[-1:], self.batch_size - count, 0)])
    x = self._normalize(put_batch(self._mesh, {"image": filled})["image"])
    tiles = self._config.prediction
    tile = (tiles.tile_height or math.inf, tiles.tile_width or math.inf)

    def predict(x):
      return predict_tiled(
        lambda tile: self._predict(self.variables, tile),
        x,
        tile=tile,
        margin=tiles.tile_margin,
        stride=self._stride,
      )

    outputs = {}

    def logits(view):
      found = predict(view)
      if view is x:  # depth is that of the image as it is
        outputs.update({name: value for name, value in found.items() if name != "S"})
      return found["S"]

    views = make_views(logits, x, scales=tuple(evaluation.scales), flip=evaluation.flip)
    if not outputs:
      outputs = {name: value for name, value in predict(x).items() if name != "S"}
    maps = jax.device_get(self._finish(views, outputs, size=size))
    if not maps.pop("finite"):
      raise UserError(
        "the network predicts numbers that are not finite: its training went astray; name another "
        "checkpoint by evaluation.checkpoint, or train anew"
      )
    return {name: value[:count] for name, value in maps.items()}

  def fingerprint(self) -> str:
    """SHA-256 of the network's parameters and statistics, by which predictions know it again."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
      digest.update(jax.tree_util.keystr(path).encode())
      digest.update(np.ascontiguousarray(leaf).view(np.uint8))
    return digest.hexdigest()


def predict(task: AdaptationTask, workdir: Path) -> Path:
  """Predicts `prediction.input` by a checkpoint of the run in `workdir`.

  Writes maps beside each other, and `results.json`. Stopped and started again it goes on where it
  was, unless the network, the settings or an image have changed.

  Args:
    task: network, mesh and configuration.
    workdir: folder of the run.

  Returns:
    The folder of the output.

  Raises:
    UserError: there is nothing to predict, or an image cannot be read and `prediction.bad_files`
      is "stop".
  """
  config = task.config.prediction
  if not config.input:
    raise UserError(
      "prediction.input is '', wanted an image, a folder of images or a video: set "
      "--config.prediction.input=PATH"
    )
  path = Path(config.input)
  name = path.resolve().name if path.is_dir() else path.resolve().stem
  folder = Path(config.output) if config.output else workdir / "predictions" / name
  images = [] if files.is_video(path) else files.find_images(path, folder)
  table = files.label_ids(task.classes.names, labels.CITYSCAPES_IDS, config.label_ids)
  video = None if images else files.Video(path)
  files.check_output(folder, path)
  state = restore_state(task, workdir)  # before a folder is made: there may be no run
  with only_writer(folder / ".lock", otherwise="set prediction.output to another folder"):
    files.check_output(folder, path)  # again: another process may have written there meanwhile
    run = _Prediction(task, state, folder, table)
    if video is None:
      run.images(images)
    else:
      run.video(path, video)
    run.tell()
  return folder


class _Prediction:
  """One run of `predict`, into one folder."""

  def __init__(self, task, state, folder, table):
    self._config = config = task.config.prediction
    self._height = config.height or task.config.data.target.height
    self._predictor = Predictor(task, state)
    self._step, self._folder = int(state.step), folder
    self._network = task.config.evaluation.network
    self._classes, self._table = task.classes, table
    self._kinds = [k for k in config.write if task.has_depth_heads or k not in _OF_DEPTH]
    if left := [k for k in config.write if k not in self._kinds]:
      print(f"note: this network has no depth heads, so there is no {' and no '.join(left)}")
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
        "colors": [list(color) for color in task.classes.colors],
      },
    )
    self._entries: list[dict[str, Any]] = []
    self._failed: list[str] = []

  def images(self, images: list[files.ImageFile]) -> None:
    """Predicts all that were not before."""
    stamps = {image.path: _stamp(image.path) for image in images}
    missing = []
    for image in images:
      entry = None if image.fault else self._known(image.name, stamps[image.path])
      if entry is None:
        missing.append(image)
      else:
        self._entries.append(entry)
    missing.sort(key=lambda image: not image.fault)  # what is known to be bad is reported at once
    if self._entries:
      print(f"{len(self._entries)} of {len(images)} images are predicted already.")

    def write(key, pixels, maps):
      image, note = key
      entry = self._write(image.name, pixels, maps, self._kinds)
      entry |= {"file": str(image.path), "stamp": stamps[image.path]}
      return entry | {"note": note} if note else entry

    with (
      _bar(len(images), len(self._entries), "image") as bar,
      concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
    ):
      read = self._readable(_in_order(pool, self._read, missing), bar)
      for entry in self._predicted(read, write, pool):
        self._journal.add(entry)
        self._entries.append(entry)
        bar.update()

  def _read(self, image: files.ImageFile) -> Picture:
    """Reads an image that can be predicted; raises BadImageError for another."""
    picture = image.read()
    height, width = files.resized_shape(picture.rgb, self._rows(picture.rgb))
    if height * width > _MOST_PIXELS:
      shape = "x".join(map(str, picture.rgb.shape[1::-1]))
      raise files.BadImageError(
        f"{image.path} is {shape}, which would be predicted at {width}x{height}: cut it into pieces"
      )
    return picture

  def _readable(self, images, bar):
    """((image, note), pixels) of each that can be read; another is reported, or ends the run."""
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
    """The entry of an image that was predicted before and whose maps exist, or None."""
    entry = self._journal.get(name, stamp)
    whole = entry and all((self._folder / file).is_file() for file in entry["files"])
    return entry if whole else None

  def video(self, path: Path, video: files.Video) -> None:
    """Predicts the frames that were not before, and writes the video of all overlays."""
    writer = None
    if "overlay" in self._kinds:
      writer = files.VideoWriter(self._folder / f"{path.stem}_overlay.mp4", video.rate)
    try:
      self._frames(path, video, writer)
      if writer is not None:
        writer.close()
    finally:
      if writer is not None:
        writer.abandon()

  def _frames(self, path: Path, video: files.Video, writer: files.VideoWriter | None) -> None:
    stamp, palette = _stamp(path), self._classes.palette()
    kinds = [kind for kind in self._kinds if kind != "overlay"]

    broken: list[str] = []

    def names():
      try:
        for number, pixels in enumerate(video.read()):
          yield f"{path.stem}/{number:06d}", pixels
      except files.BadImageError as error:  # those before it are good
        broken.append(str(error))

    def write(name, pixels, maps):
      entry = self._write(name, pixels, maps, kinds)
      return entry | {"file": str(path), "stamp": stamp}, self._overlay(pixels, maps["label"])

    def known(name):
      return self._known(name, stamp) if "label" in kinds or writer is None else None

    def overlay_of_known(entry, pixels):
      if writer is None:
        return entry, None
      label = files.read_png(self._folder / f"{entry['name']}_label.png")
      by_id = np.zeros((256, 3), np.uint8)
      by_id[self._table] = palette[: len(self._table)]
      return entry, files.overlay(pixels, label, by_id, self._config.overlay_opacity)

    with (
      _bar(video.frames or None, 0, "frame") as bar,
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
        f"{broken[0]}: the maps of {len(self._entries)} frames before are written; to have the "
        "video of them, too, set --config.prediction.bad_files=skip"
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
    """What `write` makes of each image and its maps, in order, while the next are predicted."""
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

  def _overlay(self, image, label):
    opacity = self._config.overlay_opacity
    return files.overlay(image, label, self._classes.palette(), opacity)

  def _write(self, name, image, maps, kinds) -> dict[str, Any]:
    """Writes the maps of one image; what `results.json` tells of it."""
    palette = colormap_palette("viridis")
    made = {
      "overlay": lambda: (self._overlay(image, maps["label"]), None),
      "label": lambda: (self._table[maps["label"]], None),
      "inverse_depth": lambda: (to_disparity(maps["inverse_depth"]), None),
      "inverse_depth_color": lambda: (colorize_inverse_depth(maps["inverse_depth"]), None),
      "difficulty": lambda: (np.rint(255 * maps["difficulty"]).astype(np.uint8), palette),
    }
    written = []
    for kind in kinds:
      written.append(f"{name}_{kind}.png")
      files.write_png(self._folder / written[-1], *made[kind]())
    counts = np.bincount(maps["label"].ravel(), minlength=len(self._classes))
    shares = (counts / maps["label"].size).tolist()
    return {
      "name": name,
      "size": list(image.shape[:2]),
      "input_size": list(files.resized(image, self._rows(image), "nearest").shape[:2]),
      "shares": dict(zip(self._classes.names, shares, strict=True)),
      "files": written,
    }

  def tell(self) -> None:
    """Writes `results.json`, and says what lies where."""
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
    print(f"Predictions: {self._folder} ({images}, by the {self._network} of step {self._step})")


def _bar(total, initial, unit):
  return progress_bar(total=total, initial=initial, desc="predict", unit=unit)


def _stamp(path: Path) -> list[int]:
  """By which a file is known to be the same; that it cannot be read is noticed later."""
  try:
    status = path.stat()
  except OSError:
    return []
  return [status.st_size, status.st_mtime_ns]


def _in_order(pool, function, values):
  """Pairs of each value and the future of its result, a few of them begun ahead."""
  begun: collections.deque = collections.deque()
  for value in values:
    begun.append((value, pool.submit(function, value)))
    if len(begun) > _THREADS:
      yield begun.popleft()
  yield from begun
