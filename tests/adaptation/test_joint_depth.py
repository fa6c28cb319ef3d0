"""Depth heads that learn from other views inside the adaptation step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from corda_jax.adaptation.joint_depth import (
  head_to_metres,
  judged_inverse_depth,
  photometric_losses,
  positive,
  scenes,
)
from corda_jax.adaptation.objective import (
  mixed_losses,
  mixed_weights,
  source_losses,
  total_loss,
)
from corda_jax.adaptation.step import adapt, draw
from corda_jax.depth.photometric import Views
from corda_jax.errors import UserError
from corda_jax.jobs.experiment import Experiment
from corda_jax.jobs.train import compile_step, step_inputs
from corda_jax.losses import berhu
from corda_jax.resize import resize_aligned
from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.sharding import make_mesh, put_batch
from tests import tiny
from tests.depth import reference

SIZE = (tiny.HEIGHT, tiny.WIDTH)
STEREO, VIDEO, ALL = ("right",), ("previous", "next"), ("right", "previous", "next")


def get_config(source, target, **overrides):
  """Of (supervision, views) for source and target."""
  config = tiny.get_config()
  config.update_from_flattened_dict(
    {
      "method.depth_supervision.source": source[0],
      "method.depth_supervision.target": target[0],
      "data.source.views": source[1],
      "data.target.views": target[1],
      "model.pose_encoder.stage_sizes": (1, 1),
      "model.pose_encoder.strides": (1, 2),
      "model.pose_encoder.dilations": (1, 1),
      "model.pose_encoder.width": 4,
      "model.pose_encoder.stem_kernel": 3,
      "model.pose_decoder_width": 4,
      "optimizer.weight_decay": 0.0,
    }
  )
  config.update_from_flattened_dict(overrides)
  return config


def get_batch(seed=3):
  """A host batch with all views of both domains; neighbours are the image, moved and noisy."""
  batch = tiny.get_batch(seed)
  random = np.random.RandomState(seed)
  for domain in ("source", "target"):
    image = np.kron(random.randint(0, 200, (4, 6, 9, 3)), np.ones((1, 3, 3, 1)))
    image = image[:, : SIZE[0], : SIZE[1]]

    def seen(image, shift):
      moved = np.roll(image, shift, 2) + random.randint(0, 40, image.shape)
      return moved.astype(np.uint8)

    batch[f"{domain}_image"] = seen(image, 0)
    for view, shift in (("right", -2), ("previous", 1), ("next", -1)):
      batch[f"{domain}_{view}_image"] = seen(image, shift)
    size = np.array([*SIZE[::-1], *SIZE[::-1]])
    shares = random.uniform([0.7, 0.9, 0.4, 0.4], [0.9, 1.2, 0.6, 0.6], (4, 4))
    batch[f"{domain}_intrinsics"] = (shares * size).astype(np.float32)
    batch[f"{domain}_baseline"] = random.uniform(0.8, 1.2, 4).astype(np.float32)
  return batch


def test_heads_become_metres(float64):
  head = jnp.concatenate([-jnp.geomspace(1e6, 1e-3, 40), jnp.geomspace(1e-3, 1e6, 60)])
  metres = np.asarray(head_to_metres(head))
  assert metres.min() == 0.1
  assert metres.max() == pytest.approx(655.35)
  assert (np.diff(metres) <= 0).all()
  inside = (head > -30) & (metres > 0.1)
  assert inside.sum() > 60
  assert (np.diff(metres[inside]) < 0).all()
  np.testing.assert_allclose(positive(head), 1 + np.logaddexp(0, np.asarray(head) - 1))
  large = (head > 30) & (metres > 0.1)
  assert large.sum() > 10
  np.testing.assert_allclose(metres[large], 655.36 / head[large] - 0.01, rtol=1e-12)
  # As the module says: at 65 m the two scales differ by 0.0001.
  assert abs(float(positive(jnp.asarray(10.0))) - 10) == pytest.approx(1.2e-4, rel=0.05)


def test_heads_have_finite_gradients_however_far_they_are():
  head = jnp.array([-1e30, -1e4, -50, -1, 0, 1, 2, 100, 6000, 1e4, 1e30], jnp.float32)
  values, gradients = jax.jit(jax.vmap(jax.value_and_grad(head_to_metres)))(head)
  assert np.isfinite(values).all()
  assert np.isfinite(gradients).all()
  moving = (head >= -1) & (head <= 5000)
  assert (np.asarray(gradients)[moving] < 0).all()
  assert (np.asarray(gradients)[head > 1e4 - 1] == 0).all()  # nearer than 0.1 m


def build(case, devices=1, **overrides):
  """An experiment whose Adam, which is the library's, may promote types."""
  experiment = Experiment.from_config(
    get_config(*case, **overrides), make_mesh(jax.devices()[:devices])
  )
  if experiment.joint is None or experiment.joint.pose is None:
    return experiment
  adam = experiment.joint.pose_optimizer

  def update(*arguments):
    with jax.numpy_dtype_promotion("standard"):
      return adam.update(*arguments)

  optimizer = optax.GradientTransformation(adam.init, update)
  joint = dataclasses.replace(experiment.joint, pose_optimizer=optimizer)
  return dataclasses.replace(experiment, joint=joint)


