"""Depth by a network that saw none, in the ablation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.ablation import predicted, variants
from benchmarks.ablation import run as ablation
from benchmarks.ablation.oracles import TrueLabels
from corda_jax.adaptation.teacher import Teacher
from corda_jax.errors import UserError
from corda_jax.training.run_files import read_json
from tests.stub_network import stubs_for_networks
from tests.test_benchmarks_ablation import small

SIZES = ("--frames", "2", "--validation_frames", "2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """The folder of a network of two steps, and what was printed."""
  folder = tmp_path_factory.mktemp("depth_of_all")
  standard = jax.numpy_dtype_promotion("standard")  # for optax.scale_by_adam
  with pytest.MonkeyPatch.context() as patch, stubs_for_networks(), standard:
    alone = functools.partial(predicted.render, processes=1)
    patch.setattr(predicted, "render", alone)
    predicted.main(["--workdir", str(folder), *SIZES, "--steps", "2"])
    with pytest.raises(UserError, match="num_steps"):
      predicted.main(["--workdir", str(folder), *SIZES, "--steps", "3"])
    yield folder


def test_it_is_measured_in_every_city(trained):
  assert read_json(trained / "results.json")["step"] == 2
  with stubs_for_networks():
    found = predicted.PredictedDepth(trained)
    depth = found("cityscapes", "val", 2, size=(36, 72), seed=0, gap=1.5)
  assert depth.shape == (2, 36, 72)
  assert depth.dtype == np.float32
  assert (depth > 1).all()
  assert np.ptp(depth) > 0
  kept = list(trained.glob(f"predicted_{found.digest}_cityscapes_val_2_72x36_0_1.5.npy"))
  np.testing.assert_array_equal(np.load(*kept), depth)


def test_its_predictions_take_the_place_of_the_true_depth(trained, tmp_path):
  config = small(variants.INPUT_DROPPED)
  with stubs_for_networks():
    predict = predicted.PredictedDepth(trained)
  true, seen = (ablation.frames_of(config, tmp_path, each) for each in (None, predict))
  for exact, made in zip(true, seen, strict=True):
    np.testing.assert_array_equal(made.image, exact.image)
    assert made.inverse_depth.shape == exact.inverse_depth.shape
    assert not np.allclose(made.inverse_depth, exact.inverse_depth)


@pytest.mark.parametrize("method", ["aligned", "centered"])
def test_the_oracle_takes_the_true_labels_from_where_depth_would_be(random, method):
  truth = random.randint(0, 19, (2, 8, 12))
  outputs = {"S": jnp.asarray(random.standard_normal((2, 4, 6, 19)), jnp.float32)}
  inputs = {"source_label": truth, "target_inverse_depth": jnp.asarray(truth, jnp.float32)}
  step = jnp.zeros((), jnp.int32)
  found = TrueLabels().label(outputs, step, inputs, method)  # as the step calls it
  np.testing.assert_array_equal(found.label, truth)
  plain = Teacher().label(outputs, step, inputs, method)
  np.testing.assert_array_equal(found.confidence, plain.confidence)
