import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.depth import inverse_depth
from corda_jax.depth.inverse_depth import NO_DEPTH
from data_pipelines import inverse_depth as files

METRES = np.concatenate([np.geomspace(0.05, 655.35, 200), [0.0]])


def test_network_and_files_have_one_scale(float64):
  expected = files.from_metres(METRES)  # float32, as files are read
  np.testing.assert_allclose(inverse_depth.from_metres(METRES), expected, rtol=1e-7)
  scale = inverse_depth.from_metres(METRES)
  np.testing.assert_allclose(inverse_depth.to_metres(scale), METRES, rtol=1e-9, atol=1e-12)
  # And so with JAX.
  arrays = jax.jit(inverse_depth.to_metres)(jnp.asarray(scale))
  np.testing.assert_allclose(arrays, inverse_depth.to_metres(scale), rtol=1e-15)
  arrays = jax.jit(inverse_depth.from_metres)(jnp.asarray(METRES))
  np.testing.assert_allclose(arrays, scale, rtol=1e-15)


def test_the_farthest_centimetre_means_no_depth():
  assert inverse_depth.from_metres(np.float64(655.35)) == NO_DEPTH
  assert inverse_depth.from_metres(np.float64(655.34)) > NO_DEPTH
  # As the module says of the nearest value of a 16-bit file.
  np.testing.assert_allclose(inverse_depth.to_metres(np.float64(257)), 2.54, atol=0.001)


def test_dtypes_stay(float64):
  for dtype in (np.float32, np.float64):
    values = np.array([1, 2.5], dtype)
    for function in (inverse_depth.to_metres, inverse_depth.from_metres):
      assert function(values).dtype == dtype
      assert function(jnp.asarray(values)).dtype == dtype
