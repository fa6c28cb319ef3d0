import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.adaptation import class_mix

LABELS = np.array([[[0, 0, 3], [255, 3, 1]], [[2, 2, 2], [2, 2, 2]]], np.uint8)


def test_present_classes_counts_ignored_pixels_as_a_class_if_asked():
  present = class_mix.present_classes(jnp.asarray(LABELS), 4)
  np.testing.assert_array_equal(present, [[1, 1, 0, 1, 1], [0, 0, 1, 0, 0]])
  present = class_mix.present_classes(jnp.asarray(LABELS), 4, ignored_is_a_class=False)
  np.testing.assert_array_equal(present, [[1, 1, 0, 1, 0], [0, 0, 1, 0, 0]])


def test_every_image_may_be_given_the_classes_of_the_batch():
  present = class_mix.present_classes(jnp.asarray(LABELS), 4, of_batch=True)
  np.testing.assert_array_equal(present, [[1, 1, 1, 1, 1]] * 2)
  options = {"of_batch": True, "ignored_is_a_class": False}
  present = class_mix.present_classes(jnp.asarray(LABELS), 4, **options)
  np.testing.assert_array_equal(present, [[1, 1, 1, 1, 0]] * 2)


def test_half_of_the_present_classes_rounded_up_uniformly():
  present = jnp.asarray([[1, 1, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1]], bool)
  draw = jax.jit(jax.vmap(lambda key: class_mix.draw_classes(key, present)))
  chosen = np.asarray(draw(jax.random.split(jax.random.key(0), 400)))
  assert not (chosen & ~np.asarray(present)).any()
  np.testing.assert_array_equal(chosen.sum(-1), np.tile([3, 1, 1], (400, 1)))
  # Each of five classes is drawn with probability 3/5; 400 draws have a deviation of 0.025.
  np.testing.assert_allclose(chosen[:, 0, [0, 1, 3, 4, 5]].mean(0), 0.6, atol=0.1)
  np.testing.assert_allclose(chosen[:, 2, [0, 5]].mean(0), 0.5, atol=0.1)


def test_mask_shows_the_chosen_classes():
  chosen = jnp.asarray([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]], bool)
  mask = class_mix.mix_mask(jnp.asarray(LABELS), chosen)
  np.testing.assert_array_equal(mask, [[[0, 0, 1], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]]])


def test_mix_takes_source_where_the_mask_is_true(random):
  mask = random.uniform(size=(2, 3, 5)) < 0.5
  source, target = random.standard_normal((2, 2, 3, 5, 3)).astype(np.float32)
  mixed = class_mix.mix(jnp.asarray(mask), jnp.asarray(source), jnp.asarray(target))
  np.testing.assert_array_equal(mixed, np.where(mask[..., None], source, target))
  mixed = class_mix.mix(jnp.asarray(mask), jnp.asarray(source[..., 0]), jnp.asarray(target[..., 0]))
  np.testing.assert_array_equal(mixed, np.where(mask, source[..., 0], target[..., 0]))


def test_mix_refuses_two_shapes(unchecked_shapes):
  mask = jnp.ones((2, 3, 5), bool)
  with pytest.raises(ValueError, match=r"\(2, 3, 5\).*\(2, 3, 1\)"):
    class_mix.mix(mask, jnp.zeros((2, 3, 5)), jnp.zeros((2, 3, 1)))
