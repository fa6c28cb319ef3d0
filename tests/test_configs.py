"""The recipes hold the released numbers, and the program can build what they describe."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from benchmarks.ablation import variants
from configs.depth import VIEWS
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.task import DepthTask

# Of trainings; tests/depth/test_foundation.py has the other one.
CONFIGS = sorted(
  path.stem
  for path in (Path(__file__).parents[1] / "configs").glob("*.py")
  if path.stem not in ("__init__", "depth_anything")
)

RELEASED = {
  "num_steps": 250_000,
  "data.batch_size": 2,
  "data.crop_height": 512,
  "data.crop_width": 512,
  "data.source.height": 720,
  "data.source.width": 1280,
  "data.target.height": 512,
  "data.target.width": 1024,
  "model.encoder.stage_sizes": (3, 4, 23, 3),
  "model.encoder.block": "bottleneck",
  "model.encoder.dilations": (1, 1, 2, 4),
  "model.encoder.strides": (1, 2, 1, 1),
  "model.encoder.trainable_affine": False,
  "model.decoder.dilations": (6, 12),
  "model.normalization.mean": (104.00698793, 116.66876762, 122.67891434),
  "model.normalization.std": (1.0, 1.0, 1.0),
  "model.normalization.bgr": True,
  "terms.depth_files.source_weight": 0.01,
  "terms.depth_files.mixed_weight": 0.001,
  "teacher.confidence_threshold": 0.968,
  "teacher.decay": 0.999,
  "terms.mixed.depth_weight.enabled": True,
  "terms.mixed.depth_weight.floor": 0.001,
  "terms.mixed.depth_weight.share_across_batch": True,
  "mixing.augmentation.jitter_probability": 0.8,
  "mixing.augmentation.jitter_strength": 0.25,
  "mixing.augmentation.blur_probability": 0.5,
  "mixing.augmentation.blur_sigma": (0.15, 1.15),
  "optimizer.part": "corda_jax.training.optimizer:SGD",
  "optimizer.learning_rate": 2.5e-4,
  "optimizer.head_learning_rate_factor": 10.0,
  "optimizer.schedule_power": 0.9,
  "optimizer.momentum": 0.9,
  "optimizer.weight_decay": 5e-4,
  "optimizer.encoder_updates_per_step.stem": 1,
  "optimizer.encoder_updates_per_step.residual": 3,
  "optimizer.encoder_updates_per_step.projection": 4,
}

OWN = {
  "gta2cs": {
    "data.source.dataset": "gta5",
    "data.source.depth": "disparity",
    "data.target.depth": "stereo",
    "model.depth": True,
    "model.decoder.width": 64,
    "model.initial_semantics_from": "encoder",
    "teacher.initial_label_steps": 25_001,
    "evaluation.classes": "all",
  },
  "synthia2cs": {
    "data.source.dataset": "synthia",
    "data.source.depth": "simulator",
    "data.target.depth": "stereo",
    "model.initial_semantics_from": "decoder",
    "teacher.initial_label_steps": 0,
    "evaluation.classes": "synthia_16",
  },
  "synthia2cs_mono": {
    "data.source.dataset": "synthia",
    "data.source.depth": "simulator",
    "data.target.depth": "mono",
    "model.initial_semantics_from": "decoder",
    "teacher.initial_label_steps": 0,
    "evaluation.classes": "synthia_16",
  },
  "gta2cs_dacs": {
    "data.source.dataset": "gta5",
    "data.source.depth": "none",
    "data.target.depth": "none",
    "model.initial_semantics_from": "none",
    "model.depth": False,
    "model.decoder.width": 0,
    "terms.mixed.mean_over": "all",
    "evaluation.classes": "all",
  },
  "gta2cs_source_only": {
    "data.source.dataset": "gta5",
    "data.source.depth": "none",
    "data.target.depth": "none",
    "model.initial_semantics_from": "none",
    "model.depth": False,
    "model.decoder.width": 0,
    "evaluation.classes": "all",
  },
}

# The release's side of every other switch between it and the publication.
RELEASED |= {
  "model.encoder.stem_pool_ceil": True,
  "model.encoder.stride_on": "conv1",
  "terms.depth_files.domains": ("source", "target"),
  "terms.photometric.domains": (),
  "terms.mixed.mean_over": "all",
  "mixing.paste_ignored": True,
  "teacher.fraction_over": "batch",
  "teacher.normalization": "batch",
  "teacher.statistics": "own",
  "terms.mixed.depth_weight.judge": "student",
  "terms.mixed.depth_weight.divide_by_mean": True,
  "mixing.augmentation.decide_for": "batch",
  "mixing.augmentation.brightness": "add",
}

PUBLISHED = {
  "model.decoder.dilations": (6, 12, 18, 24),
  "terms.mixed.depth_weight.share_across_batch": False,
  "optimizer.encoder_updates_per_step.stem": 1,
  "optimizer.encoder_updates_per_step.residual": 1,
  "optimizer.encoder_updates_per_step.projection": 1,
}

PUBLISHED_TRANSFORMERS = {
  "data.source.rare_classes.tries": 0,
  "mixing.classes_from": "image",
  "optimizer.decay_encoder_norms": True,
  "teacher.fraction_over": "image",
  "terms.mixed.mean_over": "valid",
  "terms.source.mean_over": "valid",
}

# Monodepth2 as published, with the settings of the sibling work that made such files.
DEPTH = {
  "task": "depth",
  "num_steps": 350_000,
  "data.batch_size": 4,
  "data.crop_height": 512,
  "data.crop_width": 512,
  "model.depth.encoder.stage_sizes": (3, 4, 23, 3),
  "model.depth.encoder.block": "bottleneck",
  "model.depth.encoder.stride_on": "conv2",
  "model.depth.encoder.expansion": 4,
  "model.depth.encoder.trainable_affine": True,
  "model.pose.encoder.stage_sizes": (2, 2, 2, 2),
  "model.pose.encoder.block": "basic",
  "model.pose.encoder.expansion": 1,
  "model.pose.decoder_width": 256,
  "model.depth.widths": (16, 32, 64, 128, 256),
  "model.normalization.mean": (0.45 * 255,) * 3,
  "model.normalization.std": (0.225 * 255,) * 3,
  "model.normalization.bgr": False,
  "depth.min_depth": 0.1,
  "depth.max_depth": 100.0,
  "depth.smoothness_weight": 1e-3,
  "depth.automask": "all",
  "depth.over_views": "minimum",
  "depth.flip_probability": 0.5,
  "depth.jitter_probability": 0.5,
  "depth.jitter_strength": 0.2,
  "optimizer.learning_rate": 1e-4,
  "optimizer.decay_factor": 0.1,
  "optimizer.beta1": 0.9,
  "optimizer.beta2": 0.999,
  "label_depth.encoding": "sigmoid",
}
for network in ("depth", "pose"):
  DEPTH |= {
    f"model.{network}.encoder.width": 64,
    f"model.{network}.encoder.stem_kernel": 7,
    f"model.{network}.encoder.stem_stride": 2,
    f"model.{network}.encoder.stem_pool": True,
    f"model.{network}.encoder.stem_pool_ceil": False,
    f"model.{network}.encoder.strides": (1, 2, 2, 2),
    f"model.{network}.encoder.dilations": (1, 1, 1, 1),
  }

OWN_DEPTH = {
  "depth": {"data.target.dataset": "cityscapes", "data.target.views": ("right",)},
  "depth_cityscapes": {
    "data.target.dataset": "cityscapes",
    "data.target.height": 512,
    "data.target.width": 1024,
    "data.target.views": ("right",),
    "data.target.depth": "official",
  },
  "depth_stereo_folder": {
    "data.target.dataset": "folder",
    "data.target.views": ("right",),
    "data.target.depth": "none",
    "data.crop_height": 192,
    "data.crop_width": 640,
    "depth.metres_per_unit": pytest.approx(0.54 / 0.1),  # as published, for KITTI
  },
  "depth_gta_video": {
    "data.target.dataset": "folder",
    "data.target.views": ("previous", "next"),
    "data.target.depth": "none",
  },
}


# Networks and optimisers of DAFormer and VFM-UDA as released.
TRANSFORMERS = {
  "gta2cs_corda_mit": {
    "model.encoder.widths": (64, 128, 320, 512),
    "model.encoder.depths": (3, 6, 40, 3),
    "model.encoder.drop_path": 0.1,
    "model.decoder.fusion": "separable_aspp",
    "model.decoder.width": 256,
    "model.decoder.dropout": 0.1,
    "model.depth": True,
    "model.correlation": True,
    "model.resize_outputs": "aligned",
    "optimizer.learning_rate": 6e-5,
    "optimizer.warmup.steps": 1_500,
    "optimizer.warmup.start": 1e-6,
    "optimizer.warmup.with_decay": True,
    "optimizer.decay_encoder_norms": False,
  },
  "gta2cs_dinov2_source_only": {
    "model.encoder.width": 768,
    "model.encoder.image_scale": 1.1,
    "model.encoder.positions": "offset",
    "model.depth": False,
    "model.resize_outputs": "centered",
    "optimizer.learning_rate": pytest.approx(0.1 * 5e-5 * 8**0.5),
    "optimizer.warmup.start": 1e-3,
    "optimizer.warmup.with_decay": False,
    "optimizer.layer_decay": 1.0,
    "data.batch_size": 8,
    "data.crop_height": 1024,
    "evaluation.window": (1024, 1024),
    "evaluation.window_mean": "probabilities",
  },
}
TRANSFORMERS["gta2cs_vfm_uda"] = TRANSFORMERS["gta2cs_dinov2_source_only"] | {
  "teacher.updates_before": 1,
  "teacher.mirror": True,
  "terms.masked.hidden": "patches",
  "terms.masked.ratio": 0.7,
  "terms.source.mean_over": "valid",
  "terms.mixed.mean_over": "all",
  "mixing.augmentation.decide_for": "image",
  "mixing.augmentation.brightness": "multiply",
  "mixing.augmentation.blend_with_grey": True,
  "terms.masked.augmentation.decide_for": "image",
  "terms.masked.augmentation.sample_for": "image",
  "terms.masked.augmentation.brightness": "multiply",
  "terms.masked.augmentation.blend_with_grey": True,
  "terms.masked.augmentation.blur_probability": 0.5,
  "mixing.weak.jitter_probability": 0.9,
  "mixing.weak.jitter_strength": pytest.approx((32 / 255, 0.5, 0.5, 18 / 360)),
  "mixing.weak.brightness": "multiply",
  "mixing.weak.blend_with_grey": True,
  "mixing.weak.blur_probability": 0.0,
  "data.source.rare_classes.temperature": 0.05,
  "data.source.rare_classes.tries": 20,
}
TRANSFORMERS["gta2cs_daformer_source_only"] = TRANSFORMERS["gta2cs_corda_mit"] | {
  "model.depth": False,
  "model.correlation": False,
  "model.resize_outputs": "centered",
}
_DAFORMER = TRANSFORMERS["gta2cs_daformer_source_only"] | {
  "data.source.height": 704,
  "data.source.rare_classes.enabled": True,
  "data.source.max_class_share": 0.75,
  "data.target.flip": True,
  "terms.source.mean_over": "all",
  "terms.feature_distance.weight": 0.005,
  "teacher.update": "before",
}
TRANSFORMERS["gta2cs_daformer"] = _DAFORMER | {"teacher.untrusted_margins": (15, 120, 0, 0)}
TRANSFORMERS["gta2cs_mic_daformer"] = TRANSFORMERS["gta2cs_daformer"] | {"terms.masked.block": 32}
TRANSFORMERS["synthia2cs_daformer"] = TRANSFORMERS["gta2cs_daformer"] | {
  "data.source.height": 760,
  "data.source.dataset": "synthia",
  "evaluation.classes": "synthia_16",
}
TRANSFORMERS["gta2cs_hrda"] = {
  name.replace("model.", "model.network."): value for name, value in _DAFORMER.items()
} | {
  "data.source.height": 1407,
  "data.crop_height": 1024,
  "data.source.rare_classes.min_crop_ratio": 2.0,
  "model.detail.height": 512,
  "model.detail.loss_weight": 0.1,
  "teacher.untrusted_margins": (30, 240, 30, 30),
  "evaluation.window": (1024, 1024),
}
TRANSFORMERS["gta2cs_mic"] = TRANSFORMERS["gta2cs_hrda"] | {"terms.masked.block": 64}
TRANSFORMERS["synthia2cs_mic"] = TRANSFORMERS["gta2cs_mic"] | {
  "data.source.height": 1520,
  "data.source.width": 2560,
  "evaluation.classes": "synthia_16",
}
TRANSFORMERS["gta2cs_mic_corda"] = TRANSFORMERS["gta2cs_mic"] | {
  "model.network.depth": True,
  "model.network.correlation": True,
  "terms.mixed.depth_weight.enabled": True,
  "terms.depth_files.domains": ("source", "target"),
  "data.source.depth": "disparity",
}


VISION = ("gta2cs_vfm_uda", "gta2cs_dinov2_source_only")


def build(config):
  kind = DepthTask if config.get("task") == "depth" else AdaptationTask
  return kind.from_config(config)


def released(config):
  """Of the released values those of the parts that a recipe has."""
  parts = tuple(f"terms.{name}." for name in ("mixed", "depth_files", "photometric"))
  absent = tuple(part for part in parts if part.split(".")[1] not in config.terms)
  return {name: value for name, value in RELEASED.items() if not name.startswith(absent or ("-",))}


def assert_holds(config, values):
  for name, expected in values.items():
    value = config
    for part in name.split("."):
      value = value[part]
    assert value == expected, name


def flat(config, prefix=""):
  """Every field of a configuration by its dotted name."""
  found = {}
  for name, value in config.items():
    nested = hasattr(value, "items")
    found |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
  return found


def get_config(name, *arguments):
  return importlib.import_module(f"configs.{name}").get_config(*arguments)


@pytest.mark.parametrize("recipe", OWN)
def test_recipes_hold_the_released_numbers(recipe):
  for config in (get_config(recipe), get_config(recipe, "as_released")):
    assert_holds(config, released(config) | OWN[recipe])


@pytest.mark.parametrize("recipe", OWN)
def test_a_preset_turns_the_recipe_into_the_published_one(recipe):
  config = get_config(recipe, "as_published")
  published = {n: v for n, v in PUBLISHED.items() if n in released(config)}
  assert_holds(config, released(config) | OWN[recipe] | published)
  assert AdaptationTask.from_config(config).state_shapes.params
  with pytest.raises(ValueError, match=r"preset.*as_written.*as_released.*as_published"):
    get_config(recipe, "as_written")


@pytest.mark.parametrize(
  "recipe",
  [
    *("gta2cs_daformer", "synthia2cs_daformer", "gta2cs_hrda", "gta2cs_mic", "synthia2cs_mic"),
    *("gta2cs_mic_daformer", "gta2cs_mic_corda", "gta2cs_mic_depth_input"),
  ],
)
def test_what_the_preset_changes_in_recipes_of_transformers(recipe):
  config = flat(get_config(recipe))
  expected = PUBLISHED_TRANSFORMERS.copy()
  if "gta2cs" in recipe:  # 16:9, not the ratio of GTA5's frames
    expected["data.source.height"] = 1440 if config["data.target.height"] == 1024 else 720
  if "model.detail.height" in config:
    expected["model.detail.last_position"] = True
  if recipe == "gta2cs_mic_corda":
    expected["terms.mixed.depth_weight.share_across_batch"] = False
  assert AdaptationTask.from_config(get_config(recipe)).step.adapts
  published = flat(get_config(recipe, "as_published"))
  assert {n: value for n, value in published.items() if config[n] != value} == expected


@pytest.mark.parametrize("recipe", OWN)
def test_recipes_say_command_score_and_source(recipe):
  text = " ".join(importlib.import_module(f"configs.{recipe}").__doc__.split())
  assert f"--config=configs/{recipe}.py" in text
  assert "arXiv" in text or "AdaptSegNet" in text
  assert "Expected: " in text
  assert "Not run here on the real data" in text


@pytest.mark.parametrize("recipe", TRANSFORMERS)
def test_recipes_of_transformers(recipe):
  common = {
    "num_steps": 40_000,
    "optimizer.weight_decay": 0.01,
    "optimizer.schedule_power": 1.0,
    "optimizer.head_learning_rate_factor": 10.0,
    "model.normalization.mean": (123.675, 116.28, 103.53),
    "model.normalization.std": (58.395, 57.12, 57.375),
    "model.normalization.bgr": False,
  }
  config = get_config(recipe)
  assert_holds(config, common | TRANSFORMERS[recipe])
  assert build(config).step.adapts == ("source_only" not in recipe)
  text = " ".join(importlib.import_module(f"configs.{recipe}").__doc__.split())
  assert f"--config=configs/{recipe}.py" in text
  assert "mIoU" in text
  assert "Not run here on the real data" in text
  larger, factor = get_config(recipe, "batch=16"), 16 // config.data.batch_size
  assert (larger.data.batch_size, larger.num_steps) == (16, 40_000 // factor)
  assert larger.optimizer.warmup.steps == -(-1_500 // factor)
  assert build(larger).state_shapes.params  # groups are of networks that have such
  grouped = (
    recipe not in VISION
    and "hrda" not in recipe
    and "_mic" not in recipe.replace("mic_daformer", "")
  )
  assert larger.model.batch_norm_group == (2 if grouped else 0)
  of_vfm_uda = recipe in ("gta2cs_vfm_uda", "gta2cs_dinov2_source_only")
  rate = config.optimizer.learning_rate * (2**0.5 if of_vfm_uda else 1)
  assert larger.optimizer.learning_rate == pytest.approx(rate)


_SECTIONS = ("data.", "teacher.", "mixing.", "terms.", "optimizer.", "evaluation.")


@pytest.mark.parametrize(
  ("part", "recipe"), [("CorDA", "gta2cs"), ("DAFormer, HRDA and MIC", "gta2cs_mic")]
)
def test_the_table_of_switches_names_every_one_with_its_default(part, recipe):
  """Each part of docs/paper_and_release.md against its recipe."""
  page = (Path(__file__).parents[1] / "docs" / "paper_and_release.md").read_text()
  parts = dict(text.split("\n", 1) for text in re.split(r"^## ", page, flags=re.MULTILINE)[1:])
  rows = re.findall(r"^\| (●?) ?\|.*?\| `([a-z_.]+)` \| `([^`]+)` \|", parts[part], re.MULTILINE)
  table = {name: ast.literal_eval(default) for _, name, default in rows}
  assert len(rows) == len(table)
  config, published = (flat(get_config(recipe, *args)) for args in ((), ("as_published",)))
  assert_holds(get_config(recipe), table)
  marked = {name for mark, name, _ in rows if mark}
  assert marked == {name for name, value in config.items() if published[name] != value}
  assert table.keys() >= {"gta2cs": _switches_of_corda, "gta2cs_mic": _switches_of_mic}[recipe]()


def test_the_table_says_what_daformer_sets_otherwise_than_mic():
  page = (Path(__file__).parents[1] / "docs" / "paper_and_release.md").read_text()
  rows = re.findall(r"\| `([a-z_.]+)` \| `[^`]+` \|[^|]*`gta2cs_daformer`: `([^`]+)`", page)
  mic, daformer = flat(get_config("gta2cs_mic")), flat(get_config("gta2cs_daformer"))
  others = {n for n, value in daformer.items() if n.startswith(_SECTIONS) and mic[n] != value}
  assert {n: ast.literal_eval(value) for n, value in rows} == {n: daformer[n] for n in others}


def _switches_of_corda():
  return PUBLISHED.keys() | {n for n in RELEASED if n.startswith(("terms.", "teacher.", "mixing."))}


def _switches_of_mic():
  """What the recipe sets otherwise than CorDA's, and the fields of the parts that it adds."""
  config, corda = flat(get_config("gta2cs_mic")), flat(get_config("gta2cs"))
  changed = {n for n, v in config.items() if n.startswith(_SECTIONS) and corda.get(n, v) != v}
  added = ("terms.feature_distance.", "terms.masked.", "model.detail.")
  new = {n for n in config if n.startswith(added) and ".augmentation." not in n}
  return {n for n in changed | new if not n.endswith((".part", ".depth"))}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_can_be_built(name):
  module = importlib.import_module(f"configs.{name}")
  assert build(module.get_config()).state_shapes.params
  assert module.__doc__


