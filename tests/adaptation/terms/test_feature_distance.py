import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.adaptation.task import AdaptationTask
from corda_jax.adaptation.terms.base import Context, Pass
from corda_jax.adaptation.terms.feature_distance import FeatureDistance, feature_label
from corda_jax.configuration import settings
from corda_jax.errors import UserError
from corda_jax.training.sharding import make_mesh, put_batch, replicated_key
from tests import tiny, tiny_recipes


def labels(*rows):
  return jnp.asarray([rows], jnp.uint8)


def test_a_square_has_the_class_of_most_of_its_pixels():
  label = labels([7, 7, 3, 3, 9], [7, 255, 5, 5, 9])
  for share, expected in ((0.75, [7, 255]), (0.5, [7, 3]), (0.76, [255, 255])):
    got = feature_label(label, 2, num_classes=19, min_share=share)
    np.testing.assert_array_equal(got, [[expected]])
  nothing = labels([255, 255], [255, 4])
  np.testing.assert_array_equal(feature_label(nothing, 2, num_classes=19, min_share=0.5), [[[255]]])


def task_of(**overrides):
  config = tiny_recipes.get_config("gta2cs_daformer", plain=True, **overrides)
  return AdaptationTask.from_config(config, make_mesh(jax.devices()[:1]))


def test_the_first_encoder_stays(tmp_path):
  task = task_of(**{"terms.feature_distance.weight": 0.5})
  state, step = task.initial_state(), task.compile_step()
  first = jax.device_get(state.params["encoder"])
  jax.tree.map(np.testing.assert_array_equal, state.terms["feature_distance"].params, first)
  key, found = replicated_key(task.mesh, 0), []
  for number in range(3):
    batch = put_batch(task.mesh, task.batch_inputs(tiny_recipes.get_batch(number)))
    with jax.numpy_dtype_promotion("standard"):  # for optax.scale_by_adam
      state, metrics = step(state, batch, key)
    found.append(float(metrics["feature_distance"]))
  jax.tree.map(np.testing.assert_array_equal, state.terms["feature_distance"].params, first)
  moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), state.params["encoder"], first)
  assert max(jax.tree.leaves(moved)) > 0
  # In training the student normalises by the batch, the frozen one by its running statistics.
  assert np.isfinite(found).all()
  assert found[0] > 0
  assert state.terms["feature_distance"].optimizer_state is None


def test_a_file_of_weights_is_what_stays(tmp_path, monkeypatch, capsys):
  task = task_of()
  other = jax.tree.map(lambda x: np.asarray(x) + 1, task.initial_state().params)
  read = type("Weights", (), {"student": {"params": other}, "summary": ""})
  module = "corda_jax.pretrained.torch_checkpoints.read_initial_weights"
  monkeypatch.setattr(module, lambda task: read)
  with task.config.unlocked():
    task.config.initial_weights = "a.pth"
  state = task.fresh_state()
  assert "warning" not in capsys.readouterr().out
  kept = state.terms["feature_distance"].params
  jax.tree.map(np.testing.assert_array_equal, kept, other["encoder"])
  jax.tree.map(np.testing.assert_array_equal, state.params, other)


def test_random_features_are_warned_of(monkeypatch, capsys):
  monkeypatch.setattr("corda_jax.adaptation.task.initial_state", lambda task: None)
  task_of().fresh_state()
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith("warning: terms.feature_distance")
  assert "initial_weights" in line


def test_crops_that_features_do_not_divide_are_named():
  config = tiny.get_config()
  config.terms.feature_distance = settings(FeatureDistance)
  task = AdaptationTask.from_config(config, make_mesh(jax.devices()[:1]))
  state = task.initial_state()
  term = task.step.terms["feature_distance"]
  context = Context(
    task.step,
    {"source_label": jnp.zeros((1, 17, 25), jnp.uint8)},
    state=state.terms["feature_distance"],
  )
  level = jnp.zeros((1, 5, 7, 16))
  seen = Pass(jnp.zeros((1, 17, 25, 3)), {}, (level,))
  with pytest.raises(ValueError, match=r"\(5, 7\).*data\.crop_height.*multiples of 3"):
    term.losses({"source": seen}, context)


def test_things_are_named_among_the_classes_of_the_network():
  own = {"data.classes.names": ("road", "car", "person")}
  with pytest.raises(
    UserError, match=r"terms\.feature_distance\.classes has 'traffic light'.*road"
  ):
    task_of(**own)
  task = task_of(**own, **{"terms.feature_distance.classes": ("person", "car")})
  assert task.step.terms["feature_distance"].class_names == ("road", "car", "person")
  term = task.step.terms["feature_distance"]
  level = jnp.ones((1, 2, 2, 16))
  state = task.initial_state().terms["feature_distance"]
  label = jnp.repeat(jnp.repeat(labels([0, 1], [2, 255]), 8, 1), 8, 2)
  context = Context(task.step, {"source_label": label}, state=state)
  found = term.losses({"source": Pass(jnp.zeros((1, 8, 8, 3)), {}, (level,))}, context)
  np.testing.assert_array_equal(found.maps["feature_label"][0], [[0, 1], [2, 255]])
  # Of four positions, the two things count: the frozen features of an image of zeros are known.
  frozen = task.model.encoder.apply(
    {"params": state.params, "batch_stats": state.batch_stats},
    jnp.zeros((1, 8, 8, 3)),
    train=False,
    method="features",
  )[-1]
  distance = np.linalg.norm(np.asarray(level - frozen), axis=-1)[0]
  expected = (distance[0, 1] + distance[1, 0]) / 2
  np.testing.assert_allclose(found.losses["feature_distance"].value, expected, rtol=1e-5)
