import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import gta2cs_daformer
from corda_jax.models.hrda import Hrda
from corda_jax.pretrained.names.networks import table_of
from corda_jax.training.optimizer import SGD, AdamW, Warmup
from corda_jax.training.state import update_teacher
from tests.golden import files

NAMES = {
  "encoder/stem_conv/kernel": (1.0, 1),
  "encoder/stem_norm/scale": (0.0, 0),
  "encoder/stage1_block0/conv2/kernel": (1.0, 3),
  "encoder/stage1_block0/projection_conv/kernel": (1.0, 4),
  "encoder/stage1_block0/projection_norm/bias": (0.0, 0),
  "encoder/stage1_block0/norm2/scale": (0.0, 0),
  "decoder_S_block0/norm1/bias": (10.0, 1),
  "final_S/kernel0": (10.0, 1),
}


def tree(values):
  result = {}
  for name, value in values.items():
    *parents, leaf = name.split("/")
    node = result
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return result


def test_groups_are_the_releases():
  sgd = SGD()
  for name, expected in NAMES.items():
    assert sgd.group(name, freeze_encoder_affine=True)[:2] == expected
  affine = "encoder/stage1_block0/norm2/scale"
  assert sgd.group(affine, freeze_encoder_affine=False)[:2] == (1.0, 3)
  affine = "encoder/stage1_block0/projection_norm/scale"
  assert sgd.group(affine, freeze_encoder_affine=False)[:2] == (1.0, 4)


def test_updates_agree_with_repeated_pytorch_sgd(float64, random):
  config = SGD(learning_rate=0.01)
  optimizer = config.build(10, freeze_encoder_affine=True)
  start = {name: random.standard_normal((2, 3)) for name in NAMES}
  params = tree({n: jnp.asarray(v) for n, v in start.items()})
  state = optimizer.init(params)
  expected, buffers = dict(start), {name: 0.0 for name in NAMES}
  for step in range(3):
    gradient = {name: random.standard_normal((2, 3)) for name in NAMES}
    rate = config.learning_rate * (1 - step / 10) ** 0.9
    for name, (factor, updates) in NAMES.items():
      for _ in range(updates):  # torch.optim.SGD, once for each time that a parameter is listed
        direction = gradient[name] + 5e-4 * expected[name]
        buffers[name] = 0.9 * buffers[name] + direction
        expected[name] = expected[name] - factor * rate * buffers[name]
    updates, state = jax.jit(optimizer.update)(tree(gradient), state, params)
    params = jax.tree.map(jnp.add, params, updates)
  for name, got in zip(sorted(NAMES), jax.tree.leaves(params), strict=True):
    np.testing.assert_allclose(got, expected[name], rtol=1e-12)
  assert (
    expected["encoder/stage1_block0/norm2/scale"] == start["encoder/stage1_block0/norm2/scale"]
  ).all()


def test_adamw_agrees_with_its_definition(float64, random):
  config = AdamW(learning_rate=0.01, momentum=0.8)
  optimizer = config.build(10, freeze_encoder_affine=True)
  start = {name: random.standard_normal((2, 3)) for name in NAMES}
  params = tree({n: jnp.asarray(v) for n, v in start.items()})
  state = optimizer.init(params)
  expected = dict(start)
  first, second = ({name: 0.0 for name in NAMES} for _ in range(2))
  for step in range(3):
    gradient = {name: random.standard_normal((2, 3)) for name in NAMES}
    rate = config.learning_rate * (1 - step / 10) ** 0.9
    for name, (factor, _) in NAMES.items():
      first[name] = 0.8 * first[name] + 0.2 * gradient[name]
      second[name] = 0.999 * second[name] + 0.001 * gradient[name] ** 2
      moment = first[name] / (1 - 0.8 ** (step + 1))
      scale = np.sqrt(second[name] / (1 - 0.999 ** (step + 1))) + 1e-8
      direction = moment / scale + 5e-4 * expected[name]
      expected[name] = expected[name] - factor * rate * direction
    with jax.numpy_dtype_promotion("standard"):  # optax mixes float32 into its bias correction
      updates, state = jax.jit(optimizer.update)(tree(gradient), state, params)
    params = jax.tree.map(jnp.add, params, updates)
  for name, got in zip(sorted(NAMES), jax.tree.leaves(params), strict=True):
    np.testing.assert_allclose(got, expected[name], rtol=1e-6)


