"""Everything that the reference values hold, compared: `python -m tests.golden` prints the errors.

The files are those of tests/golden, or of the folder CORDA_GOLDEN_DIR.
"""

import numpy as np
import pytest

from corda_jax.models.torch_weights import variables_from_state_dict
from tests.golden import files, folder, parts
from tests.golden.released_run import ReleasedRun


def assert_met(measures):
  missed = [m for m in measures if not m.error < m.bound]
  assert not missed, "\n".join(map(str, missed))


def by_name(path):
  return path.name


def test_there_are_reference_values():
  assert files("corda") or files("losses") or files("augment"), f"none in {folder()}"


@pytest.mark.parametrize("path", files("losses"), ids=by_name)
def test_losses_scores_and_upsampling(float64, path):
  assert_met(parts.losses_file(path))


@pytest.mark.parametrize("path", files("augment"), ids=by_name)
def test_augmentation(float64, path):
  assert_met(parts.augment_file(path))


@pytest.mark.long
@pytest.mark.parametrize("path", files("corda"), ids=by_name)
def test_released_network_and_steps(float64, path):
  measures = list(ReleasedRun(path).measures())
  assert_met(measures)
  compared = {m.quantity: m.compared for m in measures}
  # Most parameters are reached by a gradient; all statistics are compared.
  assert compared["delta_probe"] > 150
  assert compared["stat_probe"] == len(np.load(path)["stat_names"])


@pytest.mark.long
@pytest.mark.parametrize("path", files("corda"), ids=by_name)
def test_released_network_in_float32(path):
  assert_met(ReleasedRun(path, "float32").outputs())


def test_names_that_the_release_does_not_have():
  with pytest.raises(KeyError, match="no tensor of a released CorDA network"):
    variables_from_state_dict({"backbone.conv.weight": np.zeros((1, 1, 3, 3))}, branches=2)
