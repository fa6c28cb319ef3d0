import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.adaptation import pseudo_labels


def test_class_and_confident_fraction(float64, random):
  logits = 3 * random.standard_normal((2, 5, 7, 4))
  probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  label, confidence = jax.jit(pseudo_labels.pseudo_labels)(logits)
  np.testing.assert_array_equal(label, probability.argmax(-1))
  np.testing.assert_allclose(confidence, probability.max(-1), rtol=1e-14)
  confident = probability.max(-1) >= 0.8
  assert 0.1 < confident.mean() < 0.9
  assert confident[0].mean() != confident[1].mean()
  for over, axes in (("batch", (0, 1, 2)), ("image", (1, 2))):
    got = pseudo_labels.confident_fraction(confidence, threshold=0.8, over=over)
    expected = np.broadcast_to(confident.mean(axes, keepdims=True), (2, 1, 1))
    np.testing.assert_allclose(got, expected, rtol=1e-15)
  got = pseudo_labels.confident_fraction(confidence, threshold=0.8, over="pixel")
  np.testing.assert_array_equal(got, confident)
  assert got.dtype == confidence.dtype


def test_a_pixel_at_the_threshold_is_confident():
  _, confidence = pseudo_labels.pseudo_labels(jnp.zeros((1, 1, 1, 2)))  # exactly one half
  assert pseudo_labels.confident_fraction(confidence, threshold=0.5, over="batch") == 1


def test_discrepancy_weight_by_hand(float64):
  target = jnp.array([[[4.0, 10.0, 10.0, 7.0]]])
  source = jnp.array([[[4.0, 12.0, 90.0, 70.0]]])
  inverse_depth = jnp.array([[[4.0, 10.0, 10.0, 1.0]]])  # the last pixel has no depth
  for floor in (0.001, 0.1):
    expected = [[[1.0, 0.8 + floor, floor, 1.0]]]
    weight = pseudo_labels.depth_discrepancy_weight(source, target, inverse_depth, floor=floor)
    np.testing.assert_allclose(weight, expected, rtol=1e-14)


def test_no_gradient_flows_into_the_weight():
  def total(x):
    y = jnp.full((1, 2, 2), 5.0)
    return (pseudo_labels.depth_discrepancy_weight(x, y, y, floor=0.001) ** 2).sum()

  assert not jax.grad(total)(jnp.arange(4.0).reshape(1, 2, 2)).any()


@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_pixel_weights_as_published_and_as_released(share, divide):
  mask = jnp.array([[[True, False]], [[False, False]]])
  depth = jnp.array([[[1.0, 2.0]], [[3.0, 0.5]]])
  got = pseudo_labels.pixel_weights(
    mask,
    jnp.array([0.25, 0.5])[:, None, None],
    depth,
    divide_depth_weight_by_mean=divide,
    share_depth_weight_across_batch=share,
  )
  expected = np.array(
    [[[2.0, 0.25 * 1.25]], [[0.5 * 2.0, 0.5 * 1.25]]] if share else [[[1.0, 0.5]], [[1.5, 0.25]]]
  )
  np.testing.assert_allclose(got, expected / (1.625 if divide else 1), rtol=1e-6)


def weights(depth):
  return pseudo_labels.pixel_weights(
    jnp.array([[[True, False]]]),
    jnp.full((1, 1, 1), 0.25),
    depth,
    divide_depth_weight_by_mean=True,
    share_depth_weight_across_batch=True,
  )


def test_without_depth_the_weight_is_the_confident_fraction():
  np.testing.assert_array_equal(weights(None), [[[1, 0.25]]])


def test_a_batch_that_cannot_be_trusted_weighs_nothing():
  np.testing.assert_array_equal(weights(jnp.zeros((1, 1, 2))), [[[0, 0]]])
