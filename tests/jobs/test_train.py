import importlib.metadata
import itertools
import json
import os
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from corda_jax.adaptation.draws import draw
from corda_jax.errors import UserError
from corda_jax.jobs.evaluate import Evaluator, evaluate
from corda_jax.jobs.experiment import Experiment
from corda_jax.jobs.train import step_inputs, train
from corda_jax.jobs.validate import validate_training_data
from corda_jax.resize import resize_aligned
from corda_jax.training.checkpoint import Checkpoints, best_checkpoint
from corda_jax.training.history import History
from corda_jax.training.profile import Profile
from corda_jax.training.progress import Progress
from corda_jax.training.run_files import check_config, check_results, record_config, write_json
from corda_jax.training.sharding import check_divisible, make_mesh, shardings_of
from corda_jax.training.skipped import SkippedSteps
from corda_jax.visualize import training_sheet
from tests import tiny
from tests.stub_network import stub_experiment


@pytest.fixture(scope="module")
def experiment():
  return stub_experiment(tiny.get_config(), devices=2)


def run(
  experiment,
  workdir,
  scalars=None,
  batches=tiny.train_batches,
  evaluated=tiny.evaluation_batches,
):
  return train(
    experiment,
    workdir,
    train_batches=batches,
    evaluation_batches=evaluated,
    write_scalars=lambda step, values: (
      None if scalars is None else scalars.append((step, dict(values)))
    ),
  )


class Killed(Exception):
  pass


def killed_at(step):
  def batches(start):
    for number, batch in enumerate(tiny.train_batches(start), start):
      if number == step:
        raise Killed
      yield batch

  return batches


def test_a_resumed_run_ends_like_one_that_was_never_stopped(experiment, tmp_path, capsys):
  scalars = []
  (tmp_path / "whole").mkdir()
  whole, result = run(experiment, tmp_path / "whole", scalars)
  assert json.loads((tmp_path / "whole" / "results.json").read_text()) == result
  assert result["step"] == 4
  names = {name for _, values in scalars for name in values}
  assert {"train/total", "train/images_per_second", "target/miou"} <= names
  assert [step for step, values in scalars if "target/miou" in values] == [2, 4]
  assert "mIoU" in capsys.readouterr().out

  (tmp_path / "stopped").mkdir()
  with pytest.raises(Killed):
    run(experiment, tmp_path / "stopped", batches=killed_at(3))
  assert not (tmp_path / "stopped" / "results.json").exists()
  resumed, resumed_result = run(experiment, tmp_path / "stopped")
  assert re.search(r"checkpoint.*\b2\b", capsys.readouterr().out)
  assert resumed_result == result
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), jax.device_get(whole))

  # Started once more, it has nothing to train and says so.
  again, again_result = run(experiment, tmp_path / "whole")
  assert re.search(r"complete.*\b4\b", capsys.readouterr().out)
  assert again_result == result
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), jax.device_get(whole))

  state, evaluated = evaluate(experiment, tmp_path / "whole", tiny.evaluation_batches)
  assert evaluated["miou"] == result["miou"]
  assert int(state.step) == 4


def test_an_evaluation_that_was_killed_is_made_when_the_run_goes_on(experiment, tmp_path):
  def killed():
    raise Killed
    yield

  with pytest.raises(Killed):
    run(experiment, tmp_path, evaluated=killed)
  assert not History(tmp_path).evaluated(2)
  run(experiment, tmp_path)
  assert [History(tmp_path).evaluated(step) for step in (2, 3, 4)] == [True, False, True]