@pytest.mark.parametrize("name", OWN_DEPTH)
def test_recipes_of_depth_hold_the_published_numbers(name):
  config = get_config(name)
  assert_holds(config, DEPTH | OWN_DEPTH[name])
  rate = config.optimizer.learning_rate * config.optimizer.depth_encoder_learning_rate_factor
  assert rate == pytest.approx(1e-5)
  # As published, it falls after 15 of 20 epochs.
  assert config.optimizer.decay_at == (config.num_steps * 15 // 20,)
  if config.data.target.dataset == "cityscapes":
    # As published, a unit is ten baselines: 0.22 m in Cityscapes.
    assert config.depth.metres_per_unit == pytest.approx(0.22 / 0.1)


@pytest.mark.parametrize("name", ["depth_cityscapes", "depth_stereo_folder", "depth_street_world"])
def test_a_preset_names_what_depth_is_learned_from(name):
  networks = {}
  for preset, views in VIEWS.items():
    task = build(get_config(name, preset))
    assert task.views == tuple(task.config.data.target.views) == views
    networks[preset] = set(task.state_shapes.params)
  assert networks == {"stereo": {"depth"}, "video": {"depth", "pose"}, "both": {"depth", "pose"}}
  assert get_config(name).to_dict() == get_config(name, "stereo").to_dict()
  with pytest.raises(ValueError, match=r"views.*mono.*stereo.*video.*both"):
    get_config(name, "mono")


@pytest.mark.parametrize("name", [*OWN_DEPTH][1:] + ["depth_street_world"])
def test_recipes_of_depth_say_their_command(name):
  assert f"--config=configs/{name}.py" in importlib.import_module(f"configs.{name}").__doc__


@pytest.mark.parametrize(
  ("preset", "variant"),
  [("best", variants.RARE_MASKED_DEPTH), ("source_only", variants.SOURCE_ONLY)],
)
def test_the_presets_of_the_demo_are_variants_of_its_ablation(preset, variant):
  config = variants.variant_config(variant, "gta5", "small", {})
  assert get_config("demo", preset).to_dict() == config.to_dict()


def test_the_demo_is_the_best_of_its_ablation():
  assert get_config("demo").to_dict() == get_config("demo", "best").to_dict()


def test_a_larger_batch_keeps_what_is_seen_and_learned():
  config, released = get_config("gta2cs", "as_published,batch=16"), get_config("gta2cs")
  assert_holds(config, PUBLISHED)
  assert config.data.batch_size * config.num_steps == 2 * released.num_steps
  assert config.model.batch_norm_group == 2
  assert config.optimizer.learning_rate == pytest.approx(8 * 2.5e-4)
  assert config.optimizer.weight_decay == released.optimizer.weight_decay
  # What the teacher keeps of itself after as many pairs.
  assert config.teacher.decay == pytest.approx(0.999**8)
  assert config.teacher.initial_label_steps == -(-25_001 // 8)
  assert config.evaluate_every == config.checkpoint_every == 625
  adamw = get_config("demo", "batch=8")
  assert adamw.optimizer.learning_rate == 0.003
  assert adamw.num_steps == 500
  assert get_config("gta2cs", "batch=2").data.batch_size == 2
  for name, batch in (("batch=3", "3"), ("batch=0", "0"), ("as_released,batch=many", "many")):
    with pytest.raises(ValueError, match=rf"batch={batch}\b.*\b2\b"):
      get_config("gta2cs", name)
  with pytest.raises(ValueError, match=r"preset.*as_written,batch=4"):
    get_config("gta2cs", "as_written,batch=4")
