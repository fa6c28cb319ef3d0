import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.spatial.transform import Rotation

from corda_jax.color_jitter import color_jitter
from corda_jax.depth.camera import stereo_matrix, synthesize_view
from corda_jax.depth.step import DepthMethod, draw, flip_views
from corda_jax.depth.task import DepthTask
from corda_jax.training.sharding import make_mesh, put_batch
from corda_jax.training.task import compile_step
from tests import tiny_depth
from tests.depth import reference
from tests.stub_network import stub_depth_task

STEREO, VIDEO, ALL = ("right",), ("previous", "next"), ("right", "previous", "next")
SIZE = (tiny_depth.HEIGHT, tiny_depth.WIDTH)
RATE = 0.03
# Plain descent: a parameter's move is its gradient.
OPTIMIZER = optax.sgd(RATE)


@functools.cache
def compiled(views):
  """Task, batch and draws without flip and jitter, a state, and the compiled step."""
  config = tiny_depth.get_config(views, **{"depth.smoothness_weight": 0.0, "depth.min_depth": 1.0})
  task = stub_depth_task(config)
  models = task.models
  step = dataclasses.replace(task.step, optimizer=OPTIMIZER)
  state = jax.jit(step.create_state)(jax.random.key(3))
  if models.pose is not None:  # a camera that moves and turns, not one of the first step
    last = jax.tree.map(lambda x: 600 * x, state.params["pose"]["decoder"]["pose2"])
    decoder = state.params["pose"]["decoder"] | {"pose2": last}
    pose = state.params["pose"] | {"decoder": decoder}
    state = state.replace(params=state.params | {"pose": pose})
  batch = task.batch_inputs(tiny_depth.get_batch(2))
  draws = draw(jax.random.key(1), 4, task.step.config)
  draws |= {name: jnp.zeros(4, bool) for name in ("flip", "use_jitter")}

  return task, batch, draws, state, jax.jit(step.descend)


@functools.cache
def one_step(views, flip=(False,) * 4, jitter=(False,) * 4):
  _, batch, draws, state, step = compiled(views)
  return step(state, batch, draws | {"flip": jnp.array(flip), "use_jitter": jnp.array(jitter)})


@pytest.mark.parametrize("views", [STEREO, VIDEO, ALL])
def test_steps_move_what_there_is(views):
  *_, state, _ = compiled(views)
  after, metrics, _ = one_step(views)
  networks = {"depth"} if views == STEREO else {"depth", "pose"}
  assert set(state.params) == set(after.params) == set(after.batch_stats) == networks
  assert (int(state.step), int(after.step)) == (0, 1)
  distances = {f"{view}_distance" for view in views if view != "right"}
  names = {"total", "counted_share", "mean_depth", "gradient_norm"}
  assert set(metrics) == names | distances
  assert all(np.isfinite(value) and value > 0 for value in metrics.values())
  changes = jax.tree.map(
    lambda a, b: float(np.abs(np.asarray(b) - a).max()),
    (state.params, state.batch_stats),
    (after.params, after.batch_stats),
  )
  assert all(0 < change < np.inf for change in jax.tree.leaves(changes))
  squares = [
    np.sum(np.square((np.asarray(b) - np.asarray(a)) / RATE))
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True)
  ]
  np.testing.assert_allclose(metrics["gradient_norm"], np.sqrt(np.sum(squares)), rtol=1e-2)


def apply(task, state, network, *images):
  """Outputs and statistics of a network in training, of images 0..1."""
  inputs = [jnp.asarray((image - 0.45) / 0.225, jnp.float32) for image in images]
  variables = {"params": state.params[network], "batch_stats": state.batch_stats[network]}
  model = getattr(task.models, network)
  return model.apply(variables, *inputs, train=True, mutable=["batch_stats"])


def described_poses(task, state, views, images):
  """Transforms [N, B, 4, 4] of the temporal views, distances, and statistics."""
  temporal = [view for view in views if view != "right"]
  here = images["image"]
  pairs = [
    (images["previous_image"], here) if view == "previous" else (here, images["next_image"])
    for view in temporal
  ]
  first, second = (np.concatenate(part) for part in zip(*pairs, strict=True))
  motion, updated = apply(task, state, "pose", first, second)
  angles, moves = (np.asarray(x, np.float64).reshape(len(temporal), 4, 3) for x in motion)
  transforms, distances = {}, {}
  for view, angle, move in zip(temporal, angles, moves, strict=True):
    forth = np.tile(np.eye(4), (4, 1, 1))
    forth[:, :3, :3] = Rotation.from_rotvec(angle).as_matrix()
    forth[:, :3, 3] = move
    transforms[view] = np.linalg.inv(forth) if view == "previous" else forth
    distances[view] = np.linalg.norm(move, axis=1).mean()
  assert min(distances.values()) > 0.01
  return transforms, distances, updated["batch_stats"]


