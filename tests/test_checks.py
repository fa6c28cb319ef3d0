"""Configurations that cannot work: one line that names the field, its value and what to do."""

import re

import jax
import pytest

from corda_jax.adaptation.task import AdaptationTask
from corda_jax.adaptation.terms.feature_distance import FeatureDistance
from corda_jax.configuration import settings
from corda_jax.depth.task import DepthTask
from corda_jax.errors import UserError
from corda_jax.models.decoders.daformer import FusionDecoder
from corda_jax.models.decoders.lightweight import LightweightDecoder
from corda_jax.models.encoders.mix_transformer import MixTransformer
from corda_jax.models.encoders.vision_transformer import VisionTransformer
from corda_jax.training.optimizer import AdamW, Warmup
from corda_jax.training.sharding import check_divisible, make_mesh
from tests import tiny, tiny_depth, tiny_joint, tiny_recipes


def check(config):
  """As before a training."""
  task = DepthTask if config.task == "depth" else AdaptationTask
  made = task.from_config(config, make_mesh(jax.devices()[:1]))
  made.check_training()
  _ = made.state_shapes


def refused(config, *message):
  with pytest.raises(UserError, match=".*".join(message)) as caught:
    check(config)
  assert "\n" not in str(caught.value)


def test_tiny_configurations_are_valid():
  check(tiny.get_config())
  check(tiny_depth.get_config())


# Of both tasks.
RUNNING = [
  ("num_steps", 0, "1 or more"),
  ("log_every", 0, "1 or more"),
  ("seed", -1, "0 or more"),
  ("faults.failed_save", "hide", "'stop' or 'continue'"),
  ("faults.retry_seconds", -1.0, "0 to 86400"),
  ("evaluation.pictures", -1, "0 or more"),
  ("evaluation.checkpoint", "newest", "'latest' or 'best'"),
  ("evaluation.median_scaling", "mono", "'always'"),
  ("evaluation.min_depth", 90.0, "0 < min_depth < max_depth"),
  ("model.dtype", "float17", "'float32'"),
  ("model.dtype", "float64", "JAX_ENABLE_X64"),
  ("model.batch_norm_group", 3, "data.batch_size"),
  ("model.batch_norm_group", -1, "0 or more"),
  ("model.kernel_init", "ones", "'he_normal'"),
  ("model.normalization.mean", (1.0, 2.0), "three numbers"),
  ("compute.matmul_precision", "half", "'default' or 'high' or 'highest'"),
  ("data.target.views", ("up",), "right"),
  ("data.target.splits", (), "('train',)"),
  ("data.target.folder.metres_per_unit", float("nan"), "finite"),
  ("optimizer.learning_rate", float("nan"), ""),
]
ADAPTATION = [
  ("optimizer.encoder_updates_per_step.stem", 0, "1 or more"),
  ("optimizer.momentum", 1.5, "0 to 1"),
  ("teacher.confidence_threshold", 7.0, "0 to 1"),
  ("teacher.decay", -0.1, "0 to 1"),
  ("teacher.normalization", "running", "statistics='average'"),
  ("mixing.augmentation.jitter_probability", 3.0, "0 to 1"),
  ("mixing.augmentation.blur_sigma", (2.0, 1.0), "above 0"),
  ("terms.mixed.depth_weight.judge", "both", "'student' or 'teacher'"),
  ("terms.mixed.mean_over", "some", "'all' or 'valid'"),
  ("terms.depth_files.domains", ("both",), "source, target"),
  ("terms.depth_files.mixed_weight", -1.0, "0 or more"),
  ("terms.photometric.pose.encoder.width", 0, "1 or more"),
  ("terms.photometric.pose.decoder_width", 0, "1 or more"),
  ("terms.photometric.normalization.std", (1.0, 0.0, 1.0), "above 0"),
  ("terms.photometric.metres_per_unit", 0.0, "more than 0"),
  ("terms.photometric.ignored_bottom", 1.0, "0 to 0.9"),
  ("terms.photometric.smoothness_weight", -1.0, "0 or more"),
  ("terms.photometric.automask", "some", "'temporal'"),
  ("model.encoder.stem_kernel", 4, "odd"),
  ("model.encoder.strides", (1,), "stage"),
  ("model.decoder.width", -1, "0 or more"),
  ("model.decoder.dilations", (), "whole numbers"),
  ("model.depth", False, "nothing to correlate"),
  ("model.initial_semantics_from", "both", "'decoder'"),
  ("evaluation.label_size", "large", "'file' or 'input'"),
  ("evaluation.classes", "twelve", "'all'"),
  ("evaluation.network", "both", "'student' or 'teacher'"),
  ("evaluation.scales", (1.0, 0.0), "above 0"),
  ("evaluation.scales", ("big",), "above 0"),
  ("evaluation.window", (512,), "(rows, columns)"),
  ("evaluation.window", (512, 0), "(0, 0) for none"),
  ("evaluation.window_stride", (0, 512), "1 or more"),
  ("terms.source.mean_over", "some", "'valid' or 'all'"),
  ("mixing.classes_from", "both", "'image' or 'batch'"),
  ("prediction.tile_width", 100, "margin"),
  ("prediction.write", ("masks",), "overlay"),
  ("data.street_world.gap", 3.0, "0 to 2"),
]
DEPTH = [
  ("model.depth.widths", (8, 0), "whole numbers"),
  ("depth.min_depth", 0.0, "0 < min_depth < max_depth"),
  ("depth.metres_per_unit", 0.0, "more than 0"),
  ("depth.over_views", "median", "'minimum' or 'mean'"),
  ("depth.flip_probability", 1.5, "0 to 1"),
  ("depth.smoothness_weight", float("nan"), ""),
  ("depth.smoothness_weight", -1.0, "0 or more"),
  ("depth.automask", "some", "'temporal'"),
  ("optimizer.beta2", -0.1, "0 to 1"),
  ("label_depth.encoding", "png", "'sigmoid' or 'metric'"),
  ("depth.ignored_bottom", 1.0, "0 to 0.9"),
  ("depth.ignored_bottom", 0.1, "35"),
]
CASES = [(tiny_depth, *case) for case in RUNNING + DEPTH]
CASES += [(tiny, *case) for case in RUNNING + ADAPTATION]


