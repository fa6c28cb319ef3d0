import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax import losses
from tests.jaxprs import equations_of


def test_ignored_pixels_count_in_the_weighted_mean_over_all_only():
  logits = jnp.zeros((1, 1, 4, 19))
  label = jnp.array([[[0, 1, 255, 255]]], jnp.uint8)
  np.testing.assert_allclose(losses.cross_entropy(logits, label), np.log(19), rtol=1e-6)
  weighted = losses.cross_entropy(logits, label, jnp.ones((1, 1, 4)), mean_over="all")
  np.testing.assert_allclose(weighted, np.log(19) / 2, rtol=1e-6)
  weighted = losses.cross_entropy(logits, label, jnp.ones((1, 1, 4)))
  np.testing.assert_allclose(weighted, np.log(19), rtol=1e-6)


def test_nothing_valid_gives_zero_and_finite_gradients():
  label = jnp.full((2, 3, 5), 255, jnp.uint8)
  logits = jnp.ones((2, 3, 5, 19))
  value, gradient = jax.jit(jax.value_and_grad(losses.cross_entropy))(logits, label)
  assert value == 0
  for mean_over in ("all", "valid"):
    weights = jnp.ones(label.shape)
    assert losses.cross_entropy(logits, label, weights, mean_over=mean_over) == 0
  assert not gradient.any()
  nothing = jnp.ones((2, 3, 5))
  value, gradient = jax.jit(jax.value_and_grad(losses.berhu))(nothing * 4, nothing)
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
  value, gradient = jax.jit(jax.value_and_grad(losses.berhu))(prediction, target)
  np.testing.assert_allclose(value, (1 + 104 / 4) / 2, rtol=1e-14)
  np.testing.assert_allclose(gradient, [[[0.5, 10 / 2 / 2]]], rtol=1e-14)


@pytest.mark.parametrize(
  ("function", "shapes", "message"),
  [
    (losses.cross_entropy, [(2, 3, 4, 19), (2, 3, 5)], r"\(2, 3, 4, 19\).*\(2, 3, 5\)"),
    (
      losses.cross_entropy,
      [(2, 3, 4, 19), (2, 3, 4), (2, 1, 4)],
      r"weights.*\(2, 1, 4\).*labels.*\(2, 3, 4\)",
    ),
    (losses.berhu, [(2, 3, 4, 1), (2, 3, 4)], r"\(2, 3, 4, 1\).*\(2, 3, 4\)"),
  ],
)
def test_shapes_that_would_broadcast_are_refused(unchecked_shapes, function, shapes, message):
  with pytest.raises(ValueError, match=message):
    function(*(jnp.zeros(shape) for shape in shapes))


def test_the_gradient_of_the_cross_entropy_writes_no_pixel_by_its_index():
  logits, label = jnp.zeros((2, 4, 5, 19)), jnp.zeros((2, 4, 5), jnp.uint8)
  traced = jax.make_jaxpr(jax.grad(losses.cross_entropy))(logits, label)
  names = {each.primitive.name for each in equations_of(traced.jaxpr)}
  assert "exp" in names
  assert not any(name.startswith(("scatter", "gather")) for name in names)
