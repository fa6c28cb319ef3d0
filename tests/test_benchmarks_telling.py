"""What telling costs: each kind is timed, and told beside the step alone."""

import re

import pytest

from benchmarks import options, telling
from corda_jax.errors import UserError
from tests import tiny


@pytest.mark.long
def test_every_kind_is_timed(monkeypatch, capsys):
  fields = {"log_every": 2, "evaluation.pictures": 0}
  monkeypatch.setattr(options, "load_config", lambda name: tiny.get_config(**fields))
  monkeypatch.setattr(telling, "_FIRST", 2)
  monkeypatch.setattr(telling, "_PERIOD", 2)
  with pytest.raises(UserError, match="wanted 6 or more"):
    telling.main(["--steps", "5"])
  with pytest.raises(UserError, match="wanted 2 or more"):
    telling.main(["--rounds", "1"])
  telling.main(["--steps", "8", "--rounds", "2"])
  rows = re.findall(
    r"^\| (.*?) \| ([\d.]+) \(([\d.]+)\) \| ?(.*?) \|$", capsys.readouterr().out, re.M
  )
  assert [row[0] for row in rows] == [
    "the step alone",
    "the loop of a run",
    "… a checkpoint every 2 steps",
    "… pictures every 2 steps",
  ]
  assert all(float(row[1]) > 0 for row in rows)
  assert [bool(re.fullmatch(r"[+-][\d.]+ ± [\d.]+ %", row[3])) for row in rows] == [
    False,
    *[True] * 3,
  ]


def test_rounds_are_compared_one_by_one():
  assert telling.difference([1.0, 2.0, 4.0], [1.1, 2.2, 4.4]) == "+10.0 ± 0.0 %"
  # Shares 0.1 and 0.3: their mean's standard error is that of 0.1414 over the root of 2.
  assert telling.difference([1.0, 1.0], [1.1, 1.3]) == "+20.0 ± 10.0 %"
