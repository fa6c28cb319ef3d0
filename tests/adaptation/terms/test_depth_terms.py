"""The losses of depth heads: heads, masks, switches, trust."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.adaptation.depth_heads import head_to_metres, positive
from corda_jax.adaptation.terms.base import Context, Pass
from corda_jax.adaptation.terms.depth_files import DepthFiles
from corda_jax.adaptation.terms.mixed import judged_inverse_depth
from corda_jax.adaptation.terms.photometric import Photometric, Prediction, photometric_losses
from corda_jax.depth.photometric import Views
from corda_jax.losses import berhu
from tests import tiny_joint
from tests.depth import reference
from tests.stub_network import stub_task


def test_heads_become_metres(float64):
  head = jnp.concatenate([-jnp.geomspace(1e6, 1e-3, 40), jnp.geomspace(1e-3, 1e6, 60)])
  metres = np.asarray(jax.jit(head_to_metres)(head))
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


@pytest.mark.parametrize("judge", ["student", "teacher"])
@pytest.mark.parametrize("supervision", ["files", "views", "both", "none"])
@pytest.mark.parametrize("domain", ["source", "target"])
def test_the_discrepancy_is_judged_by_what_the_domain_has(random, domain, supervision, judge):
  """A domain's Y: of its files, else its own head's prediction; without either the weight is 1."""
  other = "target" if domain == "source" else "source"
  kinds = {domain: (supervision, ("right",)), other: ("files", ())}
  weight = "terms.mixed.depth_weight"
  switches = {f"{weight}.judge": judge}
  switches |= {f"{weight}.{name}": False for name in ("share_across_batch", "divide_by_mean")}
  config = tiny_joint.get_config(kinds["source"], kinds["target"], **switches)
  step = stub_task(config).step
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
    "target_weight": jnp.ones((2, 1, 1)),
  }
  of_student, of_teacher = (jax.tree.map(jnp.asarray, x) for x in networks)
  inputs = {"target_inverse_depth": jnp.asarray(depth["target"])}
  context = Context(step, inputs, None, mixed, of_teacher, None)
  _, weight = step.terms["mixed"].weigh(of_student, context)

  judged = student if judge == "student" else teacher
  own = {"source": judged["D_src"][..., 0], "target": judged["D"][..., 0]}
  y = dict(depth)
  if supervision in ("views", "none"):
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

  def total(head, kinds):
    outputs = {"D": head[..., None], "D_src": head[..., None]}
    return judged_inverse_depth(outputs, "target", files, kinds).sum()

  for kinds in ({"files"}, {"views"}, {"files", "views"}, set()):
    np.testing.assert_array_equal(jax.grad(total)(head, frozenset(kinds)), 0)


def test_berhu_of_each_domain(random):
  shape = (2, 5, 7)
  names = ("S", "D", "D_src")
  outputs = {n: jnp.asarray(random.uniform(1, 9, (*shape, 1)), jnp.float32) for n in names}
  mask = random.uniform(size=shape) < 0.5
  depth = random.uniform(2, 9, shape).astype(np.float32)
  mixed = {"mask": jnp.asarray(mask), "inverse_depth": jnp.asarray(depth)}
  inputs = {"source_inverse_depth": mixed["inverse_depth"]}
  prediction = np.where(mask, outputs["D_src"][..., 0], outputs["D"][..., 0])
  both = {name: Pass(None, outputs, ()) for name in ("source", "mixed")}
  for domains in ((), ("source",), ("target",), ("source", "target")):
    term = DepthFiles(domains, source_weight=3.0, mixed_weight=5.0)
    losses = term.losses(both, Context(None, inputs, None, mixed, {}, None)).losses
    known = np.where(mask, "source" in domains, "target" in domains)
    expected = berhu(jnp.asarray(prediction), jnp.asarray(np.where(known, depth, 1)))
    assert ("berhu_mix" in losses) is bool(domains)
    assert ("berhu_src" in losses) is ("source" in domains)
    if domains:
      np.testing.assert_allclose(losses["berhu_mix"].value, expected, rtol=1e-6)
      assert losses["berhu_mix"].weight == 5
    if "source" in domains:
      assert losses["berhu_src"].weight == 3
      alone = Context(None, inputs, None, {}, {}, None)
      source_alone = term.losses({"source": both["source"]}, alone)
      assert source_alone.losses.keys() == {"berhu_src"}


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
  term = Photometric()
  views, head = random_scene(random)
  mask = np.zeros(head.shape, bool)
  mask[:, :, 6:] = True
  image = np.asarray(views.target)

  @jax.jit
  @jax.value_and_grad
  def graded(head, image, mask):
    prediction = Prediction({"": head}, image, mask)
    return photometric_losses(prediction, views, term, key=jax.random.key(0))[""]

  def loss(*arrays):
    return graded(*arrays)[0]

  value, gradient = graded(head, image, mask)
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
  value, gradient = graded(head, image, np.zeros_like(mask))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_switches_of_the_loss(random):
  views, head = random_scene(random)
  key, everywhere = jax.random.key(0), np.ones(head.shape, bool)
  values = {}
  for switches in itertools.product(("all", "none"), ("minimum", "mean"), (0.0, 1e-3)):
    names = ("automask", "over_views", "smoothness_weight")
    term = Photometric(**dict(zip(names, switches, strict=True)))

    @jax.jit
    def losses(head, mask, term=term):
      masks = {"all": mask, "none": None}  # without one all pixels count, too
      return {
        name: photometric_losses(Prediction({"": head}, views.target, mask), views, term, key=key)[
          ""
        ]
        for name, mask in masks.items()
      }

    found = losses(head, everywhere)
    values[switches] = float(found["all"])
    np.testing.assert_allclose(found["none"], found["all"], rtol=1e-6)
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
