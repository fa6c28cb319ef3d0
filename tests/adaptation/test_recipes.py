"""Steps of the recipes that are lists of terms: DAFormer, HRDA, MIC, VFM-UDA, and with depth."""

import jax
import numpy as np
import pytest

from configs.default import depth_as_input
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.models.build import build_common, model_settings
from corda_jax.training.sharding import make_mesh, put_batch, replicated_key
from tests import tiny_recipes


def run(config, devices, steps=2):
  task = AdaptationTask.from_config(config, make_mesh(jax.devices()[:devices]))
  state, step, found = task.initial_state(), task.compile_step(), []
  key = replicated_key(task.mesh, 0)
  for number in range(steps):
    batch = tiny_recipes.get_batch(number, config.data.batch_size)
    state, metrics = step(state, put_batch(task.mesh, task.batch_inputs(batch)), key)
    found.append(jax.device_get(metrics))
  return task, state, found


def seeing_depth(recipe, **types):
  config = tiny_recipes.get_config(recipe, plain=True, **types)
  depth_as_input(config, tiny_recipes.RESNET, dropout_block=16)
  return config


def seeing_depth_at_one_resolution(recipe, **types):
  config = seeing_depth(recipe, **types)
  config.model = model_settings(config.model.network, build_common(config.model))
  return config


@pytest.mark.parametrize(
  ("recipe", "get_config"),
  [
    # All terms but hidden patches, and half of the program.
    ("gta2cs_mic_corda", seeing_depth_at_one_resolution),
    pytest.param("gta2cs_mic_corda", seeing_depth, marks=pytest.mark.slow),
    *(
      pytest.param(name, tiny_recipes.get_config, marks=pytest.mark.slow)
      for name in tiny_recipes.RECIPES
    ),
  ],
)
def test_several_devices_give_the_same_numbers(float64, recipe, get_config):
  config = get_config(recipe, **{"model.dtype": "float64", "model.param_dtype": "float64"})
  with jax.numpy_dtype_promotion("standard"):  # for optax.scale_by_adam
    (task, one, losses), (_, four, same) = (run(config, devices) for devices in (1, 4))
    start = jax.device_get(task.initial_state().params)
  passes = {"source", "mixed"} | ({"masked"} if "masked" in task.step.terms else set())
  assert set(task.step.passes) == passes
  for first, second in zip(losses, same, strict=True):
    assert first.keys() == second.keys()
    for name, value in first.items():
      assert np.isfinite(value), name
      np.testing.assert_allclose(second[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
  assert losses[0]["confident_fraction"] > 0
  for tree in ("params", "teacher_params", "batch_stats", "teacher_batch_stats"):
    pairs = zip(*(jax.tree.leaves(getattr(state, tree)) for state in (one, four)), strict=True)
    for ours, theirs in pairs:
      np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-12, err_msg=tree)
  moved = {
    name: max(
      jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), tree, one.params[name]))
    )
    for name, tree in start.items()
  }
  # By Adam's steps: the decay alone moves a hundredth of that. DeepLab reads the last level alone.
  still = {n for n, change in moved.items() if change < 0.5 * config.optimizer.learning_rate}
  assert all(name.startswith(("fusion0", "fusion1")) for name in still), still


def test_pictures_of_training_have_the_masked_image():
  task = AdaptationTask.from_config(
    tiny_recipes.get_config("gta2cs_mic", plain=True), make_mesh(jax.devices()[:1])
  )
  batch = task.batch_inputs(tiny_recipes.get_batch())
  with jax.numpy_dtype_promotion("standard"):  # for optax.scale_by_adam
    maps = jax.eval_shape(task.make_maps(), task.state_shapes, batch, jax.random.key(0))
  assert maps["masked_image"].shape == maps["image"].shape == (4, 64, 64, 3)
