"""The ablation of `benchmarks.ablation.run`: variants of the method, sources, sizes."""

from dataclasses import is_dataclass
from typing import Any

from benchmarks.options import apply_settings, load_config
from configs import demo
from configs.default import depth_as_input
from corda_jax.configuration import build
from corda_jax.configuration import settings as settings_of
from corda_jax.errors import UserError
from corda_jax.models.decoders.daformer import FusionDecoder
from corda_jax.models.encoders.mix_transformer import mix_transformer
from corda_jax.models.encoders.resnet import ResNet

BASE = "demo:as_released"  # configuration that all variants change

SOURCE_ONLY = "source only"
DACS = "mixing (DACS)"
RARE = "DACS, rare classes"
MASKED = "DACS, masked consistency"
RARE_MASKED = "DACS, rare classes, masked"
RARE_MASKED_DEPTH = "CorDA as published, rare classes, masked"
MASKED_DEPTH = "CorDA as published, masked"
INPUT = "DACS, depth as input"
INPUT_DROPPED = "DACS, depth as input, dropout"
INPUT_MASKED = "DACS, depth as input, masked"
INPUT_DROPPED_MASKED = "DACS, depth as input, dropout, masked"
ORACLE = "trained on target labels"  # the target takes the place of the source

WITHOUT_DEPTH = {"model.depth": False, "model.correlation": False}
_WITHOUT_ADAPTATION = {"terms.mixed": None}  # None removes a part
_PHOTOMETRIC = {
  "data.source.views": ("right",),
  "data.target.views": ("right",),
  "terms.depth_files.domains": (),
  "terms.photometric.domains": ("source", "target"),
  "model.initial_inverse_depth": 65.0,  # 10 m: from 0, photometric training has next to no gradient
}

_RARE = demo.RARE_CLASSES
_MASKED = {"terms.masked": demo.MASKED}
_INPUT = "depth_input"  # what the network that sees depth has
_DROPPED = {"dropout_block": 16}

VARIANTS: dict[str, dict[str, Any]] = {
  SOURCE_ONLY: _WITHOUT_ADAPTATION | WITHOUT_DEPTH,
  DACS: WITHOUT_DEPTH,
  "+ depth heads": {"model.correlation": False, "terms.mixed.depth_weight.enabled": False},
  "+ correlation": {"terms.mixed.depth_weight.enabled": False},
  "+ refinement, as published": {"terms.mixed.depth_weight.share_across_batch": False},
  "+ refinement, as released": {},
  "photometric, not files": _PHOTOMETRIC,
  RARE: WITHOUT_DEPTH | _RARE,
  MASKED: WITHOUT_DEPTH | _MASKED,
  RARE_MASKED: WITHOUT_DEPTH | _RARE | _MASKED,
  RARE_MASKED_DEPTH: _RARE | _MASKED | {"terms.mixed.depth_weight.share_across_batch": False},
  MASKED_DEPTH: _MASKED | {"terms.mixed.depth_weight.share_across_batch": False},
  INPUT: WITHOUT_DEPTH | {_INPUT: {"dropout": 0.0}},
  INPUT_DROPPED: WITHOUT_DEPTH | {_INPUT: _DROPPED},
  INPUT_MASKED: WITHOUT_DEPTH | {_INPUT: {"dropout": 0.0}} | _MASKED,
  INPUT_DROPPED_MASKED: WITHOUT_DEPTH | {_INPUT: _DROPPED} | _MASKED,
  ORACLE: _WITHOUT_ADAPTATION | WITHOUT_DEPTH,
}

# The parts of CorDA, one by one, between source only and target labels: what runs by default.
PARTS_OF_CORDA = (
  SOURCE_ONLY,
  DACS,
  "+ depth heads",
  "+ correlation",
  "+ refinement, as published",
  "+ refinement, as released",
  "photometric, not files",
  ORACLE,
)

# Variants that use forbidden knowledge, and their controls (`benchmarks.ablation.oracles`).
RIGHT_ALONE = "oracle: wrong pseudo-labels weigh nothing"
TRUE_LABELS = "oracle: true labels, mixed"
NO_BLUE = "oracle: without blue"
EMPTY_INPUT = "DACS, empty depth as input"  # a control: the second encoder without what it sees
DEPTH_SEEN = "oracle: exact depth in place of blue"
_NO_BLUE = {"mixing.augmentation.jitter_probability": 0.0}  # it would mix the colours
ORACLES: dict[str, dict[str, Any]] = {
  RIGHT_ALONE: WITHOUT_DEPTH | {"terms.mixed.part": "benchmarks.ablation.oracles:RightAlone"},
  TRUE_LABELS: WITHOUT_DEPTH | {"teacher.part": "benchmarks.ablation.oracles:TrueLabels"},
  NO_BLUE: WITHOUT_DEPTH | _NO_BLUE,
  DEPTH_SEEN: WITHOUT_DEPTH | _NO_BLUE,
  EMPTY_INPUT: WITHOUT_DEPTH | {_INPUT: {"dropout": 0.0}},
}

