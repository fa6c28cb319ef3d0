"""Depth heads that learn from other views inside the adaptation step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from corda_jax.losses import berhu
from corda_jax.resize import resize_aligned
from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.sharding import put_batch
from tests.depth import reference
from tests.stub_network import stub_task
from tests.tiny_joint import (
  EVERYTHING,
  FILES,
  SIZE,
  SOURCE,
  TARGET,
  VIDEO,
  build,
  compiled,
  get_batch,
  get_config,
  louder,
  one_step,
)

NAMES = {"ce_src", "ce_mix", "berhu_src", "berhu_mix", "photometric_src", "photometric_mix"}


@pytest.mark.parametrize(
  ("case", "absent"),
  [
    (FILES, {"photometric_src", "photometric_mix"}),
    (TARGET, {"photometric_src"}),
    (EVERYTHING, set()),
    (SOURCE, {"berhu_src", "berhu_mix", "photometric_mix"}),
  ],
)
def test_each_supervision_has_its_losses(case, absent):
  *_, metrics, _ = one_step(*case)
  expected = {name + suffix for name in NAMES - absent for suffix in ("", "_initial")}
  assert set(metrics) == expected | {"total", "gradient_norm", "confident_fraction", "depth_weight"}
  values = jax.device_get(metrics)
  assert all(np.isfinite(value) for value in values.values())
  factors = {"berhu_src": 0.01, "berhu_mix": 0.001}
  total = sum(factors.get(n.removesuffix("_initial"), 1.0) * values[n] for n in expected)
  np.testing.assert_allclose(values["total"], total, rtol=1e-5)
  assert all(0 < values[n] < 1 for n in expected if n.startswith("photometric"))


def test_views_beside_files_leave_the_other_losses_alone():
  files, both = (jax.device_get(one_step(*case)[2]) for case in (FILES, EVERYTHING))
  assert compiled(*FILES)[3].terms == {}
  for name in files.keys() - {"total", "gradient_norm"}:
    np.testing.assert_allclose(both[name], files[name], rtol=2e-5, err_msg=name)


def forward(task, params, stats, x):
  outputs, updated = task.model.apply(
    {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
  )
  outputs = {k: resize_aligned(v, SIZE) for k, v in outputs.items()}
  return {k: np.asarray(v, np.float64) for k, v in outputs.items()}, updated["batch_stats"]


def mixed_outputs(case):
  """The mixed image and the student's outputs on the source and on it."""
  task, inputs, draws, state, _ = compiled(*case)
  source, stats = forward(task, state.params, state.batch_stats, inputs["source_image"])
  mask = np.asarray(draws["mix_mask"])
  image = jnp.where(mask[..., None], inputs["source_image"], inputs["target_image"])
  mixed, _ = forward(task, state.params, stats, image)
  return source, mixed, mask, image


def described_losses(case, domain, heads, image, mask):
  """Photometric losses of one domain, from the batch as the host has it, with NumPy."""
  task, _, draws, state, _ = compiled(*case)
  batch, photometric = get_batch(), task.step.terms["photometric"]
  views = task.step.views[domain]
  target = batch[f"{domain}_image"] / 255
  sources = [batch[f"{domain}_{view}_image"] / 255 for view in views]
  transforms = np.tile(np.eye(4), (len(views), len(target), 1, 1))
  for number, view in enumerate(views):
    if view == "right":
      transforms[number, :, 0, 3] = -batch[f"{domain}_baseline"]
  temporal = [view for view in views if view != "right"]
  if temporal:
    normalize = photometric.normalization.normalize
    frames = {v: normalize(jnp.asarray(batch[f"{domain}_{v}_image"])) for v in temporal}
    here = normalize(jnp.asarray(batch[f"{domain}_image"]))
    pairs = [(frames[v], here) if v == "previous" else (here, frames[v]) for v in temporal]
    first, second = (jnp.concatenate(part) for part in zip(*pairs, strict=True))
    variables = {
      "params": state.terms["photometric"].params,
      "batch_stats": state.terms["photometric"].batch_stats,
    }
    (angles, moves), _ = task.step.terms["photometric"].pose.apply(
      variables, first, second, train=True, mutable=["batch_stats"]
    )
    angles, moves = (
      np.asarray(x, np.float64).reshape(len(temporal), -1, 3) for x in (angles, moves)
    )
    moves = photometric.metres_per_unit * moves
    assert np.abs(moves).max() > 0.1
    for view, angle, move in zip(temporal, angles, moves, strict=True):
      forth = np.tile(np.eye(4), (len(angle), 1, 1))
      forth[:, :3, :3] = Rotation.from_rotvec(angle).as_matrix()
      forth[:, :3, 3] = move
      if view == "previous":
        forth = np.linalg.inv(forth)
      transforms[views.index(view)] = forth
  key = draws["terms"]["photometric"][domain]
  noise = 1e-5 * np.asarray(jax.random.normal(key, (len(views), *target.shape[:3])))
  image = np.asarray(task.normalization.to_unit_range(image))
  losses = {}
  for suffix, head in heads.items():
    inverse = 1 + np.logaddexp(0, head[..., 0] - 1)
    depth = 655.36 / inverse - 0.01
    error = reference.data_error(
      depth, target, sources, transforms, batch[f"{domain}_intrinsics"], noise
    )
    unwarped = np.min(
      [np.stack([reference.error(s[b], target[b]) for b in range(4)]) for s in sources], 0
    )
    assert 0.05 < (error < unwarped - 1e-4).mean() < 0.95  # warping helps here and there
    mean = (inverse * mask).sum((1, 2)) / np.maximum(mask.sum((1, 2)), 1)
    scaled = inverse / mean[:, None, None]
    # Windows of SSIM must lie in the mask; a reflection at the border holds pixels that do.
    inside = ndimage.minimum_filter(mask, (1, 3, 3), mode="mirror")
    losses[suffix] = error[inside].mean() + 1e-3 * reference.smoothness(scaled, image, mask)
  return losses


