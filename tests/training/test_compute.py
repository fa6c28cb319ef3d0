"""The `compute` part of configurations: what is computed again, and at which precision."""

import functools

import jax
import numpy as np
import pytest

from benchmarks.scaling.collectives import count_collectives
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.task import DepthTask
from corda_jax.errors import UserError
from corda_jax.training.sharding import (
  batch_sharded,
  check_training_batch,
  make_mesh,
  put_batch,
  replicated,
  replicated_key,
)
from tests import tiny, tiny_depth
from tests.jaxprs import equations_of, precision_of, products_of
from tests.stub_network import stub_task

VIEWS = ("right", "next")


def adaptation(**overrides):
  task = AdaptationTask.from_config(tiny.get_config(**overrides), make_mesh(jax.devices()[:1]))
  return task, task.batch_inputs(tiny.get_batch())


def depth(**overrides):
  config = tiny_depth.get_config(VIEWS, **overrides)
  task = DepthTask.from_config(config, make_mesh(jax.devices()[:1]))
  return task, task.batch_inputs(tiny_depth.get_batch(2))


def traced_step(build, **overrides):
  task, batch = build(**overrides)
  state = task.state_shapes
  with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
    return jax.make_jaxpr(task.make_step())(state, batch, jax.random.key(0)).jaxpr


def rematerializations(jaxpr):
  return sum(each.primitive.name == "remat2" for each in equations_of(jaxpr))


@pytest.mark.parametrize("build", [adaptation, depth])
def test_steps_have_the_precision_asked_for(build):
  for name in ("highest", "high", "default"):
    products = products_of(traced_step(build, **{"compute.matmul_precision": name}))
    assert len(products) > 50
    found = [precision_of(each) for each in products]
    # Interpolation, which is to be exact, always has the highest.
    expected = {getattr(jax.lax.Precision, name.upper()), jax.lax.Precision.HIGHEST}
    assert set().union(*found) == expected, name


@pytest.mark.parametrize("build", [adaptation, depth])
def test_half_the_bits_leave_parameters_statistics_and_losses_wide(build):
  task, batch = build(**{"model.dtype": "bfloat16"})
  given = task.state_shapes
  with jax.numpy_dtype_promotion("standard"):
    state, metrics = jax.eval_shape(task.make_step(), given, batch, jax.random.key(0))
  types = {x.dtype for x in jax.tree.leaves((state, metrics)) if x.dtype != np.int32}
  assert types == {np.dtype("float32")}
  products = products_of(traced_step(build, **{"model.dtype": "bfloat16"}))
  narrow = [each for each in products if each.outvars[0].aval.dtype == "bfloat16"]
  assert len(narrow) > len(products) / 2


# Two blocks and four of the decoders, in the teacher's pass and in two backward passes; three of
# the depth encoder and three of the pose encoder.
@pytest.mark.parametrize(("build", "blocks"), [(adaptation, 3 * 6), (depth, 6)])
def test_steps_compute_blocks_again_if_asked(build, blocks):
  assert rematerializations(traced_step(build)) == 0
  assert rematerializations(traced_step(build, **{"compute.rematerialize": True})) == blocks


def test_blocks_computed_again_give_the_same_gradients(float64):
  types = {"model.dtype": "float64", "model.param_dtype": "float64"}
  results, held = [], []
  for again in (False, True):
    task, batch = adaptation(**types, **{"compute.rematerialize": again})
    variables = jax.device_get(task.initial_state())
    x = task.normalization.normalize(batch["source_image"], np.float64)

    def loss(params, stats, model=task.model, x=x):
      outputs, updated = model.apply(
        {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
      )
      return sum((value**2).mean() for value in outputs.values()), updated

    _, backward, _ = jax.eval_shape(
      lambda params, loss=loss, stats=variables.batch_stats: jax.vjp(
        lambda params: loss(params, stats), params, has_aux=True
      ),
      variables.params,
    )
    held.append(sum(each.size for each in jax.tree.leaves(backward)))
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    results.append(gradient(variables.params, variables.batch_stats))
  assert held[1] < 0.6 * held[0]
  kept, again = results
  assert jax.tree.structure(again) == jax.tree.structure(kept)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12), again, kept)


