import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.sliding import corners, count_windows, predict_windows, window_starts


@pytest.mark.parametrize(
  ("length", "window", "stride", "expected"),
  [
    (1024, 512, 256, [0, 256, 512]),
    (2048, 1024, 512, [0, 512, 1024]),
    (100, 100, 50, [0]),
    (101, 100, 50, [0, 1]),  # moved back to the end
    (110, 40, 30, [0, 30, 60, 70]),
    (90, 30, 30, [0, 30, 60]),
  ],
)
def test_windows_cover_an_axis_and_end_with_it(length, window, stride, expected):
  assert window_starts(length, window, stride) == expected


def test_windows_are_counted():
  places = corners((6, 5), (4, 5), (2, 5))
  assert places == [(0, 0), (2, 0)]
  count = count_windows(places, (4, 5), (6, 5))
  np.testing.assert_array_equal(count[:, 0], [1, 1, 2, 2, 1, 1])


@pytest.mark.parametrize("size", [(7, 11), (4, 6), (3, 20)])
def test_what_depends_on_a_pixel_alone_does_not_see_windows(random, size):
  x = jnp.asarray(random.standard_normal((2, *size, 3)), jnp.float32)

  def predict(x):
    return {"S": x**2, "D": x[..., :1] + 1}

  got = jax.jit(lambda x: predict_windows(predict, x, window=(4, 6), stride=(3, 2)))(x)
  for name, expected in predict(x).items():
    np.testing.assert_allclose(got[name], expected, rtol=1e-6)


def test_windows_are_averaged_where_they_overlap():
  x = jnp.zeros((1, 4, 6, 3))
  seen = []

  def predict(x):
    seen.append(x.shape)
    return {"S": jnp.broadcast_to(jnp.arange(4.0)[None, None, :, None], (1, 4, 4, 1))}

  got = predict_windows(predict, x, window=(4, 4), stride=(4, 2))["S"]
  np.testing.assert_allclose(got[0, 0, :, 0], [0, 1, (2 + 0) / 2, (3 + 1) / 2, 2, 3])
  assert set(seen) == {(1, 4, 4, 3)}
