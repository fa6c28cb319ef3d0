import numpy as np
import pytest

from corda_jax.depth import encodings
from corda_jax.depth.inverse_depth import NO_DEPTH, to_metres
from data_pipelines import inverse_depth

ALL_VALUES = np.arange(65536, dtype=np.uint16)


def test_disparity_is_exact_and_inverts():
  depth = inverse_depth.from_disparity(ALL_VALUES)
  assert depth.dtype == np.float32
  np.testing.assert_array_equal(depth, ALL_VALUES.astype(np.float64) / 256 + 1)
  np.testing.assert_array_equal(encodings.to_disparity(depth), ALL_VALUES)
  assert depth[0] == NO_DEPTH


def test_to_disparity_clips_what_a_file_cannot_hold():
  np.testing.assert_array_equal(
    encodings.to_disparity(np.array([0.5, 1.0, 1.5, 65536.0])), [0, 0, 128, 65535]
  )


def test_sigmoid_outputs_become_files():
  sigmoid = np.array([[0, 1, 0.5, 0.4999 / 65535, 0.5001 / 65535, 65534.6 / 65535]], np.float64)
  values = encodings.from_sigmoid(sigmoid)
  assert values.dtype == np.uint16
  np.testing.assert_array_equal(values, [[0, 65535, 32768, 0, 1, 65535]])
  every = (ALL_VALUES / 65535).astype(np.float32)  # as a network has them
  np.testing.assert_array_equal(encodings.from_sigmoid(every), ALL_VALUES)
  for bad in (-0.01, 1.01, np.nan):
    with pytest.raises(ValueError, match=rf"sigmoid.*{bad}.*0.*1"):
      encodings.from_sigmoid(np.array([0.5, bad]))


def test_centimetres_against_float64_and_invert():
  depth = inverse_depth.from_centimetres(ALL_VALUES)
  assert depth.dtype == np.float32
  expected = 655.36 / (ALL_VALUES.astype(np.float64) / 100 + 0.01)
  np.testing.assert_allclose(depth, expected, rtol=3e-7)
  # From 0 cm (65536) to 655.35 m (1): every centimetre keeps an inverse depth of its own.
  np.testing.assert_array_equal(np.rint(100 * to_metres(depth)), ALL_VALUES)
  assert depth[0] == pytest.approx(65536)
  assert depth[-1] == pytest.approx(NO_DEPTH)


def test_stereo_metres():
  metres = np.array([[0.0, 0.05, -3.0, 0.1, 1.0], [10.0, 655.35, 700.0, np.inf, 0.0999]])
  expected = np.array(
    [[1, 1, 1, 655.36 / 0.11, 655.36 / 1.01], [655.36 / 10.01, 1, 1, 1, 1]], np.float64
  )
  for dtype in (np.float32, np.float64):
    depth = inverse_depth.from_stereo_metres(metres.astype(dtype))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, expected, rtol=2e-7)


def test_stereo_metres_computes_in_the_precision_of_the_file():
  metres = np.random.RandomState(0).uniform(1, 600, 1000).astype(np.float32)
  single, double = (
    inverse_depth.from_stereo_metres(metres.astype(dtype)) for dtype in (np.float32, np.float64)
  )
  np.testing.assert_array_equal(single, np.float32(655.36) / (metres + np.float32(0.01)))
  assert (single != double).any()


def test_metres_invert():
  metres = np.geomspace(0.1, 600, 50)
  np.testing.assert_allclose(to_metres(inverse_depth.from_metres(metres)), metres, rtol=1e-5)