@pytest.mark.parametrize("views", [STEREO, VIDEO, ALL])
def test_networks_see_jittered_colours_and_the_loss_true_ones(views):
  jitter = (True, False, True, True)
  task, batch, draws, state, _ = compiled(views)
  after, metrics, maps = one_step(views, jitter=jitter)
  colors = {name: x.astype(np.float64) / 255 for name, x in batch.items() if "image" in name}
  jittered = {
    name: np.where(
      np.array(jitter)[:, None, None, None],
      color_jitter(jnp.asarray(x, jnp.float32), draws["jitter"], brightness_mode="multiply"),
      x,
    )
    for name, x in colors.items()
  }
  disparities, updated = apply(task, state, "depth", jittered["image"])
  stats = {"depth": updated["batch_stats"]}
  full = [jax.image.resize(d, (4, *SIZE, 1), "linear")[..., 0] for d in disparities]
  depths = [1 / (0.01 + 0.99 * np.asarray(d, np.float64)) for d in full]
  np.testing.assert_allclose(maps["depths"], depths, rtol=1e-3)
  np.testing.assert_allclose(metrics["mean_depth"], depths[0].mean(), rtol=1e-3)

  transforms = {}
  if views != STEREO:
    transforms, distances, stats["pose"] = described_poses(task, state, views, jittered)
    for view, distance in distances.items():
      np.testing.assert_allclose(metrics[f"{view}_distance"], distance, rtol=1e-3)
  if "right" in views:  # of Cityscapes: a unit is 2.2 m
    transforms["right"] = np.tile(np.eye(4), (4, 1, 1))
    transforms["right"][:, 0, 3] = -batch["baseline"] / 2.2
  sources = np.stack([colors[f"{view}_image"] for view in views])
  matrices = [transforms[view] for view in views]
  noise = 1e-5 * np.asarray(jax.random.normal(draws["noise"], (len(views), 4, *SIZE)))
  losses = [
    reference.data_error(
      depth, colors["image"], sources, matrices, batch["intrinsics"], noise
    ).mean()
    for depth in np.asarray(maps["depths"], np.float64)
  ]
  np.testing.assert_allclose(maps["losses"], losses, rtol=2e-4)
  np.testing.assert_allclose(metrics["total"], np.mean(losses), rtol=2e-4)
  assert 0.02 < metrics["counted_share"] < 0.98

  for network, expected in stats.items():
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
      after.batch_stats[network],
      expected,
    )
  plain = one_step(views)[2]
  assert np.abs(np.asarray(plain["depth"]) / maps["depth"] - 1).max() > 1e-3


def mirrored(batch):
  """The batch as a mirror shows it, its cameras too: the right one then stands to the left."""
  seen = {n: x[:, :, ::-1].copy() if "image" in n else x.copy() for n, x in batch.items()}
  seen["intrinsics"][:, 2] = SIZE[1] - 1 - seen["intrinsics"][:, 2]
  seen["baseline"] = -seen["baseline"]
  return seen


@pytest.mark.parametrize("views", [STEREO, ALL])
def test_a_flip_is_a_mirrored_batch(views):
  _, batch, draws, state, step = compiled(views)
  got = one_step(views, flip=(True,) * 4)
  expected = step(state, mirrored(batch), draws)
  np.testing.assert_allclose(got[1]["total"], expected[1]["total"], rtol=1e-6)
  np.testing.assert_allclose(got[2]["depth"], expected[2]["depth"], rtol=1e-5)
  assert abs(float(got[1]["total"]) - float(one_step(views)[1]["total"])) > 1e-6
  # Each sample is flipped or not by itself.
  flip = np.array([True, False, False, True])
  names = [name for name in batch if "image" in name]
  some = flip_views({n: jnp.asarray(x) for n, x in batch.items()}, jnp.asarray(flip), tuple(names))
  for name, value in mirrored(batch).items():
    np.testing.assert_allclose(some[name][flip], value[flip], rtol=1e-6)
    np.testing.assert_array_equal(some[name][~flip], batch[name][~flip])


