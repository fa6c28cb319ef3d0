import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.adaptation.color_augmentation import gaussian_blur
from corda_jax.adaptation.pseudo_labels import confident_fraction
from corda_jax.adaptation.terms.base import Context, Pass
from corda_jax.color_jitter import color_jitter
from corda_jax.losses import berhu, cross_entropy
from corda_jax.models.normalization import Normalization
from corda_jax.resize import resize_aligned
from corda_jax.training.sharding import put_batch
from tests import tiny
from tests.jaxprs import products_of
from tests.stub_network import stub_task

SIZE = (tiny.HEIGHT, tiny.WIDTH)


def assert_close(got, expected, tolerance):
  for path, value in jax.tree_util.tree_leaves_with_path(expected):
    name = jax.tree_util.keystr(path)
    other = got
    for key in path:
      other = other[key.key]
    scale = max(np.abs(value).max(), 1e-3)
    np.testing.assert_allclose(other, value, rtol=0, atol=tolerance * scale, err_msg=name)


def test_each_step_draws_again_and_a_resumed_one_the_same():
  config = tiny.get_config(**{"optimizer.learning_rate": 0.0})
  task = stub_task(config)
  step, key = task.compile_step(), jax.random.key(config.seed)
  batch = put_batch(task.mesh, task.batch_inputs(tiny.get_batch()))
  mixed = {}
  for number in (1, 2, 1):
    state = task.initial_state()
    donated = jax.tree.leaves(state.params)[0]
    _, metrics = step(state.replace(step=jnp.int32(number)), batch, key)
    mixed.setdefault(number, []).append(float(metrics["ce_mix"]))
    assert donated.is_deleted()  # the step works in the memory of the state that it is given
  assert mixed[1][0] == mixed[1][1] != mixed[2][0]


def test_total_is_the_weighted_sum():
  row = jax.device_get(one_step()[2])
  semantic = sum(v for k, v in row.items() if k.startswith("ce_"))
  source = row["berhu_src"] + row["berhu_src_initial"]
  mixed = row["berhu_mix"] + row["berhu_mix_initial"]
  np.testing.assert_allclose(row["total"], semantic + 0.01 * source + 0.001 * mixed, rtol=1e-5)


# Pseudo-labels come from the initial prediction before this step, and from the final one after.
EARLY = 5
PLAIN = {name.replace(".", "__"): value for name, value in tiny.PLAIN.items()}


@functools.cache
def compiled(adapt=True, **overrides):
  """A task, the inputs and draws of a step, a state, and the step, compiled once."""
  overrides = {name.replace("__", "."): value for name, value in overrides.items()}
  config = tiny.get_config(adapt=adapt, **{"teacher.initial_label_steps": EARLY} | overrides)
  task = stub_task(config)
  inputs, draws, function = tiny.prepared_step(task, task.batch_inputs(tiny.get_batch(3)))
  state = task.initial_state()
  if "final_D" in state.params:  # let the depth heads disagree, as they do once they are trained
    louder = jax.tree.map(lambda x: 100 * x, state.params["final_D"])
    state = state.replace(params=state.params | {"final_D": louder})
  # A teacher of its own, so that taking the student for it shows.
  teacher = jax.tree.map(lambda x: 1.1 * x, state.params)
  stats = jax.tree.map(lambda x: x + 0.25, state.teacher_batch_stats)
  state = state.replace(teacher_params=teacher, teacher_batch_stats=stats)
  return task, inputs, draws, state, function


def one_step(step=0, **overrides):
  """State before, state after, metrics, maps."""
  _, inputs, draws, state, function = compiled(**overrides)
  state = state.replace(step=jnp.int32(step))
  return (state, *function(state, inputs, draws))