def louder(params):
  """Depth heads that see 8 to 30 metres, and differ, as they do once they are trained."""
  params = dict(params)
  for number, name in enumerate(("initial_D", "initial_D_src", "final_D", "final_D_src")):

    def change(path, x, number=number):
      bias = path[-1].key == "bias"
      return jnp.full_like(x, 20.0 + 6 * number) if bias else 100 * x

    params[name] = jax.tree_util.tree_map_with_path(change, params[name])
  return params


@functools.cache
def compiled(source, target, **overrides):
  """An experiment, the inputs and draws of a step, a state, and the compiled step."""
  overrides = {name.replace("__", "."): value for name, value in overrides.items()}
  experiment = build((source, target), **overrides)
  config = experiment.config
  batch = {k: jnp.asarray(v) for k, v in get_batch().items()}
  inputs = dict(batch)
  for name in ("source_image", "target_image"):
    inputs[name] = experiment.normalization.normalize(batch[name])
  if experiment.joint is not None:
    inputs["scenes"] = scenes(batch, experiment.joint, experiment.normalization, jnp.float32)
  draws = draw(jax.random.key(5), inputs["source_label"], 19, config.method)
  draws |= {"use_jitter": jnp.asarray(False), "use_blur": jnp.asarray(False)}

  @jax.jit
  def function(state, inputs, draws):
    return adapt(
      state,
      inputs,
      draws,
      experiment.model,
      experiment.optimizer,
      experiment.normalization,
      config.method,
      experiment.joint,
    )

  state = experiment.initial_state()
  state = state.replace(params=louder(state.params))
  state = state.replace(teacher_params=jax.tree.map(lambda x: 1.1 * x, state.params))
  if state.pose is not None:  # a camera that moves and turns, not one of the first step
    last = jax.tree.map(lambda x: 1200 * x, state.pose.params["decoder"]["pose2"])
    decoder = state.pose.params["decoder"] | {"pose2": last}
    state = state.replace(pose=state.pose.replace(params=state.pose.params | {"decoder": decoder}))
  return experiment, inputs, draws, state, function


@functools.cache
def one_step(source, target, **overrides):
  """State before, state after, metrics, maps."""
  _, inputs, draws, state, function = compiled(source, target, **overrides)
  return (state, *function(state, inputs, draws))


FILES = (("files", ()), ("files", ()))
TARGET = (("files", ()), ("photometric", STEREO))
EVERYTHING = (("both", VIDEO), ("both", ALL))
SOURCE = (("photometric", STEREO), ("none", ()))

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
  wanted = {name + suffix for name in NAMES - absent for suffix in ("", "_initial")}
  assert set(metrics) == wanted | {"total", "gradient_norm", "confident_fraction"}
  values = jax.device_get(metrics)
  assert all(np.isfinite(value) for value in values.values())
  factors = {"berhu_src": 0.01, "berhu_mix": 0.001}
  total = sum(factors.get(n.removesuffix("_initial"), 1.0) * values[n] for n in wanted)
  np.testing.assert_allclose(values["total"], total, rtol=1e-5)
  assert all(0 < values[n] < 1 for n in wanted if n.startswith("photometric"))


