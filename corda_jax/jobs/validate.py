"""Finds mistakes in a configuration before anything is rendered, prepared or trained."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from corda_jax.configuration import flatten
from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from corda_jax.models.build import has_depth_heads, output_stride

_AT_LEAST = {
  "num_steps": 1,
  "log_every": 1,
  "evaluate_every": 1,
  "checkpoint_every": 1,
  "keep_best": 0,
  "keep_newest": 1,
  "faults.skipped_steps": 0,
  "faults.retries": 0,
  "profile.at_step": 0,
  "profile.steps": 1,
  "evaluation.max_frames": 0,
  "evaluation.pictures": 0,
  "data.batch_size": 1,
  "model.batch_norm_group": 0,
  "data.evaluation_batch_size": 1,
  "data.prepare_processes": 0,
  "data.reader_threads": 0,
  **{
    f"model.{encoder}.{field}": 1
    for encoder in ("encoder", "pose_encoder")
    for field in ("width", "expansion", "stem_kernel", "stem_stride")
  },
  "model.pose_decoder_width": 1,
  "seed": 0,
}
_ADAPTATION_AT_LEAST = {
  "draw_every": 0,
  "model.task_width": 1,
  "prediction.height": -1,
  "prediction.tile_height": 0,
  "prediction.tile_width": 0,
  "prediction.tile_margin": 0,
  "prediction.batch_size": 1,
}

# Least and largest value; None where there is no largest.
_RANGES = {
  "data.street_world.gap": (0, 2),
  "faults.retry_seconds": (0, 86_400),
  "optimizer.learning_rate": (0, None),
  "optimizer.head_learning_rate_factor": (0, None),
  "optimizer.schedule_power": (0, None),
  "optimizer.momentum": (0, 1),
  "optimizer.weight_decay": (0, None),
  "optimizer.encoder_updates_per_step.stem": (1, None),
  "optimizer.encoder_updates_per_step.residual": (1, None),
  "optimizer.encoder_updates_per_step.projection": (1, None),
  "method.source_depth_loss_weight": (0, None),
  "method.mixed_depth_loss_weight": (0, None),
  "method.initial_pseudo_label_steps": (0, None),
  "method.photometric.source_weight": (0, None),
  "method.photometric.target_weight": (0, None),
  "method.photometric.smoothness_weight": (0, None),
  "method.photometric.pose_learning_rate": (0, None),
  "method.photometric.ignored_bottom": (0, 0.9),
  "method.confidence_threshold": (0, 1),
  "method.teacher_decay": (0, 1),
  "method.depth_weight.floor": (0, 1),
  "method.strong_augmentation.jitter_probability": (0, 1),
  "method.strong_augmentation.jitter_strength": (0, 1),
  "method.strong_augmentation.blur_probability": (0, 1),
  "prediction.overlay_opacity": (0, 1),
}

_SUPERVISION = ("files", "photometric", "both", "none")

_MATMUL_PRECISIONS = ("default", "high", "highest")

# Files that --mode=predict writes of an image; all but the first two want depth heads.
PREDICTED_KINDS = ("overlay", "label", "inverse_depth", "inverse_depth_color", "difficulty")

_WHOLE_NUMBERS = tuple(
  f"model.{encoder}.{field}"
  for encoder in ("encoder", "pose_encoder")
  for field in ("stage_sizes", "strides", "dilations")
)
_CHANNELS = ("model.normalization.mean", "model.normalization.std")
_VIEWS = ("right", "previous", "next")

_FLOATS = ("float32", "bfloat16", "float16", "float64")

_ONE_OF = {
  "evaluation.network": ("student", "teacher"),
  "evaluation.checkpoint": ("latest", "best"),
  "faults.failed_save": ("stop", "continue"),
  "method.depth_supervision.source": _SUPERVISION,
  "method.depth_supervision.target": _SUPERVISION,
  "method.photometric.automask": ("all", "temporal", "none"),
  "method.photometric.over_views": ("minimum", "mean"),
  "method.mixed_mean_over": ("all", "valid"),
  "method.confident_fraction_over": ("batch", "image", "pixel"),
  "method.teacher_normalization": ("batch", "running"),
  "method.teacher_statistics": ("own", "average"),
  "method.depth_weight.judge": ("student", "teacher"),
  "method.strong_augmentation.decide_for": ("batch", "image"),
  "method.strong_augmentation.brightness": ("add", "multiply"),
  "evaluation.label_size": ("file", "input"),
  "evaluation.median_scaling": ("always", "never", "video"),
  "compute.matmul_precision": _MATMUL_PRECISIONS,
  "model.dtype": _FLOATS,
  "model.param_dtype": _FLOATS,
  "prediction.label_ids": ("train", "cityscapes"),
  "prediction.image_filter": ("bilinear", "bicubic"),
  "prediction.bad_files": ("stop", "skip"),
}

_DEPTH_RANGES = {
  "faults.retry_seconds": (0, 86_400),
  "optimizer.learning_rate": (0, None),
  "optimizer.depth_encoder_learning_rate_factor": (0, None),
  "optimizer.decay_factor": (0, 1),
  "optimizer.beta1": (0, 1),
  "optimizer.beta2": (0, 1),
  "model.initial_disparity": (0.001, 0.999),
  "depth.smoothness_weight": (0, None),
  "depth.flip_probability": (0, 1),
  "depth.ignored_bottom": (0, 0.9),
  "depth.jitter_probability": (0, 1),
  "depth.jitter_strength": (0, 1),
}

_DEPTH_ONE_OF = {
  "evaluation.checkpoint": ("latest", "best"),
  "faults.failed_save": ("stop", "continue"),
  "evaluation.split": ("validation", "train"),
  "evaluation.median_scaling": ("always", "never", "video"),
  "label_depth.encoding": ("sigmoid", "metric"),
  "depth.over_views": ("minimum", "mean"),
  "depth.automask": ("all", "temporal", "none"),
  "compute.matmul_precision": _MATMUL_PRECISIONS,
  "model.dtype": _FLOATS,
  "model.param_dtype": _FLOATS,
}


def _validate_values(
  config: Any,
  at_least: Mapping[str, int],
  ranges: Mapping[str, tuple[float, float | None]],
  one_of: Mapping[str, Sequence[str]],
) -> None:
  """Checks values that are right or wrong by themselves."""

  def value(name):
    node = config
    for part in name.split("."):
      node = node[part]
    return node

  for name, least in at_least.items():
    if value(name) < least:
      raise UserError(f"{name} is {value(name)}, wanted {least} or more")
  for name, (least, largest) in ranges.items():
    # Written so that NaN is refused, too.
    if not (least <= value(name) <= (sys.float_info.max if largest is None else largest)):
      wanted = f"{least} or more" if largest is None else f"{least} to {largest}"
      raise UserError(f"{name} is {value(name)}, wanted {wanted}")
  for name, choices in one_of.items():
    if value(name) not in choices:
      wanted = " or ".join(repr(choice) for choice in choices)
      raise UserError(f"{name} is {value(name)!r}, wanted {wanted}")
  if config.seed >= 2**63:
    raise UserError(f"seed is {config.seed}, wanted less than 2^63")
  for name, given in flatten(config.to_dict()).items():  # of those that no range tells of, too
    for each in given if isinstance(given, tuple | list) else (given,):
      if isinstance(each, float) and not math.isfinite(each):
        raise UserError(f"{name} is {given}, wanted finite numbers")
  for name in _WHOLE_NUMBERS:
    _validate_whole_numbers(name, value(name))
  for encoder in ("encoder", "pose_encoder"):
    if value(f"model.{encoder}.stem_kernel") % 2 == 0:
      given = value(f"model.{encoder}.stem_kernel")
      raise UserError(f"model.{encoder}.stem_kernel is {given}, wanted an odd number")
  for name in _CHANNELS:
    _validate_channels(name, value(name))
  for domain in (each for each in ("source", "target") if each in config.data):
    splits = config.data[domain].splits
    if not splits or not all(isinstance(split, str) and split.strip() for split in splits):
      raise UserError(f"data.{domain}.splits is {tuple(splits)}, wanted names, such as ('train',)")
    if unknown := [view for view in config.data[domain].views if view not in _VIEWS]:
      raise UserError(
        f"data.{domain}.views holds {unknown[0]!r}, wanted some of: {', '.join(_VIEWS)}"
      )
  group, batch = config.model.batch_norm_group, config.data.batch_size
  if group and batch % group:
    raise UserError(
      f"model.batch_norm_group is {group}, wanted a divisor of data.batch_size, which is {batch}"
    )
  wide = "float64" in (config.model.dtype, config.model.param_dtype)
  if wide and jnp.result_type(float) != jnp.float64:
    raise UserError("model.dtype is 'float64', which JAX wants enabled: set JAX_ENABLE_X64=1")


def _validate_whole_numbers(name: str, numbers: Any) -> None:
  if not isinstance(numbers, Sequence) or not numbers or not all(map(_is_whole, numbers)):
    raise UserError(f"{name} is {numbers}, wanted whole numbers of 1 and more, such as (1, 2)")


def _validate_channels(name: str, numbers: Any) -> None:
  if len(numbers) != 3 or not all(_is_finite(x) for x in numbers):
    raise UserError(f"{name} is {numbers}, wanted three numbers, one a channel")
  if name.endswith("std") and min(numbers) <= 0:
    raise UserError(f"{name} is {numbers}, wanted numbers above 0")


def _is_whole(x: Any) -> bool:
  return isinstance(x, int) and not isinstance(x, bool) and x >= 1


def _is_finite(x: Any) -> bool:
  return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _validate_hood(data: Any, domain: str, field: str, ignored_bottom: float) -> None:
  """The own car's hood is at the bottom of frames, so it must be at that of crops."""
  if ignored_bottom and data.crop_height != data[domain].height:
    raise UserError(
      f"{field} is {ignored_bottom}, but crops of {data.crop_height} rows begin at any row of "
      f"{domain} frames of {data[domain].height}: set data.crop_height={data[domain].height}, or "
      f"{field}=0"
    )


