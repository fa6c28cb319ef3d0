"""What no part of a configuration can see by itself, and what a job finds in the folder of a run.

Nothing here imports TensorFlow or reads a data set, so a mistake is reported within seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from corda_jax.adaptation.terms.feature_distance import FeatureDistance, square_stride
from corda_jax.adaptation.terms.masked import MaskedConsistency
from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.depth_guided import sees_depth
from corda_jax.models.encoders.vision_transformer import VisionTransformer
from corda_jax.models.hrda import Hrda
from corda_jax.training.restore import find_checkpoint
from corda_jax.training.run_files import check_config, check_writable, has_checkpoints
from corda_jax.training.sharding import check_divisible, check_training_batch, frame_mesh

if TYPE_CHECKING:
  from corda_jax.adaptation.step import AdaptationStep
  from corda_jax.adaptation.teacher import Teacher
  from corda_jax.depth.step import DepthStep
  from corda_jax.training.task import Task


def check_adaptation(config: Any, step: AdaptationStep, classes: ClassList) -> None:
  """Raises UserError where parts of an adaptation do not go together."""
  _check_groups(config)
  sets = classes.class_sets(config.evaluation.class_sets)
  if config.evaluation.classes not in sets:
    raise UserError(
      f"evaluation.classes is {config.evaluation.classes!r}, expected "
      f"{' or '.join(map(repr, sets))}; evaluation.class_sets adds others"
    )
  encoder = step.model.encoder
  tiled = not any(config.evaluation.window)
  if tiled:
    _check_tiles(config.prediction, encoder.level_strides[-1])
  tiled &= bool(config.prediction.tile_height or config.prediction.tile_width)
  if isinstance(encoder, VisionTransformer):
    if encoder.image_scale != 1 and tiled:
      raise UserError(
        f"model.encoder.image_scale is {encoder.image_scale}, and patches of resized images do not "
        "join where tiles do: set prediction.tile_height=0 and prediction.tile_width=0"
      )
  elif config.optimizer.get("layer_decay", 1) != 1:
    raise UserError(
      f"optimizer.layer_decay is {config.optimizer.layer_decay}, but model.encoder is no Vision "
      "Transformer: set it to 1"
    )
  if isinstance(step.model, Hrda):
    _check_two_resolutions(config, step.model)
  for name, term in step.terms.items():
    hides_patches = isinstance(term, MaskedConsistency) and term.hidden == "patches"
    if hides_patches and not isinstance(encoder, VisionTransformer):
      raise UserError(
        f"terms.{name}.hidden is 'patches', but model.encoder is no Vision Transformer: set it to "
        "'blocks'"
      )
  readers = {"the network sees": sees_depth(step.model)}
  readers["mixing.depth_filter reads"] = step.mixing.depth_filter.kind != "none"
  for reader in [name for name, reads in readers.items() if reads]:
    for domain in ("source", "target"):
      if config.data[domain].depth == "none":
        raise UserError(
          f"data.{domain}.depth is 'none', but {reader} depth: name a kind of depth files"
        )
  target = config.data.target
  if target.dataset == "folder" and not target.folder.validation.images:
    raise UserError(
      "data.target.folder.validation.images is '', but scores need frames with labels: name some, "
      "and their labels"
    )
  if step.model.depth and not (step.depth_from("source") or step.depth_from("target")):
    where = _network_of(step)
    raise UserError(
      f"{where}.depth is True, but no term teaches depth: name domains in "
      f"terms.depth_files.domains or terms.photometric.domains, or set {where}.depth=False and "
      f"{where}.correlation=False"
    )


def _check_two_resolutions(config: Any, model: Any) -> None:
  """A network that also sees details takes sizes that its predictions divide."""
  detail, strides = model.detail, model.encoder.level_strides
  sides = {f"model.detail.{side}": getattr(detail, side) for side in ("height", "width")}
  sides |= {f"data.crop_{side}": config.data[f"crop_{side}"] for side in ("height", "width")}
  for field, value in sides.items():
    if value % detail.multiple:
      raise UserError(
        f"{field} is {value}, expected a multiple of model.detail.multiple, which is "
        f"{detail.multiple}"
      )
  finest = strides[-1] if isinstance(model.decoder, DeepLabDecoder) else strides[0]
  if detail.multiple % (2 * finest) or isinstance(model.encoder, VisionTransformer):
    raise UserError(
      f"model.detail.multiple is {detail.multiple}, but the context is predicted every "
      f"{2 * finest} pixels: set it to a multiple of that; a Vision Transformer cannot be used so"
    )
  if config.model.batch_norm_group:
    raise UserError(
      f"model.batch_norm_group is {config.model.batch_norm_group}, but the windows of two "
      "resolutions are normalised as a whole: set it to 0"
    )
  if config.compute.one_student_pass:
    raise UserError(
      "compute.one_student_pass is True, but each pass has a detail crop of its own: set it to "
      "False"
    )


def _network_of(step: AdaptationStep) -> str:
  """The section of the configuration that has the encoder."""
  return "model.network" if isinstance(step.model, Hrda) else "model"


def check_training_data(config: Any, step: AdaptationStep) -> None:
  """Raises UserError where the data sets lack what the terms learn from."""
  data = config.data
  for domain in ("source", "target"):
    _check_crop(data, domain)
  if data.source.dataset == "folder" and not data.source.folder.train.labels:
    raise UserError(
      "data.source.folder.train.labels is '', but the source's labels are what training learns from"
    )
  _check_margins(data, step.teacher)
  if any(isinstance(term, FeatureDistance) for term in step.terms.values()):
    _check_features(data, step.model)
  for name, term in step.terms.items() if step.model.depth else ():
    for domain in ("source", "target"):
      field, kind = f"terms.{name}.domains has {domain!r}", term.depth_from(domain)
      if kind == "files" and data[domain].depth == "none":
        raise UserError(
          f"{field}, but data.{domain}.depth is 'none': name a kind of depth files, or take the "
          f"domain out; without any depth, set {_network_of(step)}.depth=False and "
          f"{_network_of(step)}.correlation=False"
        )
      if kind == "views":
        if not data[domain].views:
          raise UserError(
            f"{field}, but data.{domain}.views is empty: set ('right',), ('previous', 'next') or "
            "all three"
          )
        _check_hood(data, domain, f"terms.{name}.ignored_bottom", term.ignored_bottom)


def _check_margins(data: Any, teacher: Teacher) -> None:
  """Margins of crops are those of frames only along axes that a crop shows whole."""
  top, bottom, left, right = teacher.untrusted_margins
  for side, margins in (("height", top + bottom), ("width", left + right)):
    crop, frame = data[f"crop_{side}"], data.target[side]
    if margins and teacher.margins_of == "crop" and crop != frame:
      raise UserError(
        f"teacher.margins_of is 'crop', but crops have a {side} of {crop} and frames of {frame}: "
        "set it to 'frame'"
      )
    if margins >= frame:
      raise UserError(
        f"teacher.untrusted_margins are {margins} pixels of a {side} of {frame}: set them to less"
      )


def _check_features(data: Any, model: Any) -> None:
  """Squares of equally many pixels of a crop are compared with the encoder's last level."""
  size = (data.crop_height, data.crop_width)
  level = jax.eval_shape(
    lambda x: model.encoder.init_with_output(
      jax.random.key(0), model.encoded(x), train=False, method="features"
    )[0][-1],
    jax.ShapeDtypeStruct((1, *size, 3), jnp.float32),
  )
  try:
    square_stride(size, level.shape[1:3])
  except ValueError as error:
    raise UserError(f"terms.feature_distance: {error}") from error


