import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.training.optimizer import SGD, AdamW
from corda_jax.training.state import update_teacher

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
    assert sgd.group(name, freeze_encoder_affine=True) == expected
  affine = "encoder/stage1_block0/norm2/scale"
  assert sgd.group(affine, freeze_encoder_affine=False) == (1.0, 3)
  affine = "encoder/stage1_block0/projection_norm/scale"
  assert sgd.group(affine, freeze_encoder_affine=False) == (1.0, 4)


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