def test_a_mirrored_pair_still_explains_itself(random):
  """Two cameras before a plane: flipped or not, its true depth leaves no error inside."""
  texture = random.randint(0, 255, (1, 8, 30, 3)).astype(np.uint8)
  batch = {
    "image": texture[:, :, 5:25],
    "right_image": texture[:, :, 8:28],  # 3 pixels: 12 * 0.5 / 2
    "intrinsics": np.array([[12, 12, 6.5, 3]], np.float32),
    "baseline": np.array([0.5], np.float32),
  }
  arrays = {name: jnp.asarray(x) for name, x in batch.items()}
  for flip in (False, True):
    seen = flip_views(arrays, jnp.array([flip]), ("image", "right_image"))
    depth = jnp.full((1, 8, 20), 2.0)
    right = seen["right_image"].astype(jnp.float32)
    made = synthesize_view(right, depth, seen["intrinsics"], stereo_matrix(seen["baseline"]))
    inside = np.s_[:, :, :-3] if flip else np.s_[:, :, 3:]
    np.testing.assert_allclose(made[inside], seen["image"][inside], atol=0.01)


@pytest.mark.parametrize("views", [STEREO, ALL])
def test_a_batch_is_learned(views):
  *_, batch, draws, state, step = compiled(views)
  totals = []
  for _ in range(12):
    state, metrics, _ = step(state, batch, draws)
    totals.append(float(metrics["total"]))
  assert totals[-1] < totals[0] - 1e-3


CONFIG = DepthMethod()


def test_draws_depend_on_the_key_alone():
  first, again, other = (draw(jax.random.key(k), 64, CONFIG) for k in (0, 0, 1))
  for name in ("flip", "use_jitter"):
    np.testing.assert_array_equal(first[name], again[name])
    assert (first[name] != other[name]).any()
  for name, value in first["jitter"].items():
    np.testing.assert_array_equal(value, again["jitter"][name])
    assert (value != other["jitter"][name]).any()
  assert first["noise"] == again["noise"] != other["noise"]


def test_draws_are_as_often_and_as_strong_as_configured():
  config = DepthMethod(flip_probability=0.3, jitter_probability=0.8)
  draws = draw(jax.random.key(0), 4000, config)
  np.testing.assert_allclose(draws["flip"].mean(), 0.3, atol=0.03)
  np.testing.assert_allclose(draws["use_jitter"].mean(), 0.8, atol=0.03)
  both = (draws["flip"] & draws["use_jitter"]).mean()
  np.testing.assert_allclose(both, 0.24, atol=0.03)  # neither decides the other
  for name, center, reach in (
    ("brightness", 1, 0.2),
    ("contrast", 1, 0.2),
    ("saturation", 1, 0.2),
    ("hue", 0, 0.1),  # as released
  ):
    values = np.asarray(draws["jitter"][name])
    np.testing.assert_allclose(
      [values.min(), values.max()], [center - reach, center + reach], atol=1e-2
    )


def test_each_step_draws_again_and_four_devices_give_the_numbers_of_one(float64):
  types = {"model.dtype": "float64", "model.param_dtype": "float64"}
  views = ("right", "next")
  config = tiny_depth.get_config(views, **types)
  results, start = [], None
  for devices in (1, 4):
    mesh = make_mesh(jax.devices()[:devices])
    task = DepthTask.from_config(config, mesh)
    batch = task.batch_inputs(tiny_depth.get_batch(2))
    plain = dataclasses.replace(task.step, optimizer=OPTIMIZER)
    step = compile_step(plain, mesh)
    start = start or jax.device_get(jax.jit(plain.create_state)(jax.random.key(3)))
    rows = []
    for number in (0, 1):
      state = jax.device_put(start.replace(step=np.int32(number)))
      state, metrics = step(state, put_batch(mesh, batch), jax.random.key(0))
      rows.append(jax.device_get((metrics, state.params, state.batch_stats)))
    assert rows[0][0]["total"] != rows[1][0]["total"]
    results.append(rows)
  for one, four in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(four, one, rtol=1e-9, atol=1e-11)