@pytest.mark.parametrize("case", [TARGET, EVERYTHING])
def test_the_target_loss_follows_the_description(case):
  _, mixed, mask, image = mixed_outputs(case)
  heads = {"": mixed["D"], "_initial": mixed["initial_D"]}
  described = described_losses(case, "target", heads, image, ~mask)
  metrics = one_step(*case)[2]
  for suffix, expected in described.items():
    np.testing.assert_allclose(metrics["photometric_mix" + suffix], expected, rtol=2e-4)
  assert abs(described[""] - described["_initial"]) > 1e-3 * described[""]


@pytest.mark.parametrize("case", [SOURCE, EVERYTHING])
def test_the_source_loss_follows_the_description(case):
  source, *_ = mixed_outputs(case)
  inputs = compiled(*case)[1]
  heads = {"": source["D_src"], "_initial": source["initial_D_src"]}
  everywhere = np.ones((4, *SIZE), bool)
  described = described_losses(case, "source", heads, inputs["source_image"], everywhere)
  metrics = one_step(*case)[2]
  for suffix, expected in described.items():
    np.testing.assert_allclose(metrics["photometric_src" + suffix], expected, rtol=2e-4)


def test_files_of_a_domain_without_them_are_not_read():
  """berHu on the mixed image counts the pixels of domains that have files."""
  _, mixed, mask, _ = mixed_outputs(TARGET)
  inputs = compiled(*TARGET)[1]
  metrics = one_step(*TARGET)[2]
  depth = np.where(mask, inputs["source_inverse_depth"], 1).astype(np.float32)
  for suffix, (target, source) in {
    "": ("D", "D_src"),
    "_initial": ("initial_D", "initial_D_src"),
  }.items():
    prediction = np.where(mask, mixed[source][..., 0], mixed[target][..., 0]).astype(np.float32)
    expected = berhu(jnp.asarray(prediction), jnp.asarray(depth))
    np.testing.assert_allclose(metrics["berhu_mix" + suffix], expected, rtol=1e-4)
  # Whatever is in the place of the target's files, nothing of the step changes.
  *_, state, function = compiled(*TARGET)
  draws = compiled(*TARGET)[2]
  other = inputs | {"target_inverse_depth": 3 + 0 * inputs["target_inverse_depth"]}
  _, changed, _ = function(state, other, draws)
  for name, value in metrics.items():
    np.testing.assert_array_equal(changed[name], value, err_msg=name)


@pytest.mark.parametrize(
  ("case", "learning"),
  [(TARGET, {"final_D", "initial_D"}), (SOURCE, {"final_D_src", "initial_D_src"})],
)
def test_gradients_reach_the_heads_of_the_domain_alone(case, learning):
  overrides = {
    "terms__depth_files__source_weight": 0.0,
    "terms__depth_files__mixed_weight": 0.0,
    "adapt": case is TARGET,
  }
  _, after, *_ = one_step(*case, **overrides)
  velocity = after.optimizer_state["velocity"]  # the gradient, after the first step
  heads = {"final_D", "initial_D", "final_D_src", "initial_D_src"}
  reached = {n for n in heads if any(bool((x != 0).any()) for x in jax.tree.leaves(velocity[n]))}
  assert reached == learning
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(velocity))