def test_the_losses_have_weights_of_their_own():
  fields = {"method.photometric.target_weight": 0.25, "method.photometric.source_weight": 3.0}
  method = get_config(*EVERYTHING, **fields).method
  losses = {"photometric_src": 1.0, "photometric_src_initial": 10.0}
  assert float(total_loss(losses, method)) == 33
  losses = {"photometric_mix": 4.0, "photometric_mix_initial": 40.0}
  assert float(total_loss(losses, method)) == 11


def test_views_beside_files_leave_the_other_losses_alone():
  files, both = (jax.device_get(one_step(*case)[2]) for case in (FILES, EVERYTHING))
  assert compiled(*FILES)[0].joint is None
  for name in files.keys() - {"total", "gradient_norm"}:
    np.testing.assert_allclose(both[name], files[name], rtol=2e-5, err_msg=name)


def forward(experiment, params, stats, x):
  outputs, updated = experiment.model.apply(
    {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
  )
  outputs = {k: resize_aligned(v, SIZE) for k, v in outputs.items()}
  return {k: np.asarray(v, np.float64) for k, v in outputs.items()}, updated["batch_stats"]


def mixed_outputs(case):
  """The mixed image and the student's outputs on the source and on it."""
  experiment, inputs, draws, state, _ = compiled(*case)
  source, stats = forward(experiment, state.params, state.batch_stats, inputs["source_image"])
  mask = np.asarray(draws["mix_mask"])
  image = jnp.where(mask[..., None], inputs["source_image"], inputs["target_image"])
  mixed, _ = forward(experiment, state.params, stats, image)
  return source, mixed, mask, image


def described_losses(case, domain, heads, image, mask):
  """Photometric losses of one domain, from the batch as the host has it, with NumPy."""
  experiment, _, draws, state, _ = compiled(*case)
  batch, photometric = get_batch(), experiment.config.method.photometric
  views = experiment.joint.views[domain]
  target = batch[f"{domain}_image"] / 255
  sources = [batch[f"{domain}_{view}_image"] / 255 for view in views]
  transforms = np.tile(np.eye(4), (len(views), len(target), 1, 1))
  for number, view in enumerate(views):
    if view == "right":
      transforms[number, :, 0, 3] = -batch[f"{domain}_baseline"]
  temporal = [view for view in views if view != "right"]
  if temporal:
    normalize = experiment.normalization.normalize
    frames = {v: normalize(jnp.asarray(batch[f"{domain}_{v}_image"])) for v in temporal}
    here = normalize(jnp.asarray(batch[f"{domain}_image"]))
    pairs = [(frames[v], here) if v == "previous" else (here, frames[v]) for v in temporal]
    first, second = (jnp.concatenate(part) for part in zip(*pairs, strict=True))
    variables = {"params": state.pose.params, "batch_stats": state.pose.batch_stats}
    (angles, moves), _ = experiment.joint.pose.apply(
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
  key = draws["noise"][domain]
  noise = 1e-5 * np.asarray(jax.random.normal(key, (len(views), *target.shape[:3])))
  image = np.asarray(experiment.normalization.to_unit_range(image))
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


@pytest.mark.parametrize("judge", ["student", "teacher"])
@pytest.mark.parametrize("supervision", ["files", "photometric", "both", "none"])
@pytest.mark.parametrize("domain", ["source", "target"])
def test_the_discrepancy_is_judged_by_what_the_domain_has(random, domain, supervision, judge):
  """A domain's Y: of its files, else its own head's prediction; without either the weight is 1."""
  other = "target" if domain == "source" else "source"
  config = get_config(("files", ()), ("files", ()), **{"method.depth_weight.judge": judge}).method
  config.depth_supervision[domain] = supervision
  config.depth_weight.share_across_batch = config.depth_weight.divide_by_mean = False
  shape = (2, 5, 7)
  networks = [
    {name: random.uniform(0, 9, (*shape, 1)).astype(np.float32) for name in ("D", "D_src")}
    for _ in range(2)
  ]
  student, teacher = networks
  depth = {
    d: np.where(random.uniform(size=shape) < 0.2, 1, random.uniform(2, 9, shape))
    for d in ("source", "target")
  }
  depth = {d: x.astype(np.float32) for d, x in depth.items()}
  mask = random.uniform(size=shape) < 0.5
  mixed = {
    "mask": jnp.asarray(mask),
    "inverse_depth": jnp.asarray(np.where(mask, depth["source"], depth["target"])),
    "confident_fraction": jnp.ones((2, 1, 1)),
  }
  arrays = [jax.tree.map(jnp.asarray, x) for x in networks]
  _, weight = mixed_weights(*arrays, mixed, jnp.asarray(depth["target"]), config)

  judged = student if judge == "student" else teacher
  own = {"source": judged["D_src"][..., 0], "target": judged["D"][..., 0]}
  y = dict(depth)
  if supervision in ("photometric", "none"):
    y[domain] = 1 + np.logaddexp(0, own[domain] - 1)
  discrepancy = np.abs(own["source"] - own["target"])
  expected = {}
  for d in ("source", "target"):
    trust = np.clip(np.maximum(1 - discrepancy / y[d], 0) + 0.001 + (y[d] == 1), 0, 1)
    expected[d] = np.ones(shape) if supervision == "none" and d == domain else trust
  if judge == "teacher":
    expected["source"] = np.ones(shape)
  np.testing.assert_allclose(
    weight, np.where(mask, expected["source"], expected["target"]), rtol=1e-5
  )
  if judge == "student":
    assert (expected[other] < 0.9).mean() > 0.3


def test_the_judging_head_gets_no_gradient():
  head = jnp.array([[[3.0, -2.0]]])
  files = jnp.array([[[7.0, 1.0]]])

  def total(head, supervision):
    return judged_inverse_depth(files, head, supervision).sum()

  for supervision in ("files", "photometric", "both", "none"):
    np.testing.assert_array_equal(jax.grad(total)(head, supervision), 0)


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


def test_berhu_of_each_supervision(random):
  shape = (2, 5, 7)
  names = ("S", "D", "D_src")
  outputs = {n: jnp.asarray(random.uniform(1, 9, (*shape, 1)), jnp.float32) for n in names}
  mask = random.uniform(size=shape) < 0.5
  depth = random.uniform(2, 9, shape).astype(np.float32)
  mixed = {
    "mask": jnp.asarray(mask),
    "label": jnp.zeros(shape, jnp.int32),
    "inverse_depth": jnp.asarray(depth),
  }
  batch = {"source_label": mixed["label"], "source_inverse_depth": mixed["inverse_depth"]}
  prediction = np.where(mask, outputs["D_src"][..., 0], outputs["D"][..., 0])
  for source, target in (("files", "none"), ("none", "both"), ("both", "photometric")):
    config = get_config((source, STEREO), (target, STEREO)).method
    counted = {"files": True, "both": True, "none": False, "photometric": False}
    known = np.where(mask, counted[source], counted[target])
    losses = mixed_losses(outputs, mixed, jnp.ones(shape), config)
    expected = berhu(jnp.asarray(prediction), jnp.asarray(np.where(known, depth, 1)))
    np.testing.assert_allclose(losses["berhu_mix"], expected, rtol=1e-6)
    assert ("berhu_src" in source_losses(outputs, batch, config)) is counted[source]
  config = get_config(("none", ()), ("photometric", STEREO)).method
  assert "berhu_mix" not in mixed_losses(outputs, mixed, jnp.ones(shape), config)


def random_scene(random, views=2):
  shape = (2, 9, 11)
  images = random.uniform(size=(views + 1, *shape, 3)).astype(np.float32)
  transforms = np.tile(np.eye(4, dtype=np.float32), (views, 2, 1, 1))
  transforms[..., 0, 3] = -np.linspace(0.4, 0.8, views)[:, None]
  intrinsics = np.tile(np.array([9, 10, 5.2, 3.8], np.float32), (2, 1))
  arrays = (images[0], images[1:], transforms, intrinsics)
  return Views(*map(jnp.asarray, arrays), (True,) * views), random.uniform(60, 200, shape).astype(
    np.float32
  )


def test_what_shows_the_other_domain_does_not_count(random):
  config = get_config(*FILES).method.photometric
  views, head = random_scene(random)
  mask = np.zeros(head.shape, bool)
  mask[:, :, 6:] = True
  image = np.asarray(views.target)

  @jax.jit
  def loss(head, image, mask):
    return photometric_losses({"": head}, views, image, mask, config, jax.random.key(0))[""]

  value, gradient = jax.value_and_grad(loss)(head, image, mask)
  counted = np.abs(np.asarray(gradient)) > 0
  assert counted[:, :, 6:].any()
  assert not counted[:, :, :6].any()  # also not by the windows of pixels beside it
  far = np.arange(11) < 6
  np.testing.assert_array_equal(
    loss(np.where(far, 77, head).astype(np.float32), image, mask), value
  )
  other = np.where((np.arange(11) < 6)[:, None], 1 - image, image)
  np.testing.assert_array_equal(loss(head, other, mask), value)
  assert loss(head, 1 - image * image, mask) != value
  # Without a pixel there is no loss, and no gradient that is not a number.
  value, gradient = jax.value_and_grad(loss)(head, image, np.zeros_like(mask))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_switches_of_the_loss(random):
  views, head = random_scene(random)
  key, everywhere = jax.random.key(0), np.ones(head.shape, bool)
  values = {}
  for automask in ("all", "none"):
    for over_views in ("minimum", "mean"):
      for smoothness in (0.0, 1e-3):
        config = get_config(*FILES).method.photometric
        config.update(automask=automask, over_views=over_views, smoothness_weight=smoothness)
        found = photometric_losses(
          {"": jnp.asarray(head)}, views, views.target, jnp.asarray(everywhere), config, key
        )
        values[automask, over_views, smoothness] = float(found[""])
        again = photometric_losses({"": jnp.asarray(head)}, views, views.target, None, config, key)
        np.testing.assert_allclose(again[""], found[""], rtol=1e-6)
  depth = 655.36 / head - 0.01
  noise = 1e-5 * np.asarray(jax.random.normal(key, (2, *head.shape)))
  arrays = (np.asarray(x) for x in views[:4])
  target, sources, transforms, intrinsics = arrays
  scaled = head / head.mean((1, 2), keepdims=True)
  smooth = 1e-3 * reference.smoothness(scaled, target, everywhere)
  each = [
    reference.data_error(depth, target, sources[n : n + 1], transforms[n : n + 1], intrinsics)
    for n in range(2)
  ]
  still = [
    np.stack([reference.error(sources[n, b], target[b]) + noise[n, b] for b in range(2)])
    for n in range(2)
  ]
  for (automask, over_views, smoothness), value in values.items():
    join = np.min if over_views == "minimum" else np.mean
    error = join(each, 0)
    error = np.minimum(error, join(still, 0)) if automask == "all" else error
    expected = error.mean() + (smooth if smoothness else 0)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
  assert len({round(value, 5) for value in values.values()}) == 8


@pytest.mark.parametrize(
  ("case", "learning"),
  [(TARGET, {"final_D", "initial_D"}), (SOURCE, {"final_D_src", "initial_D_src"})],
)
def test_gradients_reach_the_heads_of_the_domain_alone(case, learning):
  overrides = {
    "method__source_depth_loss_weight": 0.0,
    "method__mixed_depth_loss_weight": 0.0,
    "method__adapt": case is TARGET,
  }
  _, after, *_ = one_step(*case, **overrides)
  velocity = after.optimizer_state["velocity"]  # the gradient, after the first step
  heads = {"final_D", "initial_D", "final_D_src", "initial_D_src"}
  reached = {n for n in heads if any(bool((x != 0).any()) for x in jax.tree.leaves(velocity[n]))}
  assert reached == learning
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(velocity))


def test_the_pose_network_learns_beside_the_others():
  experiment, *_ = compiled(*EVERYTHING)
  before, after, *_ = one_step(*EVERYTHING)
  changes = {
    jax.tree_util.keystr(path): (np.asarray(a), np.asarray(b))
    for part in ("params", "batch_stats")
    for (path, a), b in zip(
      jax.tree_util.tree_leaves_with_path(getattr(before.pose, part)),
      jax.tree.leaves(getattr(after.pose, part)),
      strict=True,
    )
  }
  assert all(np.isfinite(b).all() for _, b in changes.values())
  still = [name for name, (a, b) in changes.items() if (a == b).all()]
  assert still == []
  rate = experiment.config.method.photometric.pose_learning_rate
  assert rate == 1e-4
  a, b = changes["['decoder']['pose2']['bias']"]
  # Adam's first step is the learning rate, whatever the gradient; the second motion is not used.
  np.testing.assert_allclose(np.abs(a - b)[:6], rate, rtol=1e-2)
  np.testing.assert_array_equal(a[6:], b[6:])
  # What the optimiser of the others reports does not hold the pose network's gradients.
  assert before.params.keys() == after.params.keys()
  assert "pose" not in before.params


def test_statistics_of_the_pose_network_come_from_both_domains():
  experiment, inputs, _, state, _ = compiled(*EVERYTHING)
  after = one_step(*EVERYTHING)[1]
  stats = state.pose.batch_stats
  for domain in ("source", "target"):
    scene = inputs["scenes"][domain]
    first = jnp.concatenate([scene["previous_input"], scene["input"]])
    second = jnp.concatenate([scene["input"], scene["next_input"]])
    _, updated = experiment.joint.pose.apply(
      {"params": state.pose.params, "batch_stats": stats},
      first,
      second,
      train=True,
      mutable=["batch_stats"],
    )
    stats = updated["batch_stats"]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    after.pose.batch_stats,
    stats,
  )


