"""Everything that the reference values hold, compared: `python -m tests.golden` prints the errors.

The files are those of tests/golden, or of the folder CORDA_GOLDEN_DIR.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.golden import files, folder
from tests.golden.kinds import KINDS


def assert_met(measures):
  missed = [m for m in measures if not m.error < m.bound]
  assert not missed, "\n".join(map(str, missed))


# Steps that `step_mic_hrda` has, too: it has all terms, and labels by the teacher's last head, as
# SYNTHIA's have. That network is compared without steps, as the decoder of DAFormer is.
HELD_BY_OTHERS = (
  *("step_daformer", "step_hrda", "step_mic_daformer", "step_mic_daformer_full"),
  "corda_synthia",
)


# Another size between two that are compared.
BETWEEN = ("mit_b1",)


def ours(path, names):
  return path.is_relative_to(Path(__file__).parent) and path.stem in names


def marks(path):
  return [pytest.mark.slow] if ours(path, HELD_BY_OTHERS + BETWEEN) else []


def stem(path):
  return path.stem


RUNS = [
  pytest.param(path, measures, id=f"{path.stem}-{measures.__name__}", marks=marks(path))
  for kind, functions in KINDS.items()
  for path in files(kind)
  for measures in functions
]


def test_there_are_reference_values():
  kinds = {kind: len(files(kind)) for kind in ("corda", *KINDS)}
  assert any(kinds.values()), f"none in {folder()}"
  if folder() == Path(__file__).parent / "golden":
    assert min(kinds.values()) > 0, kinds
    # But for the released loaders and the learning rates, which other tests read.
    assert sum(kinds.values()) == len(list(folder().rglob("*.npz"))) - 2


@pytest.mark.parametrize(("path", "measures"), RUNS)
def test_parts(float64, path, measures):
  assert_met(measures(path))


def released(path, *options):
  """How many numbers were compared of what, in a process of its own, which takes four gigabytes."""
  command = [sys.executable, "-m", "tests.golden", path.name, *options]
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stdout + result.stderr
  assert f"{path.name}, float32" in result.stdout
  rows = re.findall(r"^  (\S.*?)  +([\d,]+) ", result.stdout, re.MULTILINE)
  return {name: int(number.replace(",", "")) for name, number in rows}


@pytest.mark.parametrize(
  "path", [path for path in files("corda") if ours(path, HELD_BY_OTHERS)], ids=stem
)
def test_released_network(path):
  compared = released(path, "--outputs")
  assert compared["eval/* of a converted file"] == 6


@pytest.mark.parametrize(
  "path", [pytest.param(p, marks=marks(p)) for p in files("corda")], ids=stem
)
def test_released_network_and_steps(path):
  compared = released(path)
  assert compared["eval/* of a converted file"] == 6
  # Most parameters are reached by a gradient; all statistics are compared.
  assert min(compared["delta_probe"], compared["ema_delta_probe"]) > 150
  assert compared["stat_probe"] == len(np.load(path)["stat_names"])
