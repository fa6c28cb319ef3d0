"""--mode=label_depth with Depth Anything: the depth of whole data sets by a foundation model."""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from corda_jax.configuration import check_at_least, check_one_of
from corda_jax.console import progress_bar
from corda_jax.depth.alignment import Affine, fit_affine
from corda_jax.depth.encodings import LARGEST, to_disparity
from corda_jax.depth.inverse_depth import NO_DEPTH, from_metres
from corda_jax.depth.label import only_writer_of, print_hint, write_missing
from corda_jax.errors import UserError
from corda_jax.models.build import build_common, build_network
from corda_jax.models.depth_anything import DepthAnything, input_size
from corda_jax.models.normalization import Normalization
from corda_jax.models.operations import at_matmul_precision
from corda_jax.pretrained.depth_anything_weights import licence, read_depth_anything
from corda_jax.resize import resize_aligned, resize_cubic
from corda_jax.training.processes import first_process_first
from corda_jax.training.sharding import batch_sharded, make_mesh, put_batch, replicated
from corda_jax.training.task import Need, build_sections

_LARGEST_QUANTILE = 0.999  # of relative inverse depth, which "raw" files hold as 65535
_FIT_PIXELS = 4_000  # of each frame that an affine map is fitted to
_LEAST_FIT_PIXELS = 100  # known pixels required for a per-frame fit
_MOST_WAITING = 32  # frames that wait for others of their size


@dataclasses.dataclass(frozen=True)
class LabelDepthAnything:
  """What --mode=label_depth writes, with Depth Anything.

  Attributes:
    folder: where the files go; "": the data set's own folder.
    splits: splits of the data set.
    encoding: what a file holds of a relative network. "aligned": inverse depth Y, to which an
      affine map is fitted by the metric depth of `data.target.depth`; "raw": relative inverse
      depth, 65535 at a high quantile of the data set. "metric": Y of a metric network.
    fit: "dataset", one affine map for all frames, or "frame", one for each that has known depth.
    fit_frames: number of frames of the first split, spread over it, used to fit the map or the
      quantile.
    input_size: least pixels of either side of the network's input. Released: 518.
    batch_size: frames that are predicted at once, a multiple of a process's devices.
  """

  folder: str = ""
  splits: tuple[str, ...] = ("train", "validation")
  encoding: str = "aligned"
  fit: str = "dataset"
  fit_frames: int = 64
  input_size: int = 518
  batch_size: int = 4

  def __post_init__(self):
    check_one_of(self, encoding=("aligned", "raw", "metric"), fit=("dataset", "frame"))
    check_at_least(self, fit_frames=1, input_size=1, batch_size=1)
    if not self.splits:
      raise ValueError("splits is empty, expected names, such as ('train',)")


