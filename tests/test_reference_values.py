"""Everything that the reference values hold, compared: `python -m tests.golden` prints the errors.

The files are those of tests/golden, or of the folder CORDA_GOLDEN_DIR.
"""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.models.torch_files import read_torch_file
from corda_jax.models.torch_matching import find_state_dicts
from corda_jax.models.torch_write import write_torch_file
from tests.golden import depth_networks, depth_parts, files, folder, parts
from tests.golden.released_run import STORED, ReleasedRun, relative


def assert_met(measures):
  missed = [m for m in measures if not m.error < m.bound]
  assert not missed, "\n".join(map(str, missed))


def by_name(path):
  return path.name


def test_there_are_reference_values():
  kinds = {kind: len(files(kind)) for kind in ("corda", "losses", "augment", "monodepth")}
  assert any(kinds.values()), f"none in {folder()}"
  if folder() == Path(__file__).parent / "golden":
    assert kinds == {"corda": 2, "losses": 1, "augment": 1, "monodepth": 1}


@pytest.mark.parametrize("path", files("losses"), ids=by_name)
def test_losses_scores_and_upsampling(float64, path):
  assert_met(parts.losses_file(path))


@pytest.mark.parametrize("path", files("augment"), ids=by_name)
def test_augmentation(float64, path):
  assert_met(parts.augment_file(path))


@pytest.mark.parametrize("path", files("monodepth"), ids=by_name)
def test_self_supervised_depth(float64, path):
  assert_met(depth_parts.monodepth_file(path))


@pytest.mark.parametrize("path", files("monodepth"), ids=by_name)
def test_decoders_of_the_depth_stage(float64, path):
  assert_met(depth_networks.decoders_file(path))


@pytest.mark.parametrize("path", files("corda"), ids=by_name)
def test_released_network_and_steps(path):
  """In a process of its own, which takes four gigabytes: both types, and all steps."""
  result = subprocess.run(
    [sys.executable, "-m", "tests.golden", path.name], capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stdout + result.stderr
  assert result.stdout.count("delta_probe") == 2  # of student and teacher


@pytest.mark.parametrize("path", files("corda"), ids=by_name)
def test_a_converted_checkpoint_predicts_what_the_release_does(float64, tmp_path, path):
  run = ReleasedRun(path)
  file, start = tmp_path / "checkpoint.pth", run.start()
  counts = {f"{n.removesuffix('running_var')}num_batches_tracked" for n in start if "_var" in n}
  tracked = dict.fromkeys(counts, np.array(5, np.int64))
  write_torch_file(file, {"iteration": 5, "model": start | tracked, "ema_model": {}})
  variables = run.convert(find_state_dicts(read_torch_file(file)).student)
  for name, got in run.evaluate(jax.tree.map(jnp.asarray, variables), run.image).items():
    assert relative(got, run.reference[f"eval/{name}"]) < STORED
