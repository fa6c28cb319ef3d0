"""Set-up of all tests: four virtual devices, strict promotion, reference values."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tests.golden import folder

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Tests compile many programs and run each of them once or twice.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
  """Folder of the reference values: CORDA_GOLDEN_DIR, or tests/golden."""
  return folder()


@pytest.fixture
def float64():
  """Runs a test with 64-bit types enabled."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def random() -> np.random.RandomState:
  return np.random.RandomState(7)