def test_evaluation_counts_each_valid_frame_once(experiment):
  state = experiment.initial_state()
  evaluator = Evaluator(experiment)
  confusion, frames = evaluator.confusion(state, tiny.evaluation_batches())
  batches = list(tiny.evaluation_batches())
  labels = np.concatenate([b["label"][b["valid"]] for b in batches])
  assert frames == len(labels) == 7
  assert confusion.sum() == (labels != 255).sum()
  np.testing.assert_array_equal(confusion.sum(1), np.bincount(labels[labels != 255], minlength=19))

  pictures = evaluator.pictures(state, tiny.evaluation_batches(), 6)
  assert pictures["prediction"].shape == (6, tiny.HEIGHT, tiny.WIDTH)
  assert set(pictures) == {"image", "label", "prediction", "inverse_depth", "difficulty"}
  images = np.concatenate([b["image"][b["valid"]] for b in batches])[:6]
  x = experiment.normalization.normalize(jnp.asarray(images))
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  outputs = experiment.model.apply(variables, x, train=False)
  target, source = (
    np.asarray(resize_aligned(outputs[n], (tiny.HEIGHT, tiny.WIDTH)))[..., 0]
    for n in ("D", "D_src")
  )
  np.testing.assert_allclose(pictures["inverse_depth"], target, atol=1e-4)
  difficulty = np.clip(np.abs(source - target) / np.maximum(target, 1), 0, 1)
  np.testing.assert_allclose(pictures["difficulty"], difficulty, atol=1e-4)
  matrix = np.zeros((19, 19), int)
  for label, prediction in zip(labels[:6], pictures["prediction"], strict=True):
    valid = label != 255
    np.add.at(matrix, (label[valid], prediction[valid]), 1)
  first = [
    {**b, "valid": b["valid"] & (np.arange(4) < n)} for b, n in zip(batches, (4, 2), strict=True)
  ]
  np.testing.assert_array_equal(evaluator.confusion(state, first)[0], matrix)


def test_evaluation_reads_the_network_that_is_asked_for(tmp_path):
  student = stub_experiment(tiny.get_config(), devices=2)
  teacher = stub_experiment(tiny.get_config(**{"evaluation.network": "teacher"}), devices=2)
  state = student.initial_state()
  state = state.replace(teacher_params=jax.tree.map(lambda x: -x, state.teacher_params))
  results = [
    Evaluator(e).confusion(state, tiny.evaluation_batches())[0] for e in (student, teacher)
  ]
  assert (results[0] != results[1]).any()


def steps_in(folder):
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_newest_and_best_checkpoints_stay(experiment, tmp_path):
  history, state = History(tmp_path), experiment.initial_state()
  checkpoints = Checkpoints(tmp_path, keep_best=1)
  for step, miou in ((1, 10.0), (2, 30.0), (3, 20.0), (4, None), (5, 15.0), (6, None)):
    checkpoints.save(step, state)
    if miou is not None:
      checkpoints.add_score(step, miou)
      history.add_evaluation(step, miou, {}, {})
  checkpoints.close()
  assert steps_in(tmp_path / "checkpoints") == [2, 5, 6]
  checkpoints = Checkpoints(tmp_path)
  assert (checkpoints.latest_step(), best_checkpoint(tmp_path)) == (6, 2)
  other = Experiment.from_config(tiny.get_config(**{"model.task_width": 8}), experiment.mesh)
  with pytest.raises(UserError, match=r"another network: [1-9]\d* arrays"):
    checkpoints.restore(6, other.state_shapes())
  checkpoints.close()


def test_a_checkpoint_is_restored_on_other_devices(tmp_path):
  split = tiny.get_config(**{"compute.shard_state": True})
  written, read, again = (
    stub_experiment(*arguments) for arguments in ((split, 4), (tiny.get_config(), 1), (split, 4))
  )
  state = written.initial_state()
  assert not all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state.optimizer_state))
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state)
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path)
  for reader in (read, again):
    shapes = reader.state_shapes()
    found = checkpoints.restore(1, shapes)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert jax.tree.map(lambda x: x.sharding, found) == shardings_of(shapes)
  checkpoints.close()


def poisoned(*steps):
  """Batches with the names of their frames, some with depths that give a loss that is no number."""

  def batches(start):
    for step, batch in enumerate(tiny.train_batches(start), start + 1):
      if step in steps:
        batch["source_inverse_depth"] = np.full_like(batch["source_inverse_depth"], np.nan)
      names = np.array([f"frame_{step}_{row}" for row in range(4)])
      yield batch | {"source_name": names, "target_name": names}

  return batches


