"""Pasted classes by their depth, beyond the reference values of the released filter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.adaptation.depth_filter import DepthFilter, Domain
from corda_jax.adaptation.mixing import Mixing
from tests import tiny
from tests.stub_network import stub_task

SIZE = (20, 30)
CLASSES = 4


def domain(label, depth):
  shape = (1, *SIZE)
  return Domain(
    jnp.broadcast_to(jnp.asarray(label, jnp.int32), shape),
    jnp.broadcast_to(jnp.asarray(depth, jnp.float32), shape),
  )


def halves(upper, lower):
  return np.where(np.arange(SIZE[0])[:, None] < SIZE[0] // 2, upper, lower)


def kept(options, source, target, drawn):
  mask = jnp.isin(source.label, jnp.asarray(drawn, jnp.int32))
  step = jnp.zeros((), jnp.int32)
  keep = jax.jit(lambda m, s, t: options.keep(m, s, t, num_classes=CLASSES, step=step))
  found = keep(mask, source, target)
  assert not (np.asarray(found) & ~np.asarray(mask)).any()
  return set(np.unique(np.asarray(source.label)[np.asarray(found)]).tolist())


# The target has class 0 far above and class 1 near below.
DEPTH = halves(np.linspace(2, 9, SIZE[1]), np.linspace(20, 90, SIZE[1]))
TARGET = domain(halves(0, 1), DEPTH)


def test_a_class_at_the_targets_depths_stays_and_one_elsewhere_goes():
  options = DepthFilter("histograms")
  assert kept(options, domain(halves(0, 1), DEPTH), TARGET, [0, 1]) == {0, 1}
  # Here class 0 is where the target has class 1.
  swapped = domain(halves(1, 0), DEPTH)
  assert kept(options, swapped, TARGET, [0, 1]) == set()
  assert kept(options, swapped, TARGET, [1]) == set()
  assert kept(DepthFilter("histograms", largest_distance=1.0), swapped, TARGET, [0, 1]) == {0, 1}
  # By the source's own depth, wherever it is in the image.
  turned = domain(halves(1, 0), DEPTH[::-1])
  assert kept(options, turned, TARGET, [0, 1]) == {0, 1}


def test_what_cannot_be_compared_stays():
  options, swapped = DepthFilter("histograms", largest_distance=0.1), halves(1, 0)
  rare = np.full(SIZE, 2)
  rare[0, 0] = 0  # one pixel of 600
  assert kept(options, domain(rare, DEPTH), TARGET, [0, 2]) == {0, 2}  # the target has no 2
  ignored = domain(halves(255, 0), DEPTH)
  assert kept(options, ignored, TARGET, [0, 255]) == {255}
  unknown = domain(swapped, np.ones(SIZE))
  assert kept(options, unknown, TARGET, [0, 1]) == {0, 1}
  assert kept(options, domain(swapped, DEPTH), domain(halves(0, 1), np.ones(SIZE)), [0, 1]) == {
    0,
    1,
  }


def test_the_distance_is_the_total_variation():
  # Of two intervals, the source has class 0 in shares 0.8 and 0.2, the target in 0.5 and 0.5.
  columns = np.broadcast_to(np.arange(30) < 15, SIZE)
  target = domain(np.zeros(SIZE), np.where(columns, 2, 50))
  source = domain(np.zeros(SIZE), np.broadcast_to(np.where(np.arange(30) < 24, 2, 50), SIZE))
  for largest, expected in ((0.29, set()), (0.31, {0})):
    options = DepthFilter("histograms", intervals=2, largest_distance=largest)
    assert kept(options, source, target, [0]) == expected


def test_it_acts_from_its_first_step_on():
  names = {"mixing.depth_filter.kind": "histograms", "mixing.depth_filter.largest_distance": 0.0}
  names |= {"mixing.depth_filter.start_step": 2, "mixing.depth_filter.least_share": 1e-9}
  task = stub_task(tiny.get_config(**names))
  state = task.initial_state()
  inputs, draws = task.step.prepare(state, tiny.get_batch(), jax.random.key(0))
  masks = []
  for number in (1, 2):
    at = state.replace(step=jnp.asarray(number, jnp.int32))
    mixed = task.step.teach(at, inputs, draws)[2].mixed
    masks.append(np.asarray(mixed["mask"]))
    label = np.where(masks[-1], inputs["source_label"], mixed["pseudo_label"])
    np.testing.assert_array_equal(mixed["label"], label)
  np.testing.assert_array_equal(masks[0], draws["mix_mask"])
  assert masks[1].sum() < masks[0].sum()


def test_values_that_cannot_work_are_named():
  with pytest.raises(ValueError, match=r"largest_distance is 2"):
    DepthFilter(largest_distance=2.0)
  with pytest.raises(ValueError, match=r"kind is 'all'"):
    Mixing(depth_filter=DepthFilter("all"))