def test_teacher_follows_quickly_at_first(float64):
  teacher, student = {"w": jnp.array([1.0])}, {"w": jnp.array([3.0])}
  for step, keep in ((0, 0.0), (1, 0.5), (9, 0.9), (5000, 0.999)):
    got = update_teacher(teacher, student, jnp.int32(step), 0.999)
    np.testing.assert_allclose(got["w"], keep * 1 + (1 - keep) * 3, rtol=1e-14)


@pytest.mark.parametrize("kind", ["daformer", "hrda"])
def test_daformers_groups(kind):
  """As its optimiser lists them: name → factors of the learning rate and of the decay."""
  path = Path(__file__).parents[1] / "golden" / "daformer" / f"parameter_groups_{kind}_mit_b5.json"
  adamw = AdamW(decay_encoder_norms=False)
  network = gta2cs_daformer.NETWORK
  table = table_of(network if kind == "daformer" else Hrda(network))
  got = {}
  for name in json.loads(path.read_text()):
    group = adamw.group(table.place(name).path, freeze_encoder_affine=False)
    got[name] = [group.learning_rate_factor, group.weight_decay_factor]
  assert got == json.loads(path.read_text())
  norm = "encoder/stage1_blocks/norm1/scale"
  assert AdamW().group(norm, freeze_encoder_affine=False).weight_decay_factor == 1


def test_groups_decay_and_scale(float64):
  adamw = AdamW(learning_rate=1.0, schedule_power=0.0, weight_decay=0.1, decay_encoder_norms=False)
  names = ("encoder/norm1/scale", "encoder/proj/kernel", "final_S/kernel")
  params = tree({name: jnp.full((2,), 3.0) for name in names})
  optimizer = adamw.build(10, freeze_encoder_affine=False)
  gradients = jax.tree.map(jnp.zeros_like, params)
  with jax.numpy_dtype_promotion("standard"):
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  np.testing.assert_allclose(jax.tree.leaves(updates), [[0, 0], [-0.3, -0.3], [-3, -3]])


def test_layers_are_decayed_from_the_last_block_on(float64):
  adamw = AdamW(learning_rate=1.0, schedule_power=0.0, weight_decay=0.0, layer_decay=0.9)
  names = {
    "encoder/blocks/proj/kernel": [0.9**2, 0.9, 1],
    "encoder/cls_token": [0.9**3] * 3,
    "encoder/norm/scale": [1] * 3,
    "final_S/kernel": [10] * 3,
  }
  params = tree({name: jnp.zeros(3) for name in names})
  gradients = jax.tree.map(jnp.ones_like, params)
  optimizer = adamw.build(10, freeze_encoder_affine=False)
  with jax.numpy_dtype_promotion("standard"):
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  expected = tree({name: -np.array(value) for name, value in names.items()})
  for got, value in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(got, value, rtol=1e-6)


def test_warm_up_of_daformer(float64):
  """It multiplies the decaying rate."""
  adamw = AdamW(learning_rate=6e-5, schedule_power=1.0, warmup=Warmup(steps=1_500))
  schedule = adamw.schedule(40_000)
  for step in (0, 1, 749, 1_499, 1_500, 20_000, 39_999):
    expected = 6e-5 * (1 - step / 40_000)
    if step < 1_500:
      expected *= 1 - (1 - step / 1_500) * (1 - 1e-6)
    np.testing.assert_allclose(schedule(jnp.float64(step)), expected, rtol=1e-12)
    assert adamw.rates(40_000)(step)["learning_rate/encoder"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("path", files("foundation/recipes"), ids=lambda path: path.stem)
def test_warm_up_of_vfm_uda(float64, path):
  """It rises to the full rate, and then jumps to the line."""
  z = np.load(path)
  config = json.loads(str(z["config"]))
  adamw = AdamW(
    learning_rate=1.0,
    schedule_power=1.0,
    warmup=Warmup(steps=config["warm_up"], start=1e-3, with_decay=False),
  )
  schedule = adamw.schedule(config["steps"])
  got = [schedule(jnp.float64(step)) for step in z["step"]]
  np.testing.assert_allclose(got, z["factor"], rtol=2e-7)
  for step, expected in zip(z["step"], z["teacher_decay"], strict=True):
    # The step's number counts from 1 there.
    teacher = update_teacher(
      {"w": jnp.ones(())}, {"w": jnp.zeros(())}, jnp.int32(step + 1), config["top"]
    )
    np.testing.assert_allclose(teacher["w"], expected, rtol=2e-7)