def test_a_step_that_is_not_finite_changes_nothing_and_is_told(experiment, tmp_path, capsys):
  scalars, step = [], experiment.compile_step()
  state, key = experiment.initial_state(), jax.random.key(0)
  before = jax.device_get(state)
  (batch,) = itertools.islice(poisoned(1)(0), 1)
  state, metrics = step(state, step_inputs(batch), key)
  assert metrics["skipped"] == 1
  assert int(state.step) == 1
  jax.tree.map(
    np.testing.assert_array_equal, jax.device_get(state).replace(step=before.step), before
  )

  state, result = run(experiment, tmp_path, scalars, batches=poisoned(2, 3))
  assert result["step"] == 4
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))
  curves = {step: values for step, values in scalars if "train/skipped" in values}
  assert [curves[step]["train/skipped"] for step in (1, 2, 3, 4)] == [0, 1, 1, 0]
  told = capsys.readouterr().out
  assert re.search(r"step 2\b.*total.*nan.*source: frame_2_0, ", told)


def test_skipped_steps_count_in_a_row_alone(tmp_path):
  skipped = SkippedSteps(
    tmp_path, 2, frames_of=lambda step: {}, checkpoints=list, tell=lambda text: None
  )
  for step, each in enumerate((1, 0, 1, 0, 1)):
    skipped.read(step, {"skipped": each, "total": float("nan")})
  with pytest.raises(UserError, match=r"\b2\b.*4\.\.5"):
    skipped.read(5, {"skipped": 1, "total": float("nan")})


def test_too_many_such_steps_in_a_row_end_the_run_with_a_report(experiment, tmp_path):
  config = experiment.config
  before = config.checkpoint_every, config.keep_newest
  config.faults.skipped_steps = 2
  config.checkpoint_every, config.keep_newest = 1, 5
  try:
    with pytest.raises(UserError, match=r"\b2\b.*3\.\.4.*checkpoint.*\b1\b"):
      run(experiment, tmp_path, batches=poisoned(3, 4))
  finally:
    config.faults.skipped_steps = 10
    config.checkpoint_every, config.keep_newest = before
  report = json.loads((tmp_path / "diverged.json").read_text())
  # That of step 2 may hold weights that make every step fail.
  assert (tmp_path / "checkpoints" / "2").exists()
  assert report["last_good_checkpoint"] == 1
  assert [step["step"] for step in report["steps"]] == [3, 4]
  assert report["steps"][0]["not_finite"]["total"] == "nan"
  assert report["steps"][1]["frames"]["target"] == [f"frame_4_{row}" for row in range(4)]
  assert not (tmp_path / "results.json").exists()


def test_a_profile_that_cannot_be_written_is_told_and_the_next_one_is_made(tmp_path):
  told: list[str] = []
  config = ConfigDict({"at_step": 2, "steps": 1})
  profile = Profile(tmp_path, config, tell=told.append)
  (tmp_path / "tensorboard").mkdir()
  (tmp_path / "tensorboard" / "plugins").write_text("no folder")
  try:
    for step in (1, 2, 3):
      with profile.step(step):
        jnp.ones(3).block_until_ready()
    assert len(told) == 1
    assert "profile" in told[0]
    (tmp_path / "tensorboard" / "plugins").unlink()
    os.kill(os.getpid(), signal.SIGUSR1)
    with profile.step(4):
      jnp.ones(3).block_until_ready()
  finally:
    profile.close()
  assert str(tmp_path / "tensorboard") in told[1]
  assert list((tmp_path / "tensorboard" / "plugins").rglob("*.xplane.pb"))