@pytest.mark.parametrize(("module", "field", "value", "expected"), CASES)
def test_values_that_cannot_work_are_refused(unchecked_shapes, module, field, value, expected):
  message = [re.escape(field.rpartition(".")[0]), re.escape(field.rpartition(".")[2])]
  config = module.get_config(**{field: value})
  refused(config, *message, re.escape(str(value)), re.escape(expected))


@pytest.mark.parametrize(
  ("module", "overrides", "message"),
  [
    (tiny, {"data.crop_height": 600}, "25x600.*1024x512"),
    (tiny, {"evaluation.class_sets": {"moving": ("tram",)}}, r"class_sets\.moving.*'tram'"),
    (tiny, {"data.classes.names": ("car", "car")}, r"data\.classes\.names.*'car'"),
    (tiny, {"data.classes.colors": ((1, 2, 3),)}, r"data\.classes\.names"),
    (tiny, {"terms.depth_files.domains": ()}, r"no term teaches depth.*model\.depth=False"),
    (tiny, {"data.source.depth": "none"}, r"depth_files\.domains.*data\.source\.depth.*none"),
    (tiny, {"terms.photometric.domains": ("source",)}, r"photometric.*data\.source\.views"),
    (
      tiny,
      {"teacher.untrusted_margins": (1, 2, 0, 0), "teacher.margins_of": "crop"},
      r"margins_of.*17.*512.*'frame'",
    ),
    (tiny, {"teacher.untrusted_margins": (300, 300, 0, 0)}, r"600 pixels.*height of 512"),
    (tiny, {"evaluation.window": (8, 8), "evaluation.window_stride": (4, 9)}, "window_stride"),
    (tiny_depth, {"data.target.views": ()}, r"data\.target\.views.*\('right',\)"),
    (tiny_depth, {"data.crop_height": 40}, "48x40"),
    (tiny_depth, {"data.crop_width": 24}, "24x32.*16"),
  ],
)
def test_parts_that_do_not_go_together_are_refused(module, overrides, message):
  refused(module.get_config(**overrides), message)