@dataclasses.dataclass(frozen=True)
class DepthAnythingTask:
  """A network that labels, and is not trained here.

  Attributes:
    config: the whole configuration.
    mesh: devices of this process.
    network: the network.
    normalization: from uint8 images to its input.
    options: what is written.
  """

  config: Any
  mesh: Mesh
  network: DepthAnything
  normalization: Normalization
  options: LabelDepthAnything

  modes: ClassVar = ("label_depth",)
  domains: ClassVar = ("target",)
  of_a_run: ClassVar = False

  @classmethod
  def from_config(cls, config: Any) -> "DepthAnythingTask":
    """Builds everything, and checks what no part can see by itself.

    Raises:
      UserError: a value of the configuration cannot work.
    """
    parts = build_sections(config, ("data", "model", "compute", "label_depth"))
    options, network = parts["label_depth"], build_network(config.model)
    if network.metric != (options.encoding == "metric"):
      kind = "metric" if network.metric else "relative"
      expected = "'metric'" if network.metric else "'aligned' or 'raw'"
      raise UserError(
        f"label_depth.encoding is {options.encoding!r}, but the network is {kind} "
        f"(model.max_depth is {network.max_depth}): set it to {expected}"
      )
    if options.encoding == "aligned" and config.data.target.depth == "none":
      raise UserError(
        "label_depth.encoding is 'aligned', but data.target.depth is 'none': name the kind of "
        "metric depth files that the data set has, or set label_depth.encoding='raw'"
      )
    if not config.initial_weights:
      raise UserError(
        "initial_weights is '', expected a file of Depth Anything V2, such as "
        "depth_anything_v2_vits.pth (docs/depth.md says where they are)"
      )
    mesh = make_mesh(jax.local_devices())
    if options.batch_size % mesh.size:
      raise UserError(
        f"label_depth.batch_size is {options.batch_size}, expected a multiple of the {mesh.size} "
        "devices of a process"
      )
    return cls(config, mesh, network, build_common(config.model).normalization, options)

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of the files."""
    target = self.config.data.target
    return target.height, target.width

  @functools.cached_property
  def predict(self) -> Callable[[Any, jax.Array], jax.Array]:
    """(parameters, uint8 RGB images) → maps [B, H, W] of `size`; compiled for each input size."""

    def predict(params, images):
      return predict_size(
        self.network,
        self.normalization,
        params,
        images,
        smallest=self.options.input_size,
        size=self.size,
      )

    split = batch_sharded(self.mesh)
    return jax.jit(
      at_matmul_precision(predict, self.config.compute.matmul_precision),
      in_shardings=(replicated(self.mesh), split),
      out_shardings=split,
    )

  def meta(self) -> dict[str, Any]:
    """What determines the files' contents, but for the frames and their scale."""
    options, target = self.options, self.config.data.target
    meta = {
      "model": self.config.model.to_dict(),
      "sha256": sha256(Path(self.config.initial_weights)),
      "licence": licence(self.network),
      # Two data sets do not share a scale.
      "dataset": target.dataset,
      "root": target.root,
      "input_size": options.input_size,
      "encoding": options.encoding,
      "size": list(self.size),
      "matmul_precision": self.config.compute.matmul_precision,
    }
    if options.encoding == "aligned":
      known = {"kind": target.depth, "depth_root": target.depth_root}
      meta |= {"fit": options.fit, "aligned_with": known}
    return meta


def predict_size(
  network: DepthAnything,
  normalization: Normalization,
  params: Any,
  images: jax.Array,
  *,
  smallest: int,
  size: tuple[int, int],
) -> jax.Array:
  """Predictions for images, preprocessed as in the release.

  Args:
    network: the network.
    normalization: from uint8 images to its input.
    params: its parameters.
    images: uint8 RGB [B, H, W, 3].
    smallest: least pixels of either side of the network's input.
    size: (H', W') of the result.

  Returns:
    [B, H', W'], in the units of `DepthAnything`.
  """
  x = normalization.normalize(images, jnp.float32)
  x = resize_cubic(x, input_size(x.shape[1:3], smallest, network.encoder.patch))
  return resize_aligned(network.apply({"params": params}, x)[..., None], size)[..., 0]


def file_inverse_depth(values: Any, encoding: str, scale: Mapping[str, float]) -> Any:
  """The inverse depth Y that a file holds of predictions, before it is rounded and clipped.

  Args:
    values: predictions; an array of NumPy or of JAX.
    encoding: as of `LabelDepthAnything`.
    scale: "factor" and "offset" of "aligned", "largest" of "raw".
  """
  if encoding == "metric":
    return from_metres(values)
  if encoding == "raw":
    return values / scale["largest"] * (LARGEST / 256) + 1
  return Affine(**scale)(values)


