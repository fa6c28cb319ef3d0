"""Everything that the reference values hold, compared: `python -m tests.golden` prints the errors.

The files are those of tests/golden, or of the folder CORDA_GOLDEN_DIR.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.golden import depth_networks, depth_parts, files, folder, parts


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
  rows = re.findall(r"^  (\S.*?)  +([\d,]+) ", result.stdout, re.MULTILINE)
  compared = {name: int(number.replace(",", "")) for name, number in rows}
  # Most parameters are reached by a gradient; all statistics are compared.
  assert min(compared["delta_probe"], compared["ema_delta_probe"]) > 150
  assert compared["stat_probe"] == len(np.load(path)["stat_names"])
  assert compared["eval/* of a converted file"] == 6
  assert f"{path.name}, float32" in result.stdout
