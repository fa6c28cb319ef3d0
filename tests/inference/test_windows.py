"""Tiles put together are what the whole image gives, wherever the margin covers what is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.inference.windows import predict_tiled, spans

STRIDE = 4


def predict(x):
  """Predictions at the pixels 0, 4, 8, …, each of the 9 pixels around them, zeros outside.

  So the first and the last prediction of a tile see past its ends.
  """
  rows, columns = ((n + STRIDE - 1) // STRIDE for n in x.shape[1:3])
  padded = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
  windows = jax.lax.reduce_window(padded, 0.0, jax.lax.add, (1, 9, 9, 1), (1, 4, 4, 1), "VALID")
  assert windows.shape[1:3] == (rows, columns)
  return {"sum": windows, "first": windows[..., :1] * 2}


@pytest.mark.parametrize("size", [(20, 33), (21, 64), (67, 40), (16, 16), (17, 90)])
@pytest.mark.parametrize(("tile", "margin"), [((16, 24), 4), ((19, 17), 3), ((24, 1000), 8)])
def test_tiles_are_the_whole(random, size, tile, margin):
  x = jnp.asarray(random.standard_normal((2, *size, 3)), jnp.float32)
  seen = []

  def watched(x):
    seen.append(x.shape[1:3])
    return predict(x)

  got = predict_tiled(watched, x, tile=tile, margin=margin, stride=STRIDE)
  assert all(h <= tile[0] and w <= tile[1] for h, w in seen)
  whole = predict(x)
  for name, value in whole.items():
    np.testing.assert_allclose(got[name], value, atol=1e-5)


def test_tiles_of_predictions_finer_than_the_stride(random):
  """Tiles start at multiples of the coarsest level's stride; a fusing decoder predicts finer."""
  x = jnp.asarray(random.standard_normal((1, 83, 130, 3)), jnp.float32)
  got = predict_tiled(predict, x, tile=(48, 64), margin=16, stride=4 * STRIDE)
  for name, value in predict(x).items():
    np.testing.assert_allclose(got[name], value, atol=1e-5)


def test_a_margin_that_is_too_small_shows():
  x = jnp.ones((1, 16, 64, 1))
  got = predict_tiled(predict, x, tile=(16, 16), margin=0, stride=STRIDE)["sum"]
  assert not np.allclose(got, predict(x)["sum"])


def test_spans_are_as_few_sizes_as_can_be():
  found = spans(103, 32, 6, 4)  # the margin becomes 8
  sizes = [span.pixels.stop - span.pixels.start for span in found]
  assert sizes[:-1] == [32] * (len(found) - 1)
  assert 28 < sizes[-1] <= 32
  assert found[-1].pixels.stop == 103
  assert all(span.pixels.start % 4 == 0 for span in found)
  assert spans(32, 32, 6, 4) == [type(found[0])(slice(0, 32), slice(0, None))]
  with pytest.raises(ValueError, match=r"\b32\b.*margin.*\b16\b"):
    spans(100, 34, 15, 4)
