"""The recipes hold the released numbers, and the program can build what they describe."""

import importlib
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
    "data.target.depth": "mono",
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
}


@pytest.mark.parametrize("recipe", OWN)
def test_recipes_hold_the_released_numbers(recipe):
  config = importlib.import_module(f"configs.{recipe}").get_config()
  for name, expected in (RELEASED | OWN[recipe]).items():
    value = config
    for part in name.split("."):
      value = value[part]
    assert value == expected, name


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_can_be_built(name):
  module = importlib.import_module(f"configs.{name}")
  experiment = Experiment.from_config(module.get_config())
  assert experiment.state_shapes().params
  assert module.__doc__
