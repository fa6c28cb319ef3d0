import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax import losses


@pytest.fixture
def reference(golden_dir):
  files = sorted(golden_dir.glob("losses*.npz"))
  assert files, f"no losses*.npz in {golden_dir}"
  return [np.load(f) for f in files]


def assert_value_and_gradient(function, arguments, value, gradient):
  for transform in (lambda f: f, jax.jit):
    got, got_gradient = transform(jax.value_and_grad(function))(*map(jnp.asarray, arguments))
    np.testing.assert_allclose(got, value, rtol=1e-14)
    scale = np.abs(gradient).max()
    np.testing.assert_allclose(got_gradient, gradient, rtol=0, atol=1e-14 * scale)


def test_losses_match_the_release(float64, reference):
  for z in reference:
    assert_value_and_gradient(
      losses.cross_entropy,
      (z["logits"], z["label"]),
      z["cross_entropy"],
      z["cross_entropy_grad"],
    )
    assert_value_and_gradient(
      losses.weighted_cross_entropy,
      (z["logits"], z["label"], z["pixel_weight"]),
      z["weighted_cross_entropy"],
      z["weighted_cross_entropy_grad"],
    )
    assert_value_and_gradient(
      losses.berhu,
      (z["inverse_depth_prediction"], z["inverse_depth_target"]),
      z["berhu"],
      z["berhu_grad"],
    )


def test_ignored_pixels_count_in_the_weighted_mean_only():
  logits = jnp.zeros((1, 1, 4, 19))
  label = jnp.array([[[0, 1, 255, 255]]], jnp.uint8)
  np.testing.assert_allclose(losses.cross_entropy(logits, label), np.log(19), rtol=1e-6)
  weighted = losses.weighted_cross_entropy(logits, label, jnp.ones((1, 1, 4)))
  np.testing.assert_allclose(weighted, np.log(19) / 2, rtol=1e-6)


def test_nothing_valid_gives_zero_and_finite_gradients():
  label = jnp.full((2, 3, 5), 255, jnp.uint8)
  logits = jnp.ones((2, 3, 5, 19))
  value, gradient = jax.value_and_grad(losses.cross_entropy)(logits, label)
  assert value == 0
  assert not gradient.any()
  nothing = jnp.ones((2, 3, 5))
  value, gradient = jax.value_and_grad(losses.berhu)(nothing * 4, nothing)
  assert value == 0
  assert not gradient.any()


def test_exact_depth_has_a_finite_gradient():
  target = jnp.full((1, 2, 2), 3.0)
  value, gradient = jax.value_and_grad(losses.berhu)(target, target)
  assert value == 0
  assert jnp.isfinite(gradient).all()


def test_berhu_threshold_is_a_constant_to_the_gradient(float64):
  # e = (1, 10): c = 2, so the cost is (1 + (100 + 4) / 4) / 2; its gradient by the larger error is
  # e / c / 2, without what c itself would contribute.
  target, prediction = jnp.full((1, 1, 2), 5.0), jnp.array([[[6.0, 15.0]]])
  value, gradient = jax.value_and_grad(losses.berhu)(prediction, target)
  np.testing.assert_allclose(value, (1 + 104 / 4) / 2, rtol=1e-14)
  np.testing.assert_allclose(gradient, [[[0.5, 10 / 2 / 2]]], rtol=1e-14)


@pytest.mark.parametrize(
  ("function", "shapes"),
  [
    (losses.cross_entropy, [(2, 3, 4, 19), (2, 3, 5)]),
    (losses.weighted_cross_entropy, [(2, 3, 4, 19), (2, 3, 4), (2, 1, 4)]),
    (losses.berhu, [(2, 3, 4, 1), (2, 3, 4)]),
  ],
)
def test_shapes_that_would_broadcast_are_refused(function, shapes):
  with pytest.raises(ValueError, match="differ"):
    function(*(jnp.zeros(shape) for shape in shapes))
