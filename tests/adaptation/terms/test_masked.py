import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.adaptation.terms.base import Context, Pass
from corda_jax.adaptation.terms.masked import MaskedConsistency, hide_blocks
from corda_jax.models.normalization import IMAGENET


class Step:
  normalization = IMAGENET

  class model:
    class encoder:
      @staticmethod
      def grid(size):
        return size[0] // 4, size[1] // 4


BATCH = {"target_image": jnp.ones((3, 40, 70, 3))}


def test_blocks_are_hidden_by_zero_at_the_nearest_pixels():
  seen = jnp.asarray([[[True, False, True], [False, True, True]]])
  got = hide_blocks(jnp.ones((1, 4, 7, 2)), seen)
  rows, columns = [0, 0, 1, 1], [0, 0, 0, 1, 1, 2, 2]  # floor(i h / n)
  np.testing.assert_array_equal(got[0, ..., 0], np.asarray(seen)[0][rows][:, columns])


@pytest.mark.parametrize("hidden", ["blocks", "patches"])
def test_shapes_and_share_of_what_is_seen(hidden):
  term = MaskedConsistency(hidden=hidden, block=16, ratio=0.7)
  draw = jax.jit(lambda key: term.sample(key, BATCH, Step)["seen"])
  seen = np.stack([draw(jax.random.key(k)) for k in range(300)])
  # Python's rounding: 2.5 → 2, 4.375 → 4.
  assert seen.shape == (300, 3, *((2, 4) if hidden == "blocks" else (10, 17)))
  assert abs(seen.mean() - 0.3) < 0.02
  assert len({each.tobytes() for each in seen.reshape(900, -1)}) > 100  # images of their own


def masked(term, draws, batch=BATCH):
  context = Context(Step, batch, draws=draws)
  return term.images(context)["masked"]


def test_blocks_hide_the_image_and_patches_are_hidden_by_the_network():
  off = {"use_jitter": jnp.array(False), "use_blur": jnp.array(False)}
  blocks = MaskedConsistency(block=16)
  draws = blocks.sample(jax.random.key(0), BATCH, Step) | off
  image, patches = masked(blocks, draws)
  assert patches is None
  np.testing.assert_array_equal(image, hide_blocks(BATCH["target_image"], draws["seen"]))
  assert 0 < np.asarray(image).mean() < 1
  with_depth = jnp.ones((3, 40, 70, 4)).at[..., 3].set(0.7)
  shown, _ = masked(blocks, draws, {"target_image": with_depth})
  np.testing.assert_array_equal(shown[..., :3], image)
  np.testing.assert_array_equal(shown[..., 3], with_depth[..., 3])  # depth is not hidden
  by_network = MaskedConsistency(hidden="patches")
  draws = by_network.sample(jax.random.key(0), BATCH, Step) | off
  image, patches = masked(by_network, draws)
  np.testing.assert_array_equal(image, BATCH["target_image"])
  np.testing.assert_array_equal(patches, draws["seen"])


def test_the_whole_batch_shares_order_and_blur():
  draws = MaskedConsistency().sample(jax.random.key(1), BATCH, Step)
  assert len(np.unique(draws["jitter"]["order"], axis=0)) == 1
  assert len(np.unique(draws["blur_sigma"])) == 1
  assert len(np.unique(draws["jitter"]["hue"])) == 3


def test_the_loss_is_of_the_teachers_labels_by_their_weights(float64, random):
  logits = jnp.asarray(random.standard_normal((2, 3, 4, 19)))
  label = jnp.asarray(random.randint(0, 19, (2, 3, 4)))
  weight = jnp.asarray(random.uniform(size=(2, 3, 4)))
  mixed = {"label": jnp.zeros((2, 3, 4)), "pseudo_label": label, "target_weight": weight}
  context = Context(Step, {}, mixed=mixed)
  found = MaskedConsistency(weight=0.5).losses({"masked": Pass(None, {"S": logits}, ())}, context)
  entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1)[..., 0]
  loss = found.losses["ce_masked"]
  np.testing.assert_allclose(loss.value, (entropy * weight).mean(), rtol=1e-12)
  assert loss.weight == 0.5


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"hidden": "squares"}, r"hidden.*'blocks' or 'patches'"),
    ({"block": 0}, r"block is 0"),
    ({"ratio": 1.5}, r"ratio is 1\.5"),
    ({"weight": -1.0}, r"weight is -1"),
  ],
)
def test_values_that_cannot_be(fields, message):
  with pytest.raises(ValueError, match=message):
    MaskedConsistency(**fields)
