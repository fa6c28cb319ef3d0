"""Malformed inputs of every kind, a few hundred; and what is bad is found."""

import os
import random
import signal
import time

import pytest

from benchmarks import fuzz
from benchmarks.fuzz_outcomes import KIND, RIGHT, TOLD, WRONG, Input, outcome_of
from benchmarks.fuzz_targets import TARGETS
from benchmarks.mutations import mutate_bytes, mutate_json, mutate_text
from corda_jax.errors import UserError, shown


class Planted:
  """Does to each input what its number says."""

  errors = (UserError,)

  def __init__(self, folder):
    self.number = -1

  def make(self, random):
    self.number += 1
    return Input(None, True)

  def read(self, value):
    if self.number == 1:
      raise UserError("a clear line")
    if self.number == 2:
      raise UserError("two\nlines")
    if self.number == 3:
      raise IndexError("of the program's own")
    return self.number

  def judge(self, found, made):
    return {4: WRONG, 5: KIND}.get(found, RIGHT)


class Deadly(Planted):
  """As `Planted`, but some inputs end or stop the process. Each process begins to count anew."""

  def read(self, value):
    if self.number == 1:
      os.kill(os.getpid(), signal.SIGSEGV)
    return self.number


class Slow(Planted):
  def read(self, value):
    time.sleep(60)


class Broken(Planted):
  def __init__(self, folder):
    raise RuntimeError("no folder")


@pytest.mark.parametrize("name", list(TARGETS))
def test_malformed_inputs_are_told_or_read_right(tmp_path, name):
  target = TARGETS[name](tmp_path)
  outcomes = [(*outcome_of(target, 1, number), number) for number in range(300)]
  bad = [each for each in outcomes if each[0] not in fuzz.GOOD]
  assert not bad
  for kinds in ((RIGHT, KIND), (TOLD,)):  # inputs that are read, and that are not
    assert sum(each[0] in kinds for each in outcomes) >= 5


def test_what_is_bad_is_told_apart():
  target = Planted(None)
  found = [outcome_of(target, 0, number)[0] for number in range(6)]
  assert found == [RIGHT, TOLD, "other error", "other error", WRONG, KIND]


def test_crashes_hangs_and_readers_that_do_not_start(monkeypatch, capsys):
  outcomes = [outcome for outcome, _ in fuzz.fuzz(Deadly, 4, 0)]
  assert outcomes == [RIGHT, "crash", RIGHT, "crash"]
  assert [outcome for outcome, _ in fuzz.fuzz(Slow, 1, 0, seconds=0.5)] == ["hang"]
  with pytest.raises(UserError, match="Broken cannot be started"):
    fuzz.fuzz(Broken, 1, 0)
  monkeypatch.setattr(fuzz, "fuzz", lambda *_: [(RIGHT, ""), ("crash", "why")])
  with pytest.raises(UserError, match=r"1 inputs, of seed 5:\n  camera JSON 1: crash: why"):
    fuzz.main(["--targets", "camera JSON", "--seed", "5"])
  assert "| camera JSON | 2 | 1 | 0 | 0 | 0 | 0 | 1 | 0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
  "mutate",
  [
    lambda r: mutate_bytes(b"some contents of a file", r),
    lambda r: mutate_json({"a": {"x": 1.5, "y": 2}, "b": {"z": 3}}, r),
    lambda r: mutate_text("some text", r),
  ],
)
def test_mutations_are_many_and_the_same_for_a_seed(mutate):
  made = [mutate(random.Random(seed)) for seed in range(200)]
  assert made == [mutate(random.Random(seed)) for seed in range(200)]
  assert len(set(made)) > 60
  assert all(mutate_bytes(b"abc", random.Random(seed)) != b"abc" for seed in range(300))


def test_very_long_errors_are_cut():
  assert shown(UserError("short")) == "short"
  assert len(shown(UserError("(" * 9_000 + "the end"))) < 1_010
  assert shown(UserError("(" * 9_000 + "the end")).endswith("the end")


def test_an_override_that_means_something_else_is_seen(tmp_path):
  target = TARGETS["config overrides"](tmp_path)
  good = target.read([])
  for given, outcome in (
    ([], RIGHT),
    (["--config.seed=0"], RIGHT),
    (["--config.seed=3"], WRONG),  # which was dropped
    (["--config.seed=3", "--config.seed=0"], RIGHT),
    (["--config.evaluation.flip=true"], WRONG),
    (["--config.optimizer.learning_rate=0.003"], RIGHT),
    (["--config.evaluation.scales=(2.0,)"], WRONG),
    (["--config.evaluation.network=teacher"], WRONG),
  ):
    assert target.judge(good, Input(given, False)) == outcome
  other = target.read(["--config.num_steps=7"])  # that nothing asked for
  assert target.judge(other, Input([], False)) == WRONG


def test_a_field_is_named_whole(tmp_path):
  target = TARGETS["config overrides"](tmp_path)
  assert target.read(["--config.seed=3"]).seed == 3
  with pytest.raises(UserError, match=r"unknown configuration field: 'config.seed#s'"):
    target.read(["--config.seed#s=3"])
  with pytest.raises(UserError, match=r"config.evaluation.scales is \(None,\), wanted a value"):
    target.read(["--config.evaluation.scales=None"])
