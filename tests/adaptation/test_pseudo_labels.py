import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.adaptation import pseudo_labels


def test_class_and_confident_fraction(float64, random):
  logits = 3 * random.standard_normal((2, 5, 7, 4))
  probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  label, fraction = jax.jit(lambda x: pseudo_labels.pseudo_labels(x, threshold=0.8))(logits)
  np.testing.assert_array_equal(label, probability.argmax(-1))
  assert 0.1 < float(fraction) < 0.9
  np.testing.assert_allclose(fraction, (probability.max(-1) >= 0.8).mean(), rtol=1e-15)


def test_a_pixel_at_the_threshold_is_confident():
  logits = jnp.zeros((1, 1, 1, 2))  # both classes have exactly one half
  _, fraction = pseudo_labels.pseudo_labels(logits, threshold=0.5)
  assert fraction == 1


def test_discrepancy_weight_by_hand(float64):
  target = jnp.array([[[4.0, 10.0, 10.0, 7.0]]])
  source = jnp.array([[[4.0, 12.0, 90.0, 70.0]]])
  inverse_depth = jnp.array([[[4.0, 10.0, 10.0, 1.0]]])  # the last pixel has no depth
  raw = np.array([[[1.0, 0.8 + 0.001, 0.001, 1.0]]])
  weight = pseudo_labels.depth_discrepancy_weight(source, target, inverse_depth, floor=0.001)
  np.testing.assert_allclose(weight, raw / raw.mean(), rtol=1e-14)


def test_no_gradient_flows_into_the_weight():
  def total(x):
    y = jnp.full((1, 2, 2), 5.0)
    return (pseudo_labels.depth_discrepancy_weight(x, y, y, floor=0.001) ** 2).sum()

  assert not jax.grad(total)(jnp.arange(4.0).reshape(1, 2, 2)).any()


@pytest.mark.parametrize("share", [False, True])
def test_pixel_weights_as_published_and_as_released(share):
  mask = jnp.array([[[True, False]], [[False, False]]])
  depth = jnp.array([[[1.0, 2.0]], [[3.0, 0.5]]])
  got = pseudo_labels.pixel_weights(
    mask, jnp.float32(0.25), depth, share_depth_weight_across_batch=share
  )
  expected = (
    [[[2.0, 0.25 * 1.25]], [[0.25 * 2.0, 0.25 * 1.25]]]
    if share
    else [[[1.0, 0.5]], [[0.75, 0.125]]]
  )
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_without_depth_the_weight_is_the_confident_fraction():
  mask = jnp.array([[[True, False]]])
  got = pseudo_labels.pixel_weights(
    mask, jnp.float32(0.25), None, share_depth_weight_across_batch=True
  )
  np.testing.assert_array_equal(got, [[[1, 0.25]]])