def test_the_pose_network_learns_beside_the_others():
  task, *_ = compiled(*EVERYTHING)
  before, after, *_ = one_step(*EVERYTHING)
  changes = {
    jax.tree_util.keystr(path): (np.asarray(a), np.asarray(b))
    for part in ("params", "batch_stats")
    for (path, a), b in zip(
      jax.tree_util.tree_leaves_with_path(getattr(before.terms["photometric"], part)),
      jax.tree.leaves(getattr(after.terms["photometric"], part)),
      strict=True,
    )
  }
  assert all(np.isfinite(b).all() for _, b in changes.values())
  still = [name for name, (a, b) in changes.items() if (a == b).all()]
  assert still == []
  rate = task.config.terms.photometric.pose_learning_rate
  assert rate == 1e-4
  a, b = changes["['decoder']['pose2']['bias']"]
  # Adam's first step is the learning rate, whatever the gradient; the second motion is not used.
  np.testing.assert_allclose(np.abs(a - b)[:6], rate, rtol=1e-2)
  np.testing.assert_array_equal(a[6:], b[6:])
  # What the optimiser of the others reports does not hold the pose network's gradients.
  assert before.params.keys() == after.params.keys()
  assert "pose" not in before.params


def test_statistics_of_the_pose_network_come_from_both_domains():
  task, inputs, _, state, _ = compiled(*EVERYTHING)
  after = one_step(*EVERYTHING)[1]
  stats = state.terms["photometric"].batch_stats
  for domain in ("source", "target"):
    normalize = task.step.terms["photometric"].normalization.normalize
    previous, here, following = (
      normalize(inputs[f"{domain}_{name}"]) for name in ("previous_image", "frame", "next_image")
    )
    first = jnp.concatenate([previous, here])
    second = jnp.concatenate([here, following])
    _, updated = task.step.terms["photometric"].pose.apply(
      {"params": state.terms["photometric"].params, "batch_stats": stats},
      first,
      second,
      train=True,
      mutable=["batch_stats"],
    )
    stats = updated["batch_stats"]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    after.terms["photometric"].batch_stats,
    stats,
  )


@pytest.mark.parametrize("case", [TARGET, EVERYTHING])
def test_checkpoints_hold_the_pose_network_where_there_is_one(case, tmp_path):
  task = compiled(*case)[0]
  after = one_step(*case)[1]
  assert ("photometric" in after.terms) is (case is EVERYTHING)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, after)
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path)
  restored = checkpoints.restore(1, task.state_shapes)
  checkpoints.close()
  assert jax.tree.structure(restored) == jax.tree.structure(after)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(after))


def test_networks_begin_the_same_with_and_without_pose():
  with_pose, without = (compiled(*case)[0].initial_state() for case in (EVERYTHING, TARGET))
  jax.tree.map(np.testing.assert_array_equal, with_pose.params, without.params)


def test_four_devices_give_the_numbers_of_one_with_views(float64):
  types = {"model.dtype": "float64", "model.param_dtype": "float64"}
  case = (("none", ()), ("both", ("right", "next")))
  results = []
  for devices in (1, 4):
    task = build(case, devices, **types)
    state, step = task.initial_state(), task.compile_step()
    state = state.replace(params=louder(state.params))
    batch = put_batch(task.mesh, task.batch_inputs(get_batch()))
    state, metrics = step(state, batch, jax.random.key(0))
    results.append(jax.device_get((metrics, state.params, state.terms["photometric"].params)))
  for one, four in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(four, one, rtol=1e-9, atol=1e-11)


def test_losses_have_weights_of_their_own():
  weights = {"terms__photometric__source_weight": 3.0, "terms__photometric__target_weight": 0.25}
  plain, weighted = (jax.device_get(one_step(*EVERYTHING, **w)[2]) for w in ({}, weights))
  for name in ("photometric_src", "photometric_mix"):
    np.testing.assert_allclose(weighted[name], plain[name], rtol=1e-5)
  source, target = (
    plain[name] + plain[name + "_initial"] for name in ("photometric_src", "photometric_mix")
  )
  expected = plain["total"] + 2 * source - 0.75 * target
  np.testing.assert_allclose(weighted["total"], expected, rtol=1e-5)


def test_views_matter_to_depth_heads_alone():
  """Without depth heads no file and no view is needed."""
  fields = {"data.source.depth": "none", "data.target.depth": "none"}
  fields |= {"model.depth": False, "model.correlation": False}
  task = stub_task(get_config(("files", ()), ("views", VIDEO), **fields))
  task.check_training()
  assert task.initial_state().terms == {}
  assert not any("previous" in name for name in task.batch_inputs(get_batch()))
