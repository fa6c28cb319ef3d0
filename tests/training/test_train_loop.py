"""The loop, with both tasks: resuming, faults, curves and pictures."""

import itertools
import json
import re

import jax
import numpy as np
import pytest

from corda_jax.errors import UserError
from corda_jax.training import train_loop
from corda_jax.training.checkpoint import best_checkpoint
from corda_jax.training.evaluate import evaluate
from corda_jax.training.history import History
from corda_jax.training.skipped import SkippedSteps
from tests import runs, tiny
from tests.runs import Curves, Full, Killed, run

SCORES = {"adaptation": "target/miou", "depth": "depth/abs_rel"}
both_tasks = pytest.mark.parametrize("name", SCORES)


def assert_same(got, expected):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), jax.device_get(expected))


@both_tasks
def test_a_resumed_run_ends_like_one_that_was_never_stopped(name, tmp_path, capsys):
  task, curves = runs.make(name), Curves()
  whole, result = run(task, tmp_path / "whole", curves)
  assert json.loads((tmp_path / "whole" / "results.json").read_text()) == result
  assert result["step"] == int(whole.step) == 4
  names = {name for _, values in curves.scalars for name in values}
  assert {"train/total", "train/images_per_second", *task.learning_rates()(0)} <= names
  assert curves.steps_with(SCORES[name]) == [2, 4]
  assert (
    task.evaluate(whole, runs.MODULES[name].evaluation_batches).table in capsys.readouterr().out
  )
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), task.initial_state().params, whole.params)
  assert all(any(jax.tree.leaves(part)) for part in moved.values())

  with pytest.raises(Killed):
    run(task, tmp_path / "stopped", killed_at=4)
  assert not (tmp_path / "stopped" / "results.json").exists()
  resumed, resumed_result = run(task, tmp_path / "stopped")
  assert re.search(r"checkpoint.*\b2\b", capsys.readouterr().out)
  assert resumed_result == result
  assert_same(resumed, whole)

  # Started once more, it has nothing to train and says so.
  again, again_result = run(task, tmp_path / "whole")
  assert re.search(r"complete.*\b4\b", capsys.readouterr().out)
  assert again_result == result
  assert_same(again, whole)

  state, found = evaluate(task, tmp_path / "whole", runs.MODULES[name].evaluation_batches)
  assert found.result == result
  assert json.loads((tmp_path / "whole" / "evaluation.json").read_text()) == result
  assert_same(state, whole)
  scores = {
    entry["step"]: entry["score"]
    for entry in History(tmp_path / "whole").entries
    if "score" in entry
  }
  assert best_checkpoint(tmp_path / "whole") == max(scores, key=lambda step: (scores[step], step))


@both_tasks
def test_nothing_to_evaluate_is_an_error(name, tmp_path):
  with pytest.raises(UserError, match=r"checkpoints in .*test_nothing"):
    evaluate(runs.make(name), tmp_path, runs.MODULES[name].evaluation_batches)


def test_an_evaluation_that_was_killed_is_made_when_the_run_goes_on(tmp_path):
  def killed():
    raise Killed
    yield

  task = runs.make("adaptation")
  with pytest.raises(Killed):
    run(task, tmp_path, evaluated=killed)
  assert not History(tmp_path).evaluated(2)
  run(task, tmp_path)
  assert [History(tmp_path).evaluated(step) for step in (2, 3, 4)] == [True, False, True]


def test_a_depth_run_without_truth_is_scored_by_its_loss(tmp_path):
  task = runs.make("depth", **{"data.target.depth": "none", "num_steps": 2, "evaluate_every": 1})
  curves = Curves()
  _, result = run(task, tmp_path, curves)
  losses = {
    s: v["depth/photometric_loss"] for s, v in curves.scalars if "depth/photometric_loss" in v
  }
  assert set(losses) == {1, 2}
  assert result == {"step": 2, "photometric_loss": losses[2], "frames": 7}


def poisoned(*steps):
  """Batches with the names of their frames, some with depths that give a loss that is no number."""

  def batches(start):
    for step, batch in enumerate(tiny.train_batches(start), start + 1):
      if step in steps:
        batch["source_inverse_depth"] = np.full_like(batch["source_inverse_depth"], np.nan)
      names = np.array([f"frame_{step}_{row}" for row in range(4)])
      yield batch | {"source_name": names, "target_name": names}

  return batches