def test_what_training_sees_is_shown(tmp_path):
  fields = {"draw_every": 2, "num_steps": 2, "evaluate_every": 2}
  fields |= {f"method.strong_augmentation.{name}_probability": 0.0 for name in ("jitter", "blur")}
  experiment = stub_experiment(tiny.get_config(**fields), devices=2)
  shown = {}
  train(
    experiment,
    tmp_path,
    train_batches=tiny.train_batches,
    evaluation_batches=tiny.evaluation_batches,
    write_scalars=lambda step, values: None,
    show=shown.__setitem__,
  )
  ((step, maps),) = shown.items()
  assert step == 2
  batch = tiny.get_batch(1)  # of the second step
  for name in ("source_image", "source_label", "target_image"):
    np.testing.assert_array_equal(maps[name], batch[name])
  # A mixed pixel has the image and the label of one domain.
  label, pseudo = maps["label"], maps["pseudo_label"]
  from_source = (label == batch["source_label"]) & (label != pseudo)
  from_target = (label != batch["source_label"]) & (label == pseudo)
  assert from_source.any()
  assert from_target.any()
  assert ((label == batch["source_label"]) | (label == pseudo)).all()
  colors = np.rint(255 * maps["image"])
  np.testing.assert_array_equal(colors[from_source], batch["source_image"][from_source])
  np.testing.assert_array_equal(colors[from_target], batch["target_image"][from_target])
  # The draws of the step itself, whose state had made one before.
  key = jax.random.fold_in(jax.random.key(experiment.config.seed), 1)
  mask = draw(key, jnp.asarray(batch["source_label"]), 19, experiment.config.method)["mix_mask"]
  np.testing.assert_array_equal(label, np.where(mask, batch["source_label"], pseudo))
  assert maps["pixel_weight"].shape == maps["prediction"].shape == label.shape
  target, source = maps["inverse_depth"], maps["source_inverse_depth"]
  expected = np.clip(np.abs(source - target) / np.maximum(target, 1), 0, 1)
  np.testing.assert_allclose(maps["difficulty"], expected, atol=1e-6)
  sheet = tmp_path / "sheet.png"
  training_sheet(maps, "what training sees", sheet, experiment.classes)
  assert sheet.stat().st_size > 10_000


