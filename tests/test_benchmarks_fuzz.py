"""Malformed inputs: mutations are many, and what is bad is found."""

import random

import pytest

from benchmarks.fuzz import GOOD
from benchmarks.fuzz_outcomes import KIND, RIGHT, TOLD, WRONG, Input, outcome_of
from benchmarks.fuzz_targets import TARGETS
from benchmarks.mutations import mutate_bytes, mutate_json, mutate_text
from corda_jax.errors import UserError


class Planted:
  """Does to each input what its number says."""

  errors = (UserError,)

  def __init__(self, folder, deeds):
    self.number, self.deeds = -1, deeds

  def make(self, random):
    self.number += 1
    return Input(None, True)

  def read(self, value):
    deed = self.deeds.get(self.number)
    if isinstance(deed, Exception):
      raise deed
    return deed() if deed else self.number

  def judge(self, found, made):
    return {4: WRONG, 5: KIND}.get(found, RIGHT)


def test_what_is_bad_is_told_apart():
  target = Planted(None, {1: UserError("clear"), 2: UserError("two\nlines"), 3: IndexError()})
  found = [outcome_of(target, 0, number)[0] for number in range(6)]
  assert found == [RIGHT, TOLD, "other error", "other error", WRONG, KIND]


@pytest.mark.parametrize("name", list(TARGETS))
def test_malformed_inputs_are_told_or_read_right(tmp_path, name):
  target = TARGETS[name](tmp_path)
  outcomes = [(*outcome_of(target, 1, number), number) for number in range(30)]
  assert not [each for each in outcomes if each[0] not in GOOD]
  assert {TOLD} < {each[0] for each in outcomes}  # some are read, and some are not


def test_mutations_are_many_and_the_same_for_a_seed():
  for mutate, good in (
    (mutate_bytes, b"some contents of a file"),
    (mutate_json, {"a": {"x": 1.5, "y": 2}, "b": {"z": 3}}),
    (mutate_text, "some text"),
  ):
    made = [mutate(good, random.Random(seed)) for seed in range(200)]
    assert made == [mutate(good, random.Random(seed)) for seed in range(200)]
    assert len(set(made)) > 60
  assert all(mutate_bytes(b"abc", random.Random(seed)) != b"abc" for seed in range(300))


def test_an_override_that_means_something_else_is_seen(tmp_path):
  target = TARGETS["config overrides"](tmp_path)
  good = target.read([])
  for given, outcome in (
    ([], RIGHT),
    (["seed=3"], WRONG),  # which was dropped
    (["seed=3", "seed=0"], RIGHT),
    (["evaluation.flip=true"], WRONG),
    (["optimizer.learning_rate=0.003"], RIGHT),
    (["evaluation.scales=(2.0,)"], WRONG),
  ):
    assert target.judge(good, Input([f"--config.{each}" for each in given], False)) == outcome
  other = target.read(["--config.num_steps=7"])
  assert target.judge(other, Input([], False)) == WRONG  # nothing asked for that
  for argument, named in (("seed#s=3", "seed#s"), ("evaluation.scales=None", "scales.*None")):
    with pytest.raises(UserError, match=named):
      target.read([f"--config.{argument}"])
