"""The recipes hold the released numbers, and the program can build what they describe."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from corda_jax.jobs.experiment import Experiment

CONFIGS = sorted(
  path.stem
  for path in (Path(__file__).parents[1] / "configs").glob("*.py")
  if path.stem != "__init__"
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
  "model.classifier_dilations": (6, 12),
  "model.normalization.mean": (104.00698793, 116.66876762, 122.67891434),
  "model.normalization.std": (1.0, 1.0, 1.0),
  "model.normalization.bgr": True,
  "method.source_depth_loss_weight": 0.01,
  "method.mixed_depth_loss_weight": 0.001,
  "method.confidence_threshold": 0.968,
  "method.teacher_decay": 0.999,
  "method.depth_weight.enabled": True,
  "method.depth_weight.floor": 0.001,
  "method.depth_weight.share_across_batch": True,
  "method.strong_augmentation.jitter_probability": 0.8,
  "method.strong_augmentation.jitter_strength": 0.25,
  "method.strong_augmentation.blur_probability": 0.5,
  "method.strong_augmentation.blur_sigma": (0.15, 1.15),
  "optimizer.name": "sgd",
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
    "model.name": "corda",
    "model.initial_semantics_from": "encoder",
    "method.initial_pseudo_label_steps": 25_001,
    "evaluation.classes": "all",
  },
  "synthia2cs": {
    "data.source.dataset": "synthia",
    "data.source.depth": "simulator",
    "data.target.depth": "stereo",
    "model.initial_semantics_from": "decoder",
    "method.initial_pseudo_label_steps": 0,
    "evaluation.classes": "synthia_16",
  },
  "synthia2cs_mono": {
    "data.source.dataset": "synthia",
    "data.source.depth": "simulator",
    "data.target.depth": "mono",
    "model.initial_semantics_from": "decoder",
    "method.initial_pseudo_label_steps": 0,
    "evaluation.classes": "synthia_16",
  },
  "gta2cs_dacs": {
    "data.source.dataset": "gta5",
    "data.source.depth": "none",
    "data.target.depth": "none",
    "model.name": "deeplab",
    "method.adapt": True,
    "evaluation.classes": "all",
  },
  "gta2cs_source_only": {
    "data.source.dataset": "gta5",
    "data.source.depth": "none",
    "data.target.depth": "none",
    "model.name": "deeplab",
    "method.adapt": False,
    "evaluation.classes": "all",
  },
}

# The release's side of every other switch between it and the publication.
RELEASED |= {
  "model.encoder.stem_pool_ceil": True,
  "model.encoder.stride_on": "conv1",
  "method.mixed_mean_over": "all",
  "method.mix_ignored": True,
  "method.confident_fraction_over": "batch",
  "method.teacher_normalization": "batch",
  "method.teacher_statistics": "own",
  "method.depth_weight.judge": "student",
  "method.depth_weight.divide_by_mean": True,
  "method.strong_augmentation.decide_for": "batch",
  "method.strong_augmentation.brightness": "add",
}

PUBLISHED = {
  "model.classifier_dilations": (6, 12, 18, 24),
  "method.depth_weight.share_across_batch": False,
  "optimizer.encoder_updates_per_step.stem": 1,
  "optimizer.encoder_updates_per_step.residual": 1,
  "optimizer.encoder_updates_per_step.projection": 1,
}


def assert_holds(config, values):
  for name, expected in values.items():
    value = config
    for part in name.split("."):
      value = value[part]
    assert value == expected, name


def get_config(name, *arguments):
  return importlib.import_module(f"configs.{name}").get_config(*arguments)


@pytest.mark.parametrize("recipe", OWN)
def test_recipes_hold_the_released_numbers(recipe):
  assert_holds(get_config(recipe), RELEASED | OWN[recipe])
  assert_holds(get_config(recipe, "as_released"), RELEASED | OWN[recipe])


@pytest.mark.parametrize("recipe", OWN)
def test_a_preset_turns_the_recipe_into_the_published_one(recipe):
  config = get_config(recipe, "as_published")
  assert_holds(config, RELEASED | OWN[recipe] | PUBLISHED)
  assert Experiment.from_config(config).state_shapes().params
  with pytest.raises(ValueError, match="preset 'as_written' is unknown, wanted 'as_released' or"):
    get_config(recipe, "as_written")


@pytest.mark.parametrize("recipe", OWN)
def test_recipes_tell_command_score_and_source(recipe):
  text = " ".join(importlib.import_module(f"configs.{recipe}").__doc__.split())
  assert f"--config=configs/{recipe}.py" in text
  assert "arXiv" in text or "AdaptSegNet" in text
  assert "Expected: " in text
  assert "Not run here on the real data" in text


def test_the_table_of_switches_names_every_one_with_its_default():
  """docs/paper_and_release.md against the configuration."""
  path = Path(__file__).parents[1] / "docs" / "paper_and_release.md"
  rows = re.findall(r"^\|.*?\| `([a-z_.]+)` \| `([^`]+)` \|", path.read_text(), re.MULTILINE)
  table = {name: ast.literal_eval(default) for name, default in rows}
  assert_holds(get_config("gta2cs"), table)
  assert table.keys() >= PUBLISHED.keys() | {n for n in RELEASED if n.startswith("method.")}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_can_be_built(name):
  module = importlib.import_module(f"configs.{name}")
  experiment = Experiment.from_config(module.get_config())
  assert experiment.state_shapes().params
  assert module.__doc__