def test_features_that_do_not_divide_crops_are_refused():
  config = tiny.get_config()
  config.terms.feature_distance = settings(FeatureDistance)
  refused(config, r"terms\.feature_distance.*features.*data\.crop_height")
  check(tiny_recipes.get_config("gta2cs_mic", plain=True))


def test_the_hood_of_crops_anywhere_in_the_frame_is_refused():
  config = tiny_joint.get_config(*tiny_joint.TARGET, **{"terms.photometric.ignored_bottom": 0.1})
  refused(config, r"photometric\.ignored_bottom.*0\.1.*17.*target.*512")


def test_a_network_without_depth_needs_none():
  fields = {"data.source.depth": "none", "data.target.depth": "none"}
  check(tiny.get_config(**fields, **{"model.depth": False, "model.correlation": False}))


def test_what_goes_with_vision_transformers_alone():
  config = tiny.get_config()
  config.optimizer = settings(AdamW, layer_decay=0.9)
  refused(config, r"optimizer\.layer_decay", "0.9", r"model\.encoder")
  encoder = VisionTransformer(width=8, depth=1, heads=2, levels=(0,), image_scale=1.1)
  config.model.encoder = settings(encoder)
  refused(config, r"image_scale", "1.1", r"prediction\.tile_height=0")
  config.prediction.tile_height = config.prediction.tile_width = 0
  check(config)


@pytest.mark.parametrize(
  ("part", "fields", "message"),
  [
    (MixTransformer, {"widths": (8, 8)}, "widths.*depths"),
    (MixTransformer, {"heads": (3, 2, 5, 8)}, "widths.*32.*3"),
    (MixTransformer, {"drop_path": 1.0}, "drop_path"),
    (VisionTransformer, {"levels": (3, 2)}, "levels.*11"),
    (VisionTransformer, {"levels": (5, 2, 11)}, "levels.*rising"),
    (VisionTransformer, {"levels": ()}, "levels"),
    (VisionTransformer, {"width": 100}, "width.*12"),
    (VisionTransformer, {"positions": "learned"}, "positions.*offset"),
    (FusionDecoder, {"fusion": "sum"}, "fusion.*separable_aspp"),
    (LightweightDecoder, {"width": -1}, "width"),
    (Warmup, {"start": 2.0}, "start"),
    (AdamW, {"layer_decay": 1.1}, "layer_decay"),
  ],
)
def test_parts_check_their_own_settings(part, fields, message):
  with pytest.raises(ValueError, match=message):
    part(**fields)


def test_unknown_fields_are_refused_with_the_nearest_name():
  config = tiny.get_config()
  config.teacher.confidence_treshold = 0.9
  refused(config, r"teacher\.confidence_treshold", "'confidence_threshold'")
  config = tiny.get_config()
  config.num_stepps = 3
  refused(config, "num_stepps", "'num_steps'")
  config = tiny.get_config()
  config.optimizer = settings(AdamW)
  config.optimizer.encoder_updates_per_step = 3
  refused(config, r"optimizer\.encoder_updates_per_step")


def test_a_part_that_cannot_be_imported_is_named():
  config = tiny.get_config()
  config.terms.mixed.part = "corda_jax.adaptation.terms.mixed:Mixed"
  refused(config, r"terms\.mixed\.part", "Mixed", "module:Class")


def test_batches_that_devices_cannot_share_are_refused():
  mesh = make_mesh(jax.devices()[:4])
  check_divisible(mesh, 8, "data.batch_size")
  with pytest.raises(UserError, match=r"data\.batch_size.*6.*4.*data\.batch_size=8"):
    check_divisible(mesh, 6, "data.batch_size")


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize\n'cuda'")])
def test_a_platform_without_devices_is_named(monkeypatch, error):
  def devices():
    raise error

  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  monkeypatch.setattr(jax, "devices", devices)
  with pytest.raises(UserError, match=r"JAX_PLATFORMS='cuda'.*pip install") as caught:
    make_mesh()
  assert "\n" not in str(caught.value)