def _validate_depth_range(config: Any, name: str) -> None:
  part = config[name]
  if not 0 < part.min_depth < part.max_depth < math.inf:
    raise UserError(
      f"{name}.min_depth and {name}.max_depth are {part.min_depth} and {part.max_depth}, wanted "
      "0 < min_depth < max_depth"
    )


def _validate_crop(data: Any, domain: str) -> None:
  frame = (data[domain].height, data[domain].width)
  if not (1 <= data.crop_height <= frame[0] and 1 <= data.crop_width <= frame[1]):
    raise UserError(
      f"the crop is {data.crop_width}x{data.crop_height} but {domain} frames are "
      f"{frame[1]}x{frame[0]} (width x height): set data.crop_width and data.crop_height to at "
      "most that"
    )


def validate(config: Any) -> None:
  """Raises UserError where a value of `config` cannot work, alone or with others."""
  _validate_values(config, _AT_LEAST | _ADAPTATION_AT_LEAST, _RANGES, _ONE_OF)
  _validate_whole_numbers("model.classifier_dilations", config.model.classifier_dilations)
  for name in ("mean", "std"):
    _validate_channels(f"model.pose_normalization.{name}", config.model.pose_normalization[name])
  _validate_prediction(config)
  _validate_classes(config)
  scales = config.evaluation.scales
  if not scales or not all(isinstance(x, int | float) and 0 < x < math.inf for x in scales):
    raise UserError(f"evaluation.scales is {scales}, wanted factors above 0, such as (1.0,)")
  method = config.method
  sigma = tuple(method.strong_augmentation.blur_sigma)
  if not (len(sigma) == 2 and all(map(_is_finite, sigma)) and 0 < sigma[0] <= sigma[1]):
    raise UserError(
      f"method.strong_augmentation.blur_sigma is {sigma}, wanted (least, largest) above 0"
    )
  if method.teacher_normalization == "running" and method.teacher_statistics == "own":
    raise UserError(
      "method.teacher_normalization is 'running', but a teacher's own statistics change only where "
      "it normalises by the batch: set method.teacher_statistics='average'"
    )
  data = config.data
  if data.target.dataset == "folder" and not data.target.folder.validation.images:
    raise UserError(
      "data.target.folder.validation.images is '', but scores need frames with labels: name some, "
      "and their labels"
    )
  _validate_depth_range(config, "evaluation")
  supervision = method.depth_supervision
  if has_depth_heads(config.model) and supervision.source == supervision.target == "none":
    raise UserError(
      "method.depth_supervision is 'none' for source and target, but the network has depth heads: "
      "set model.depth=False and model.correlation=False"
    )