@pytest.mark.parametrize("astray", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_never_the_best(experiment, tmp_path, astray):
  checkpoints = Checkpoints(tmp_path, keep_best=1, keep_newest=1)
  state = experiment.initial_state()
  for step, score in ((1, -0.5), (2, -0.3), (3, astray), (4, astray)):
    checkpoints.save(step, state)
    checkpoints.add_score(step, score)
  checkpoints.close()
  assert steps_in(tmp_path / "checkpoints") == [2, 4]


def test_results_without_numbers_are_json(tmp_path):
  write_json(tmp_path / "a.json", {"x": float("nan"), "y": [1.5, float("-inf")], "z": {"t": "nan"}})
  told = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
  assert told == {"x": None, "y": [1.5, None], "z": {"t": "nan"}}


def test_results_of_another_configuration_are_refused(tmp_path):
  record_config(tmp_path, tiny.get_config().to_dict())
  same = tiny.get_config(**{"log_every": 7, "prediction.batch_size": 3, "keep_best": 3})
  check_results(tmp_path, same.to_dict())  # without checkpoints
  for field, value in (
    ("evaluation.flip", True),
    ("optimizer.momentum", 0.5),
    ("initial_weights", "elsewhere.npz"),
    ("data.street_world.gap", 1.5),
  ):
    with pytest.raises(UserError, match=rf"{re.escape(field)} \(.*→.*{re.escape(str(value))}"):
      check_results(tmp_path, tiny.get_config(**{field: value}).to_dict())


def test_a_checkout_that_is_not_installed_has_no_version(tmp_path, monkeypatch):
  real = importlib.metadata.version

  def version(name):
    if name == "corda_jax":
      raise importlib.metadata.PackageNotFoundError(name)
    return real(name)

  monkeypatch.setattr(importlib.metadata, "version", version)
  record_config(tmp_path, tiny.get_config().to_dict())
  (code,) = json.loads((tmp_path / "code.json").read_text())["code"]
  assert code["corda_jax"] is None
  assert code["jax"] == jax.__version__


def test_a_run_refuses_another_configuration(tmp_path):
  check_config(tmp_path, tiny.get_config().to_dict())  # nothing there yet
  record_config(tmp_path, tiny.get_config().to_dict())
  changed = tiny.get_config(**{"optimizer.momentum": 0.5}).to_dict()
  check_config(tmp_path, changed)  # nothing was made with the first one
  (tmp_path / "checkpoints" / "2").mkdir(parents=True)
  free = {"log_every": 7, "evaluation.classes": "synthia_13", "data.source.root": "elsewhere"}
  free |= {"data.reader_threads": 3, "data.records_dir": "there"}
  free |= {"compute.rematerialize": True, "compute.shard_state": True}
  free |= {"data.source.depth_root": "there", "data.target.depth_root": "elsewhere"}
  check_config(tmp_path, tiny.get_config(**free).to_dict())
  changed = tiny.get_config(**{"optimizer.momentum": 0.5, "data.batch_size": 8}).to_dict()
  told = r"data\.batch_size.*4.*8.*optimizer\.momentum.*0\.9.*0\.5"
  with pytest.raises(UserError, match=told):
    check_config(tmp_path, changed)
  check_config(tmp_path, changed, parts=("model.",))
  changed = tiny.get_config(**{"model.classifier_dilations": (2, 5)}).to_dict()
  with pytest.raises(UserError, match=r"model\.classifier_dilations"):
    check_config(tmp_path, changed, parts=("model.",))


def test_checkpoints_that_cannot_be_written_are_told(experiment, tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)

  def full(*_, **__):
    raise OSError(28, "No space left on device", str(tmp_path))

  monkeypatch.setattr(ocp.CheckpointManager, "save", full)
  with pytest.raises(UserError, match=r"checkpoints.*No space left on device"):
    checkpoints.save(1, experiment.initial_state())
  checkpoints.close()


def test_nothing_to_evaluate_is_told(experiment, tmp_path):
  with pytest.raises(UserError, match=r"checkpoints in .*test_nothing"):
    evaluate(experiment, tmp_path, tiny.evaluation_batches)


def test_batches_that_devices_cannot_share_are_refused():
  mesh = make_mesh(jax.devices()[:4])
  check_divisible(mesh, 8, "data.batch_size")
  with pytest.raises(UserError, match=r"data\.batch_size.*6.*4.*data\.batch_size=8"):
    check_divisible(mesh, 6, "data.batch_size")


@pytest.mark.parametrize(
  ("field", "value", "told"),
  [
    ("num_steps", 0, r"num_steps.*0"),
    ("data.source.splits", (), r"data\.source\.splits.*\(\)"),
    ("data.target.views", ("up",), r"data\.target\.views.*'up'.*right"),
    ("data.source.folder.metres_per_unit", float("nan"), r"metres_per_unit.*nan"),
    ("model.pose_normalization.mean", (1.0, 2.0), r"model\.pose_normalization\.mean.*1\.0, 2\.0"),
    ("log_every", 0, r"log_every.*0"),
    ("evaluation.pictures", -1, r"evaluation\.pictures.*-1"),
    ("evaluation.classes", "twelve", r"evaluation\.classes.*'twelve'.*'all'"),
    ("evaluation.network", "both", r"evaluation\.network.*'both'.*'student'.*'teacher'"),
    ("evaluation.checkpoint", "newest", r"evaluation\.checkpoint.*'newest'.*'latest'"),
    ("evaluation.label_size", "full", r"evaluation\.label_size.*'full'.*'file'.*'input'"),
    ("evaluation.scales", (), r"evaluation\.scales.*\(\)"),
    ("evaluation.scales", (1.0, 0.0), r"evaluation\.scales.*\(1\.0, 0\.0\)"),
    ("evaluation.scales", ("big",), r"evaluation\.scales.*\('big',\)"),
    ("model.dtype", "float17", r"model\.dtype.*'float17'"),
    ("model.dtype", "float64", r"model\.dtype.*float64.*JAX_ENABLE_X64"),
    ("evaluation.class_sets", {"moving": ("tram",)}, r"class_sets\.moving.*'tram'"),
    ("data.classes.names", ("car", "car"), r"data\.classes\.names.*'car'"),
    ("data.classes.colors", ((1, 2, 3),), r"data\.classes\.names"),
    ("data.crop_height", 600, r"25x600.*1024x512"),
    ("model.depth", False, r"model\.correlation.*True.*model\.depth.*False"),
    ("model.initial_semantics_from", "both", r"model\.initial_semantics_from.*'both'.*'decoder'"),
    ("model.encoder.strides", (1,), r"stage_sizes.*strides.*dilations"),
  ],
)
def test_configurations_that_cannot_work_are_refused(field, value, told):
  with pytest.raises(UserError, match=told):
    check(tiny.get_config(**{field: value}))


def check(config):
  Experiment.from_config(config).state_shapes()
  validate_training_data(config)


def test_depth_heads_want_depth_somewhere():
  fields = {"data.source.depth": "none", "data.target.depth": "none"}
  config = tiny.get_config(**fields)
  Experiment.from_config(config)  # an evaluation needs none
  with pytest.raises(UserError, match=r"depth.*none.*model\.depth"):
    validate_training_data(config)
  validate_training_data(
    tiny.get_config(**fields, **{"model.depth": False, "model.correlation": False})
  )


def test_progress_averages_what_lies_between_reports(monkeypatch):
  now = [100.0]
  monkeypatch.setattr("time.monotonic", lambda: now[0])
  read = []
  progress = Progress(0, 10, images_per_step=6, on_read=lambda *each: read.append(each))
  done = [0]

  def steps(values, skipped=0.0):
    for value in values:
      done[0] += 1
      metrics = {"total": jnp.float32(value), "skipped": jnp.float32(skipped)}
      progress.update(done[0], metrics, waited=0.25)
      now[0] += 0.5

  steps([1, 2, 3, 100])
  # The first step starts the clock and has no rate; the last is left for the next report.
  means = progress.report(3)
  rate = {"images_per_second": 6 * 2 / 2.0, "data_wait": 0.25}
  assert means == {"total": 2.0, "skipped": 0.0, **rate}
  steps([float("nan")], skipped=1.0)
  steps([50])
  means = progress.report(6)
  assert (means["total"], means["skipped"]) == (75.0, 1.0)
  assert means["images_per_second"] == 6 * 3 / 1.0
  assert [step for step, _ in read] == [1, 2, 3, 4, 5, 6]
  assert progress.report(6) == {}
  progress.stop_clock()  # what takes time beside training
  now[0] += 100
  steps([9])
  assert "images_per_second" not in progress.report(7)
  progress.close()


def test_curves_and_pictures_that_cannot_be_written_do_not_end_a_run(tmp_path, capsys):
  fields = {"draw_every": 2, "log_every": 2}
  experiment = stub_experiment(tiny.get_config(**fields), devices=2)

  def full(*_):
    raise OSError(28, "No space left on device")

  _, result = train(
    experiment,
    tmp_path,
    train_batches=tiny.train_batches,
    evaluation_batches=tiny.evaluation_batches,
    write_scalars=full,
    show=full,
  )
  assert result["step"] == 4
  told = capsys.readouterr().out
  for what in ("TensorBoard's curves", "pictures"):
    assert re.search(rf"{what}.*No space left on device", told)
  assert [entry["step"] for entry in History(tmp_path).entries] == [2, 2, 4, 4]


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize\n'cuda'")])
def test_a_platform_without_devices_is_named(monkeypatch, error):
  def devices():
    raise error

  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  monkeypatch.setattr(jax, "devices", devices)
  with pytest.raises(UserError, match=r"JAX_PLATFORMS='cuda'.*pip install") as caught:
    make_mesh()
  assert "\n" not in str(caught.value)