@pytest.mark.parametrize("case", [TARGET, EVERYTHING])
def test_checkpoints_hold_the_pose_network_where_there_is_one(case, tmp_path):
  experiment = compiled(*case)[0]
  after = one_step(*case)[1]
  assert (after.pose is not None) is (case is EVERYTHING)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, after, score=None)
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path)
  restored = checkpoints.restore(1, experiment.state_shapes())
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
    experiment = build(case, devices, **types)
    state, step = experiment.initial_state(), compile_step(experiment)
    state = state.replace(params=louder(state.params))
    batch = put_batch(experiment.mesh, step_inputs(get_batch(), experiment.joint))
    state, metrics = step(state, batch, jax.random.key(0))
    results.append(jax.device_get((metrics, state.params, state.pose.params)))
  for one, four in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(four, one, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
  ("source", "target", "overrides", "told"),
  [
    (
      ("none", ()), ("none", ()), {},
      "depth_supervision is 'none' for source and target, .* set model.depth=False",
    ),
    (
      ("files", ()), ("photometric", ()), {},
      r"supervision.target is 'photometric', but data.target.views is empty: set \('right',\)",
    ),
    (
      ("both", ()), ("files", ()), {},
      "supervision.source is 'both', but data.source.views is empty",
    ),
    (
      ("both", STEREO), ("files", ()), {"data.source.depth": "none"},
      "supervision.source is 'both', but data.source.depth is 'none': name a kind of depth files",
    ),
    (
      ("files", ()), ("files", ()), {"data.target.depth": "none"},
      "supervision.target is 'files', but data.target.depth is 'none'",
    ),
    (
      ("files", ()), ("stereo", ()), {},
      "supervision.target is 'stereo', wanted 'files' or 'photometric' or 'both' or 'none'",
    ),
    (
      ("files", ()), ("photometric", STEREO), {"method.photometric.metres_per_unit": 0.0},
      "method.photometric.metres_per_unit is 0.0, wanted above 0",
    ),
    (
      ("files", ()), ("photometric", STEREO), {"method.photometric.over_views": "median"},
      "method.photometric.over_views is 'median', wanted 'minimum' or 'mean'",
    ),
    (
      ("files", ()), ("photometric", STEREO), {"method.photometric.ignored_bottom": 0.1},
      "photometric.ignored_bottom is 0.1, but crops of .* rows begin at any row of target frames",
    ),
    (
      ("files", ()), ("photometric", STEREO), {"method.photometric.target_weight": -1.0},
      "method.photometric.target_weight is -1.0, wanted 0 or more",
    ),
  ],
)  # fmt: skip
def test_supervision_that_cannot_work_is_refused(source, target, overrides, told):
  with pytest.raises(UserError, match=told) as caught:
    Experiment.from_config(get_config(source, target, **overrides))
  assert "\n" not in str(caught.value)


def test_supervision_matters_to_depth_heads_alone():
  """Without depth heads no file and no view is wanted."""
  fields = {"data.source.depth": "none", "data.target.depth": "none"}
  for network in ({"model.name": "deeplab"}, {"model.depth": False, "model.correlation": False}):
    config = get_config(("files", ()), ("photometric", STEREO), **fields, **network)
    assert Experiment.from_config(config).joint is None