def test_a_step_that_is_not_finite_changes_nothing_and_is_reported(tmp_path, capsys):
  task, curves = runs.make("adaptation"), Curves()
  state, key = task.initial_state(), jax.random.key(0)
  before = jax.device_get(state)
  (batch,) = itertools.islice(poisoned(1)(0), 1)
  state, metrics = task.compile_step()(state, task.batch_inputs(batch), key)
  assert metrics["skipped"] == 1
  assert int(state.step) == 1
  assert_same(state.replace(step=before.step), before)

  state, result = run(task, tmp_path, curves, trained=poisoned(2, 3))
  assert result["step"] == 4
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))
  skipped = {
    step: values["train/skipped"] for step, values in curves.scalars if "train/skipped" in values
  }
  assert skipped == {1: 0, 2: 1, 3: 1, 4: 0}
  assert re.search(r"step 2\b.*total.*nan.*source: frame_2_0, ", capsys.readouterr().out)


def test_skipped_steps_count_in_a_row_alone(tmp_path):
  skipped = SkippedSteps(
    tmp_path, 2, frames_of=lambda step: {}, checkpoints=list, say=lambda text: None
  )
  for step, each in enumerate((1, 0, 1, 0, 1)):
    skipped.read(step, {"skipped": each, "total": float("nan")})
  with pytest.raises(UserError, match=r"\b2\b.*4\.\.5"):
    skipped.read(5, {"skipped": 1, "total": float("nan")})


def test_too_many_such_steps_in_a_row_end_the_run_with_a_report(tmp_path):
  task = runs.make(
    "adaptation", **{"faults.skipped_steps": 2, "checkpoint_every": 1, "keep_newest": 5}
  )
  with pytest.raises(UserError, match=r"\b2\b.*3\.\.4.*checkpoint.*\b1\b"):
    run(task, tmp_path, trained=poisoned(3, 4))
  report = json.loads((tmp_path / "diverged.json").read_text())
  # That of step 2 may hold weights that make every step fail.
  assert (tmp_path / "checkpoints" / "2").exists()
  assert report["last_good_checkpoint"] == 1
  assert [step["step"] for step in report["steps"]] == [3, 4]
  assert report["steps"][0]["not_finite"]["total"] == "nan"
  assert report["steps"][1]["frames"]["target"] == [f"frame_4_{row}" for row in range(4)]
  assert not (tmp_path / "results.json").exists()


@both_tasks
def test_pictures_of_training_and_of_evaluation_are_written_and_shown(name, tmp_path):
  task, curves = runs.make(name, **{"draw_every": 2, "evaluation.pictures": 3}), Curves()
  run(task, tmp_path, curves)
  network = {"adaptation": "student", "depth": "depth"}[name]
  sheets = {f"{kind}_step_{step:06d}.png" for kind in ("train", network) for step in (2, 4)}
  assert {path.name for path in (tmp_path / "pictures").iterdir()} == sheets
  assert all((tmp_path / "pictures" / sheet).stat().st_size > 10_000 for sheet in sheets)
  assert sorted((step, *images) for step, images in curves.images) == sorted(
    (step, kind) for kind in ("train", network) for step in (2, 4)
  )


@both_tasks
def test_curves_and_pictures_that_cannot_be_written_do_not_end_a_run(name, tmp_path, capsys):
  task = runs.make(name, draw_every=2, log_every=2)
  _, result = run(task, tmp_path, Full())
  assert result["step"] == 4
  output = capsys.readouterr().out
  for what in ("TensorBoard's curves", "pictures"):
    assert re.search(rf"{what}.*No space left on device", output)
  assert [entry["step"] for entry in History(tmp_path).entries] == [2, 2, 4, 4]


def test_hooks_see_every_step_and_one_that_fails_does_not_end_a_run(tmp_path, capsys):
  seen = []

  def hook(step):
    seen.append(step)
    if step == 2:
      raise OSError(28, "No space left on device")

  task = runs.make("adaptation")
  train_loop.train(task, tmp_path, runs.Feed(tiny), Curves(), hooks=[hook])
  assert seen == [1, 2, 3, 4]
  assert re.search("profile.*No space left", capsys.readouterr().out)