def check_depth(config: Any, step: DepthStep) -> None:
  """Raises UserError where parts of the depth stage do not go together."""
  data = config.data
  _check_groups(config)
  _check_crop(data, "target")
  _check_hood(data, "target", "depth.ignored_bottom", step.config.ignored_bottom)
  if not step.views:
    raise UserError(
      "data.target.views is empty, and depth is learned from other views of a frame: set "
      "('right',), ('previous', 'next') or all three"
    )
  if data.crop_height % step.stride or data.crop_width % step.stride:
    raise UserError(
      f"the crop is {data.crop_width}x{data.crop_height}, but the network takes multiples of "
      f"{step.stride}: set data.crop_width and data.crop_height to such"
    )


def check_job(task: Task, workdir: Path, mode: str) -> None:
  """Checks a job before data are read, and creates the folder of a run that it writes to.

  Raises:
    UserError: the job cannot run.
  """
  if not task.of_a_run:
    return
  config = task.config
  if mode in ("train", "prepare"):
    task.check_training()
  if mode in ("train", "evaluate", "label_depth"):
    frames = frame_mesh(task.mesh, config.evaluation.get("devices_per_frame", 1))
    check_divisible(frames, config.data.evaluation_batch_size, "data.evaluation_batch_size")
    _ = task.state_shapes  # raises UserError for an invalid network
  if mode == "train":
    group = config.model.batch_norm_group
    check_training_batch(task.mesh, config.data.batch_size, group)
    check_config(workdir, config)
    if not has_checkpoints(workdir):  # then the files of weights are read
      task.check_initial()
    check_writable(workdir)
  elif mode in task.read_by:
    check_config(workdir, config, parts=task.read_by[mode])
  if mode in ("evaluate", "label_depth", "export", "export_torch"):
    find_checkpoint(workdir, config.evaluation.checkpoint)
  if mode in ("predict", "export") and jax.process_count() > 1:
    raise UserError(f"--mode={mode} runs in one process: leave --multihost out")


def _check_groups(config: Any) -> None:
  group, batch = config.model.batch_norm_group, config.data.batch_size
  if group and batch % group:
    raise UserError(
      f"model.batch_norm_group is {group}, expected a divisor of data.batch_size, which is {batch}"
    )


def _check_crop(data: Any, domain: str) -> None:
  height, width = data[domain].height, data[domain].width
  if not (1 <= data.crop_height <= height and 1 <= data.crop_width <= width):
    raise UserError(
      f"the crop is {data.crop_width}x{data.crop_height} but {domain} frames are {width}x{height} "
      "(width x height): set data.crop_width and data.crop_height to at most that"
    )


def _check_hood(data: Any, domain: str, field: str, ignored_bottom: float) -> None:
  """The own car's hood is at the bottom of frames, so it must be at that of crops."""
  rows = data[domain].height
  if ignored_bottom and data.crop_height != rows:
    raise UserError(
      f"{field} is {ignored_bottom}, but crops of {data.crop_height} rows begin at any row of "
      f"{domain} frames of {rows}: set data.crop_height={rows}, or {field}=0"
    )


def _check_tiles(prediction: Any, stride: int) -> None:
  """The network's stride rounds tiles down and margins up."""
  margin = -(-prediction.tile_margin // stride) * stride
  for side in ("tile_height", "tile_width"):
    tile = prediction[side] // stride * stride
    if prediction[side] and tile <= 2 * margin:
      raise UserError(
        f"prediction.{side} is {prediction[side]}, expected more than {2 * margin + stride - 1}: a "
        f"margin of {margin} is lost on either side"
      )
