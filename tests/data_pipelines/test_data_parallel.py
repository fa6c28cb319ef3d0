import operator
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corda_jax.errors import UserError
from data_pipelines.parallel import available_cores, ordered_map


@pytest.mark.parametrize("processes", [1, 2])
def test_keeps_the_order(processes):
  naps = [0.2, 0.0, 0.0, 0.1] + [0.0] * 20
  assert list(ordered_map(time.sleep, naps, processes=processes)) == [None] * 24
  numbers = list(range(50))
  assert list(ordered_map(operator.neg, numbers, processes=processes)) == [-n for n in numbers]


def test_takes_items_only_as_they_are_needed():
  taken = []

  def items():
    for i in range(1000):
      taken.append(i)
      yield i

  results = ordered_map(operator.neg, items(), processes=2)
  next(results)
  assert len(taken) < 20
  results.close()


def test_killed_process_is_a_clear_error():
  with pytest.raises(UserError, match=r"2.*data\.prepare_processes"):
    list(ordered_map(os._exit, [3], processes=2))


def test_workers_do_not_import_the_main_module(tmp_path):
  script = tmp_path / "script.py"
  script.write_text(
    "import operator\n"
    "with open('imports', 'a') as file: file.write(__name__ + '\\n')\n"
    "from data_pipelines.parallel import ordered_map\n"
    "print(list(ordered_map(operator.neg, [1, 2, 3], processes=2)))\n"
  )
  environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
  output = subprocess.run(
    [sys.executable, str(script)],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  )
  assert output.stdout == "[-1, -2, -3]\n"
  assert (tmp_path / "imports").read_text() == "__main__\n"


@pytest.mark.parametrize(
  ("quota", "share"),
  [
    ("150000 100000", 2),
    ("1000 100000", 1),
    ("max 100000", 64),
    ("12800000 100000", 64),
    (None, 64),
  ],
)
def test_cores_of_a_container(tmp_path, monkeypatch, quota, share):
  monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
  if quota is not None:
    (tmp_path / "cpu.max").write_text(quota)
  assert available_cores(tmp_path / "cpu.max") == share