def forward(task, params, stats, x):
  outputs, updated = task.model.apply(
    {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
  )
  return {k: resize_aligned(v, SIZE) for k, v in outputs.items()}, updated["batch_stats"]


WEIGHT = "terms__mixed__depth_weight__"
# Switches of the weights and means, turned from the release's side to the other.
SWITCHES = {
  "released": {},
  "no depth weight": {WEIGHT + "enabled": False},
  "own depth weight": {WEIGHT + "share_across_batch": False},
  "undivided": {WEIGHT + "divide_by_mean": False},
  "higher floor": {WEIGHT + "floor": 0.3},
  "teacher judges": {WEIGHT + "judge": "teacher", WEIGHT + "share_across_batch": False},
  "share of each image": {"teacher__fraction_over": "image"},
  "confident pixels alone": {"teacher__fraction_over": "pixel"},
  "mean over valid pixels": {"terms__mixed__mean_over": "valid"},
}
# In whole steps: as released, and most switches turned at once.
STEPS = {
  "released": {},
  "turned": {
    WEIGHT + "judge": "teacher",
    WEIGHT + "share_across_batch": False,
    WEIGHT + "divide_by_mean": False,
    "teacher__fraction_over": "image",
    "terms__mixed__mean_over": "valid",
  },
}


def described_weight(step, mask, mixed, teacher, depth, target_depth, confident):
  """Pixel weights, written out with NumPy from the description of the switches."""
  axes = {"batch": None, "image": (1, 2), "pixel": ()}[step.teacher.fraction_over]
  fraction, options = confident.mean(axes, keepdims=True), step.terms["mixed"].depth_weight
  weight = np.where(mask, 1, fraction)
  if not options.enabled:
    return weight
  student = options.judge == "student"
  heads, y = (mixed, depth) if student else (teacher, target_depth)
  trust = np.maximum(1 - np.abs(heads["D_src"] - heads["D"])[..., 0] / y, 0)
  trust = np.clip(trust + options.floor + (y == 1), 0, 1)
  assert (trust < 0.5).mean() > 0.05
  trust = trust if student else np.where(mask, 1, trust)
  trust = trust / trust.mean() if options.divide_by_mean else trust
  return weight * (trust.mean(0) if options.share_across_batch else trust)


@pytest.mark.parametrize("switches", SWITCHES)
def test_weights_and_the_mean_follow_their_switches(float64, random, switches):
  step = step_of(**SWITCHES[switches])
  mask, target_mask = (random.uniform(size=(3, *SIZE)) < 0.5 for _ in range(2))
  depth, target_depth = (
    np.where(random.uniform(size=mask.shape) < 0.1, 1, random.uniform(2, 20, mask.shape))
    for _ in range(2)
  )

  def heads():
    return {name: random.uniform(1, 20, (*mask.shape, 1)) for name in ("D", "D_src")}

  student, teacher = heads(), heads()
  confidence = random.uniform(size=mask.shape) * np.array([0.9, 1, 1.1])[:, None, None]
  fraction = confident_fraction(confidence, threshold=0.5, over=step.teacher.fraction_over)
  arrays = {"mask": mask, "inverse_depth": depth, "confident_fraction": fraction}
  arrays["target_weight"] = fraction
  logits = random.standard_normal((*mask.shape, 19))
  label = np.where(target_mask, random.randint(0, 19, mask.shape), 255)
  arrays |= {"label": jnp.asarray(label)}
  inputs = {"target_inverse_depth": target_depth}
  context = Context(step, inputs, None, arrays, teacher, None)
  passes = {"mixed": Pass(None, student | {"S": logits}, ())}
  found = step.terms["mixed"].losses(passes, context)
  expected = described_weight(step, mask, student, teacher, depth, target_depth, confidence >= 0.5)
  weights = np.broadcast_to(found.maps["pixel_weight"], mask.shape)
  np.testing.assert_allclose(weights, expected, rtol=1e-4)

  entropy = -np.take_along_axis(jax.nn.log_softmax(logits), label[..., None] % 255, -1)[..., 0]
  valid = step.terms["mixed"].mean_over == "valid"
  count = (label != 255).sum() if valid else label.size
  np.testing.assert_allclose(
    found.losses["ce_mix"].value,
    (np.where(label == 255, 0, entropy) * expected).sum() / count,
    rtol=1e-4,
  )


@pytest.mark.parametrize("switches", STEPS)
def test_losses_and_statistics_follow_the_description(switches):
  """The step against its description, written out with NumPy from the network's outputs."""
  overrides = STEPS[switches]
  task, inputs, draws, *_ = compiled(**overrides)
  step = task.step
  options = step.terms["mixed"].depth_weight
  before, after, metrics, maps = one_step(step=7, **overrides)
  source, stats = forward(task, before.params, before.batch_stats, inputs["source_image"])
  np.testing.assert_allclose(
    metrics["ce_src"], cross_entropy(source["S"], inputs["source_label"]), rtol=1e-4
  )
  np.testing.assert_allclose(
    metrics["berhu_src_initial"],
    berhu(source["initial_D_src"][..., 0], inputs["source_inverse_depth"]),
    rtol=1e-4,
  )

  teacher, teacher_stats = forward(
    task, before.teacher_params, before.teacher_batch_stats, inputs["target_image"]
  )
  probability = np.asarray(jax.nn.softmax(teacher["S"]))
  label, confidence = probability.argmax(-1), probability.max(-1)
  confident = confidence >= step.teacher.confidence_threshold
  np.testing.assert_allclose(metrics["confident_fraction"], confident.mean(), rtol=1e-5)
  assert ("depth_weight" in metrics) == options.enabled
  if options.enabled:
    np.testing.assert_allclose(metrics["depth_weight"], np.mean(maps["depth_weight"]), rtol=1e-5)
  assert np.ptp(confident.mean((1, 2))) > 0.01

  mask = np.asarray(draws["mix_mask"])
  image = np.where(mask[..., None], inputs["source_image"], inputs["target_image"])
  label = np.where(mask, inputs["source_label"], label)
  assert (label == 255).mean() > 0.01
  target_depth = np.asarray(inputs["target_inverse_depth"])
  depth = np.where(mask, inputs["source_inverse_depth"], target_depth)
  mixed, stats = forward(task, before.params, stats, jnp.asarray(image))
  mixed = {k: np.asarray(v, np.float64) for k, v in mixed.items()}
  weight = described_weight(step, mask, mixed, teacher, depth, target_depth, confident)
  np.testing.assert_allclose(maps["pixel_weight"], weight, rtol=1e-3, atol=1e-5)
  count = (label != 255).sum() if step.terms["mixed"].mean_over == "valid" else label.size
  for suffix, name in (("", "S"), ("_initial", "initial_S")):
    log_probability = np.asarray(jax.nn.log_softmax(mixed[name]))
    entropy = -np.take_along_axis(log_probability, (label % 255)[..., None], -1)[..., 0]
    expected = (np.where(label == 255, 0, entropy) * weight).sum() / count
    np.testing.assert_allclose(metrics["ce_mix" + suffix], expected, rtol=1e-4)
  prediction = np.where(mask, mixed["D_src"][..., 0], mixed["D"][..., 0])
  error = np.abs(prediction - depth)[depth != 1]
  c = 0.2 * error.max()
  expected = np.where(error <= c, error, (error**2 + c**2) / (2 * c)).mean()
  np.testing.assert_allclose(metrics["berhu_mix"], expected, rtol=1e-4)

  # Running statistics: both student passes, source first; the teacher's by its own pass.
  assert_close(jax.device_get(after.batch_stats), jax.device_get(stats), 1e-4)
  assert_close(jax.device_get(after.teacher_batch_stats), jax.device_get(teacher_stats), 1e-4)
  keep = 1 - 1 / 8
  expected = jax.tree.map(
    lambda t, s: np.asarray(keep * t + (1 - keep) * s), before.teacher_params, after.params
  )
  assert_close(jax.device_get(after.teacher_params), expected, 1e-5)
  assert int(after.step) == 8


def test_the_losses_by_themselves_are_those_of_the_step():
  task, *_, state, _ = compiled()
  batch, key = task.batch_inputs(tiny.get_batch(3)), jax.random.key(0)
  metrics = jax.jit(task.make_step())(state, batch, key)[1]
  losses = jax.jit(task.at_precision(task.step.weighted_losses))(state.params, state, batch, key)
  assert losses.keys() == {name for name in metrics if name.startswith(("ce_", "berhu_"))}
  np.testing.assert_allclose(sum(losses.values()), metrics["total"], rtol=1e-4)
  np.testing.assert_allclose(losses["ce_mix"], metrics["ce_mix"], rtol=1e-4)
  np.testing.assert_allclose(losses["berhu_src"], 0.01 * metrics["berhu_src"], rtol=1e-4)


@pytest.mark.parametrize("normalization", ["batch", "running"])
def test_a_teacher_whose_statistics_average_the_students(normalization):
  overrides = {
    "teacher__normalization": normalization,
    "teacher__statistics": "average",
  }
  task, inputs, *_ = compiled(**overrides)
  before, after, _, maps = one_step(step=7, **overrides)
  outputs = task.model.apply(
    {"params": before.teacher_params, "batch_stats": before.teacher_batch_stats},
    inputs["target_image"],
    train=normalization == "batch",
    mutable=["batch_stats"] if normalization == "batch" else False,
  )
  outputs = outputs[0] if normalization == "batch" else outputs
  probability = jax.nn.softmax(resize_aligned(outputs["S"], SIZE))
  np.testing.assert_allclose(maps["confidence"], probability.max(-1), atol=1e-5)
  expected = jax.tree.map(
    lambda t, s: np.asarray(7 / 8 * t + 1 / 8 * s), before.teacher_batch_stats, after.batch_stats
  )
  assert_close(jax.device_get(after.teacher_batch_stats), expected, 1e-5)


def test_early_pseudo_labels_come_from_the_initial_prediction():
  task, inputs, _, state, _ = compiled()
  fractions = {}
  outputs, _ = forward(
    task, state.teacher_params, state.teacher_batch_stats, inputs["target_image"]
  )
  for step, name in ((EARLY - 1, "initial_S"), (EARLY, "S")):
    fractions[step] = float(one_step(step)[2]["confident_fraction"])
    confidence = np.asarray(jax.nn.softmax(outputs[name])).max(-1)
    expected = (confidence >= task.step.teacher.confidence_threshold).mean()
    np.testing.assert_allclose(fractions[step], expected, atol=2e-3)
  assert abs(fractions[EARLY - 1] - fractions[EARLY]) > 0.01


@pytest.mark.parametrize(
  ("overrides", "names"),
  [
    (
      {"adapt": False},
      {"ce_src", "ce_src_initial", "berhu_src", "berhu_src_initial"},
    ),
    (
      {"model__depth": False, "model__correlation": False},
      {"ce_src", "ce_src_initial", "ce_mix", "ce_mix_initial", "confident_fraction"},
    ),
    (PLAIN, {"ce_src", "ce_mix", "confident_fraction"}),
  ],
)
def test_parts_of_the_method_can_be_left_out(overrides, names):
  before, after, metrics, _ = one_step(**overrides)
  assert set(metrics) == names | {"total", "gradient_norm"}
  assert all(np.isfinite(v) for v in jax.device_get(metrics).values())
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
  assert any(jax.tree.leaves(moved))


def step_of(**overrides):
  """The parts of a step whose network does not matter."""
  return stub_task(tiny.get_config(**{k.replace("__", "."): v for k, v in overrides.items()})).step


def mixing(**overrides):
  return step_of(**{f"mixing__{k}": v for k, v in overrides.items()}).mixing


LABEL = jnp.asarray(tiny.get_batch()["source_label"])


def test_draws_depend_on_the_key_alone():
  first, again, other = (mixing().sample(jax.random.key(k), LABEL, 19) for k in (0, 0, 1))
  np.testing.assert_array_equal(first["mix_mask"], again["mix_mask"])
  assert (np.asarray(first["mix_mask"]) != np.asarray(other["mix_mask"])).any()


def test_ignored_pixels_are_pasted_or_not():
  for mix_ignored in (True, False):
    part = mixing(paste_ignored=mix_ignored)
    draws = [part.sample(jax.random.key(k), LABEL, 19) for k in range(6)]
    pasted = [bool(d["mix_mask"][LABEL == 255].any()) for d in draws]
    assert any(pasted) is mix_ignored


def test_augmentation_is_decided_for_the_batch_or_for_each_image():
  for decide_for, shape in (("batch", ()), ("image", (4,))):
    part = mixing(augmentation__decide_for=decide_for)
    draws = [part.sample(jax.random.key(k), LABEL, 19) for k in range(200)]
    for name, probability in (("use_jitter", 0.8), ("use_blur", 0.5)):
      decisions = np.stack([d[name] for d in draws])
      assert decisions.shape[1:] == shape
      np.testing.assert_allclose(decisions.mean(), probability, atol=0.12)
    both = np.mean([d["use_jitter"] & d["use_blur"] for d in draws])
    np.testing.assert_allclose(both, 0.4, atol=0.09)  # neither decides the other


NORMALIZATION = Normalization((100.0, 110.0, 120.0), (60.0, 60.0, 60.0), bgr=True)


def test_decisions_reach_the_image():
  x = NORMALIZATION.normalize(jnp.asarray(tiny.get_batch()["target_image"]))
  part = mixing()
  draws = part.sample(jax.random.key(0), LABEL, 19)

  def augmented(jitter, blur):
    decisions = {"use_jitter": jnp.asarray(jitter), "use_blur": jnp.asarray(blur)}
    return part.augmentation.augment(x, draws | decisions, NORMALIZATION)

  whole = {(j, b): augmented(j, b) for j in (False, True) for b in (False, True)}
  for (jitter, blur), images in whole.items():
    assert bool(jnp.abs(images - x).max() > 1e-3) is (jitter or blur)
  each = augmented([False, True, False, True], [False, False, True, True])
  cases = [(False, False), (True, False), (False, True), (True, True)]
  for index, case in enumerate(cases):
    np.testing.assert_allclose(each[index], whole[case][index], atol=1e-5)
  # Jitter goes first: it clips, so that the other way round gives other colours.
  blurred = gaussian_blur(whole[True, False], draws["blur_sigma"])
  np.testing.assert_allclose(whole[True, True], blurred, atol=1e-5)


@pytest.mark.parametrize("brightness", ["add", "multiply"])
def test_brightness_is_configured(brightness):
  x = NORMALIZATION.normalize(jnp.asarray(tiny.get_batch()["target_image"]))
  part = mixing(augmentation__brightness=brightness)
  draws = part.sample(jax.random.key(0), LABEL, 19)
  draws |= {"use_jitter": jnp.asarray(True), "use_blur": jnp.asarray(False)}
  jittered = color_jitter(
    NORMALIZATION.to_unit_range(x), draws["jitter"], brightness_mode=brightness
  )
  got = NORMALIZATION.to_unit_range(part.augmentation.augment(x, draws, NORMALIZATION))
  np.testing.assert_allclose(got, jittered, atol=1e-5)


@pytest.mark.parametrize(
  "overrides",
  [{}, {"model.batch_norm_group": 2}, tiny.PLAIN, {"adapt": False}],
  ids=["whole batch", "groups", "deeplab", "source only"],
)
def test_one_pass_of_the_student_or_two(float64, overrides):
  """Both images in one batch give what one after the other gives."""
  types = {"model.dtype": "float64", "model.param_dtype": "float64"}
  found, products = [], []
  for one_pass in (False, True):
    config = tiny.get_config(**types, **overrides, **{"compute.one_student_pass": one_pass})
    task = stub_task(config)
    batch = task.batch_inputs(tiny.get_batch(4))
    step, state = task.make_step(), task.initial_state()
    key = jax.random.key(6)
    products.append(len(products_of(jax.make_jaxpr(step)(state, batch, key).jaxpr)))
    found.append(jax.jit(step)(state, batch, key))
  two, one = jax.device_get(found)
  jax.tree.map(lambda o, t: np.testing.assert_allclose(o, t, rtol=1e-9, atol=1e-11), one, two)
  moved = jax.tree.map(lambda after, before: np.abs(after - before).max(), one[0], state)
  assert min(jax.tree.leaves(moved.batch_stats)) > 1e-4
  # One pass less through all layers, forward and for the gradients of their kernels.
  if task.step.adapts:
    assert products[0] - products[1] >= 2 * (1 + len(task.model.heads))
  else:
    assert products[1] == products[0]