# Variant → the one from which it differs in one thing. (The photometric one differs in more: the
# heads' initial values, the weight of their loss, and the denominator of the discrepancy.)
BUILDS_ON = {
  DACS: SOURCE_ONLY,
  "+ depth heads": DACS,
  "+ correlation": "+ depth heads",
  "+ refinement, as published": "+ correlation",
  "+ refinement, as released": "+ correlation",
  "photometric, not files": "+ refinement, as released",
  RARE: DACS,
  MASKED: DACS,
  RARE_MASKED: DACS,
  RARE_MASKED_DEPTH: RARE_MASKED,
  MASKED_DEPTH: "+ refinement, as published",
  INPUT: DACS,
  INPUT_DROPPED: INPUT,
  INPUT_MASKED: INPUT,
  INPUT_DROPPED_MASKED: INPUT_DROPPED,
  RIGHT_ALONE: DACS,
  TRUE_LABELS: DACS,
  DEPTH_SEEN: NO_BLUE,
  EMPTY_INPUT: DACS,
}

# Layout of the source → what its recipe changes in GTA5's (configs/synthia2cs.py).
SOURCES: dict[str, dict[str, Any]] = {
  "gta5": {},
  "synthia": {
    "data.source.dataset": "synthia",
    "data.source.depth": "simulator",
    "model.initial_semantics_from": "decoder",
    "evaluation.classes": "synthia_16",
  },
}

# A network that needs a GPU: ResNet-50 from random weights, on crops of 512x256. Steps and frames
# are chosen so that a run, compilation included, fits into ten minutes.
_LARGE = {
  "num_steps": 6_000,
  "log_every": 100,
  "keep_newest": 1,  # a state takes half a gigabyte
  "keep_best": 0,
  "data.batch_size": 4,
  "data.crop_height": 256,
  "data.crop_width": 512,
  "data.source.height": 288,
  "data.source.width": 576,
  "data.target.height": 288,
  "data.target.width": 576,
  "data.street_world.source_frames": 1_000,
  "data.street_world.target_frames": 1_000,
  "data.street_world.validation_frames": 100,
  "model.dtype": "bfloat16",
  "model.encoder.stage_sizes": (3, 4, 6, 3),
  "model.encoder.strides": (1, 2, 1, 1),  # output stride 8, as released
  "model.encoder.dilations": (1, 1, 2, 4),
  "model.encoder.width": 64,
  "model.encoder.expansion": 4,
  "model.encoder.stem_kernel": 7,
  "model.encoder.stem_pool": True,
  "model.decoder.width": 64,
  "model.decoder.dilations": (6, 12),
  "optimizer.learning_rate": 0.0005,  # not tuned; the demo's 0.003 is too high for it
  "teacher.decay": 0.995,  # slower than the demo's 0.99, as the run is longer
}

# MiT-B0 and DAFormer's decoder with half the channels, from random weights.
_MIT = {
  "model.encoder": mix_transformer("B0").clone(drop_path=0.0),
  "model.decoder": FusionDecoder(128, 128),
  "model.initial_semantics_from": "decoder",
  "optimizer.learning_rate": 0.0006,
}

# Name → what it changes in `BASE`.
SIZES: dict[str, dict[str, Any]] = {"small": {}, "mit": _MIT, "large": _LARGE}


def variant_config(
  variant: str, source: str, size: str, settings: dict[str, Any], *, base: str = BASE
) -> Any:
  """The configuration of a run, except its seed.

  Args:
    variant: one of `VARIANTS` or `ORACLES`.
    source: one of `SOURCES`.
    size: one of `SIZES`.
    settings: field → value, for all runs.
    base: name of the configuration, in configs/, that all this changes.

  Raises:
    UserError: the base has no adaptation, or the settings do not fit.
  """
  config = load_config(base)
  if "mixed" not in config.terms:
    raise UserError(f"{base} does not adapt: name a configuration that does, such as {BASE}")
  changes = SIZES[size] | SOURCES[source] | (VARIANTS | ORACLES)[variant]
  depth_input = changes.pop(_INPUT, None)
  for name in [name for name, value in changes.items() if value is None or is_dataclass(value)]:
    section, _, part = name.rpartition(".")
    if (value := changes.pop(name)) is None:
      del config[section][part]
    else:
      config[section][part] = settings_of(value)
  apply_settings(config, changes)
  if depth_input is not None:
    encoder = build(config.model.encoder)  # of the image: that of the depth is of the same kind
    if isinstance(encoder, ResNet):
      encoder = encoder.clone(width=encoder.width // 2)
    with config.unlocked():
      depth_as_input(config, encoder, **depth_input)
  apply_settings(config, settings)
  if variant == ORACLE:
    config.data.source = config.data.target.copy_and_resolve_references()
  return config