def test_groups_that_devices_would_share_are_refused():
  mesh = make_mesh(jax.devices()[:4])
  check_training_batch(mesh, 8, 2)
  check_training_batch(mesh, 4, 0)
  check_training_batch(make_mesh(jax.devices()[:1]), 6, 4)
  with pytest.raises(UserError, match=r"data\.batch_size.*6.*4"):
    check_training_batch(mesh, 6, 0)
  for batch in (4, 12):
    with pytest.raises(UserError, match=r"batch_norm_group.*2.*data\.batch_size=8"):
      check_training_batch(mesh, batch, 2)


def test_groups_of_a_batch_are_normalised_without_messages():
  outputs, messages = {}, {}
  for devices, group in ((1, 1), (4, 1), (4, 0)):
    mesh = make_mesh(jax.devices()[:devices])
    config = tiny.get_config(**{"model.batch_norm_group": group})
    task = AdaptationTask.from_config(config, mesh)
    state = task.initial_state()
    x = put_batch(mesh, {"x": np.random.RandomState(0).standard_normal((4, 17, 25, 3))})["x"]

    def forward(state, x, model=task.model):
      variables = {"params": state.params, "batch_stats": state.batch_stats}
      return model.apply(variables, x.astype(np.float32), train=True, mutable=["batch_stats"])

    places = (batch_sharded(mesh), replicated(mesh))
    compiled = jax.jit(forward, out_shardings=places).lower(state, x).compile()
    outputs[devices, group] = jax.device_get(compiled(state, x))
    counted = count_collectives(compiled.as_text()).values()
    messages[devices, group] = sum(each.count for each in counted)
  assert messages[1, 1] == 0
  assert messages[4, 1] == 1  # all running statistics together
  assert messages[4, 0] > 20  # two and more a normalisation
  for one, four in zip(*map(jax.tree.leaves, (outputs[1, 1], outputs[4, 1])), strict=True):
    np.testing.assert_allclose(four, one, rtol=1e-3, atol=1e-4)


def test_gradients_are_summed_over_devices_once_where_the_state_is_split():
  """And not once more for the norm of each gradient that is split for the optimiser."""
  sent = {}
  for split in (False, True):
    fields = {"model.batch_norm_group": 1, "compute.shard_state": split}
    task = stub_task(tiny.get_config(**fields), devices=4)
    batch = put_batch(task.mesh, task.batch_inputs(tiny.get_batch()))
    key = replicated_key(task.mesh, 0)
    program = task.compile_step().lower(task.state_shapes, batch, key).compile()
    counted = count_collectives(program.as_text())
    sent[split] = sum(each.count for (_, kind), each in counted.items() if kind == "all-reduce")
  assert sent[True] == sent[False] > 0


def test_one_pass_of_the_student_exchanges_gradients_once():
  mesh, sent = make_mesh(jax.devices()[:4]), {}
  for one_pass in (False, True):
    fields = tiny.PLAIN | {"model.batch_norm_group": 1}
    config = tiny.get_config(**fields, **{"compute.one_student_pass": one_pass})
    task = AdaptationTask.from_config(config, mesh)
    state = task.state_shapes
    arguments = (
      state,
      put_batch(mesh, task.batch_inputs(tiny.get_batch())),
      replicated_key(mesh, 0),
    )
    program = task.compile_step().lower(*arguments).compile().as_text()
    counted = count_collectives(program)
    assert {kind for _, kind in counted} == {"all-reduce"}  # no device sees another's images
    sent[one_pass] = sum(each.payload for each in counted.values())
  gradients = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.params))
  assert 2 * gradients < sent[False] < 2.3 * gradients
  assert gradients < sent[True] < 1.3 * gradients