def sha256(path: Path) -> str:
  """SHA-256 of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def label_depth_anything(task: DepthAnythingTask, feed: Any) -> None:
  """Writes the depth files of a data set; resumes an interrupted job.

  Args:
    task: the network and what is written.
    feed: `data_pipelines.feed.Feed` of the same configuration.

  Raises:
    UserError: weights or images cannot be read, no depth is known to align with, or the files
      cannot be written.
  """
  options, target = task.options, task.config.data.target
  params, text = read_depth_anything(task.config.initial_weights, task.network)
  print(text)
  with first_process_first("find the frames"):  # the street world may have to be rendered
    frames = {s: feed.raw_frames(Need("target", s, ("image",))) for s in options.splits}
  names = {split: found.names for split, found in frames.items()}
  files = feed.depth_files("target", options.folder, task.meta())
  predict = functools.partial(_predicted, task, jax.device_put(params, replicated(task.mesh)))

  def known_depth(split, name):
    depth = frames[split].inverse_depth(name)
    return depth, depth != NO_DEPTH

  with only_writer_of(files):
    files.kept("weights", lambda: Path(task.config.initial_weights).name)
    scale = files.kept("scale", lambda: _scale(task, frames, predict, known_depth))
    if scale:
      print("Scale of the files:", ", ".join(f"{name} {x:.6g}" for name, x in scale.items()))

    def mine(split, left):
      share = sorted(left)[jax.process_index() :: jax.process_count()]
      return predict(frames[split].images(share))

    def encode(split, name, values):
      own = scale
      if options.encoding == "aligned" and options.fit == "frame":
        depth, known = known_depth(split, name)
        if known.sum() >= _LEAST_FIT_PIXELS and np.ptp(values[known]) > 0:
          affine = fit_affine(*_sampled(values, depth, known, np.random.default_rng(0)))
          own = affine._asdict() if affine.factor > 0 else scale
      return to_disparity(file_inverse_depth(values.astype(np.float64), options.encoding, own))

    write_missing(files, names, mine, encode)
  print_hint(files, target)


def _scale(
  task: DepthAnythingTask, frames: Mapping[str, Any], predict: Callable, known_depth: Callable
) -> dict[str, float]:
  """What relative inverse depth is scaled by, from some frames of the first split.

  Raises:
    UserError: no depth is known.
  """
  options = task.options
  if options.encoding == "metric":
    return {}
  split, random = options.splits[0], np.random.default_rng(0)
  names = frames[split].names
  places = np.linspace(0, len(names) - 1, options.fit_frames).round().astype(int)
  chosen = dict.fromkeys(names[place] for place in places)
  values, depths = [], []
  predicted = predict(frames[split].images(chosen))
  for name, found in progress_bar(
    iterable=predicted, total=len(chosen), desc="scale", unit="frame"
  ):
    depth, known = found, np.ones(found.shape, bool)
    if options.encoding == "aligned":
      depth, known = known_depth(split, name)
    own = _sampled(found, depth, known, random)
    values.append(own[0])
    depths.append(own[1])
  if not values:
    raise UserError(f"none of {len(chosen)} frames of {split} can be read")
  values, depths = np.concatenate(values), np.concatenate(depths)
  if options.encoding == "raw":
    largest = float(np.quantile(values, _LARGEST_QUANTILE)) if len(values) else 0.0
    if largest <= 0:
      raise UserError("the network predicts 0 everywhere: are these its weights?")
    return {"largest": largest}
  if not len(values) or np.ptp(values) == 0 or np.ptp(depths) == 0:
    raise UserError(
      f"data.target.depth is {task.config.data.target.depth!r}, but no pixel of {len(chosen)} "
      "frames has depth to align with, or all have the same: set label_depth.encoding='raw'"
    )
  affine = fit_affine(values, depths)
  if affine.factor <= 0:
    raise UserError(
      f"the network's predictions fall where inverse depth rises (factor {affine.factor:.3g}): are "
      "these weights of a metric network (--config=configs/depth_anything.py:S,metric)?"
    )
  error = np.median(np.abs(affine(values) / depths - 1))
  print(f"Aligned with {len(values):,} pixels; relative error {error:.1%} in the median.")
  return affine._asdict()


def _sampled(
  values: np.ndarray, depth: np.ndarray, known: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Predictions and depths [N], float64, of some pixels of a frame whose depth is known."""
  places = random.permutation(np.flatnonzero(known))[:_FIT_PIXELS]
  return tuple(x.reshape(-1)[places].astype(np.float64) for x in (values, depth))


def _predicted(
  task: DepthAnythingTask, params: Any, frames: Iterator[Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """Predicts frames of any sizes, those of one size together; names and maps float32 `task.size`.

  Raises:
    UserError: the network predicts numbers that are not finite.
  """
  groups: dict[tuple[int, int], list] = collections.defaultdict(list)

  def run(group):
    images = np.stack([frame.image for frame in group])
    fill = np.repeat(images[-1:], task.options.batch_size - len(group), axis=0)
    images = put_batch(task.mesh, {"image": np.concatenate([images, fill])})["image"]
    maps = np.asarray(task.predict(params, images))
    for frame, found in zip(group, maps, strict=False):
      if not np.isfinite(found).all():
        raise UserError(f"the network predicts numbers that are not finite for {frame.name}")
      yield frame.name, found
    group.clear()

  for frame in frames:
    group = groups[frame.image.shape[:2]]
    group.append(frame)
    if len(group) == task.options.batch_size:
      yield from run(group)
    elif sum(map(len, groups.values())) > _MOST_WAITING:
      yield from run(max(groups.values(), key=len))
  for group in groups.values():
    if group:
      yield from run(group)