def validate_training_data(config: Any) -> None:
  """Raises UserError where the data sets lack what training learns from.

  Args:
    config: the configuration of an adaptation.
  """
  data = config.data
  for domain in ("source", "target"):
    _validate_crop(data, domain)
  if data.source.dataset == "folder" and not data.source.folder.train.labels:
    raise UserError(
      "data.source.folder.train.labels is '', but the source's labels are what training learns from"
    )
  if has_depth_heads(config.model):
    _validate_depth_supervision(config)


def _validate_prediction(config: Any) -> None:
  prediction = config.prediction
  unknown = [kind for kind in prediction.write if kind not in PREDICTED_KINDS]
  if unknown or not prediction.write:
    raise UserError(
      f"prediction.write is {tuple(prediction.write)}, wanted some of {PREDICTED_KINDS}"
    )
  # The network's stride rounds tiles down and margins up.
  stride = output_stride(config.model.encoder)
  margin = -(-prediction.tile_margin // stride) * stride
  for side in ("tile_height", "tile_width"):
    tile = prediction[side] // stride * stride
    if prediction[side] and tile <= 2 * margin:
      raise UserError(
        f"prediction.{side} is {prediction[side]}, wanted more than {2 * margin + stride - 1}: "
        f"a margin of {margin} is lost on either side"
      )


def _validate_depth_supervision(config: Any) -> None:
  """Checks that there is what the depth heads learn from."""
  supervision, data = config.method.depth_supervision, config.data
  for domain in ("source", "target"):
    field = f"method.depth_supervision.{domain} is {supervision[domain]!r}"
    if supervision[domain] in ("files", "both") and data[domain].depth == "none":
      raise UserError(
        f"{field}, but data.{domain}.depth is 'none': name a kind of depth files, or choose "
        "'photometric' or 'none'; without any depth, set model.depth=False and "
        "model.correlation=False"
      )
    if supervision[domain] in ("photometric", "both") and not data[domain].views:
      raise UserError(
        f"{field}, but data.{domain}.views is empty: set ('right',), ('previous', 'next') or all "
        "three"
      )
    if supervision[domain] in ("photometric", "both"):
      ignored = config.method.photometric.ignored_bottom
      _validate_hood(data, domain, "method.photometric.ignored_bottom", ignored)
  scale = config.method.photometric.metres_per_unit
  if not 0 < scale < math.inf:
    raise UserError(f"method.photometric.metres_per_unit is {scale}, wanted above 0")


def _validate_classes(config: Any) -> None:
  if "num_classes" in config.model:  # a configuration file may set what is not there
    raise UserError(
      "model.num_classes is set, but the number of classes is that of data.classes.names: remove it"
    )
  sets = ClassList.from_config(config.data.classes).class_sets(config.evaluation.class_sets)
  if config.evaluation.classes not in sets:
    wanted = " or ".join(repr(name) for name in sets)
    raise UserError(
      f"evaluation.classes is {config.evaluation.classes!r}, wanted {wanted}; "
      "evaluation.class_sets adds others"
    )


def validate_depth(config: Any, views: Sequence[str]) -> None:
  """Raises UserError where a value of a configuration of the depth stage cannot work.

  Args:
    config: the configuration.
    views: that the networks are trained on.
  """
  _validate_values(config, _AT_LEAST, _DEPTH_RANGES, _DEPTH_ONE_OF)
  _validate_whole_numbers("model.decoder_widths", config.model.decoder_widths)
  _validate_crop(config.data, "target")
  _validate_hood(config.data, "target", "depth.ignored_bottom", config.depth.ignored_bottom)
  _validate_depth_range(config, "depth")
  _validate_depth_range(config, "evaluation")
  if not 0 < config.depth.metres_per_unit < math.inf:
    raise UserError(f"depth.metres_per_unit is {config.depth.metres_per_unit}, wanted above 0")
  if not views:
    raise UserError(
      "data.target.views is empty, and depth is learned from other views of a frame: set "
      "('right',), ('previous', 'next') or all three"
    )
