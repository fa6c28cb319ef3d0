"""The ladder: its world is the pipeline's, its runs are made once, its tables tell them all."""

import functools
import itertools
import json
import math
import os
import shutil
import signal
import warnings

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

from benchmarks import difficulty, ladder, ladder_looks, ladder_report, loss_scales, world
from benchmarks.ladder_bounds import experiment_of, frames_of_rung
from benchmarks.ladder_rungs import (
  BOUNDS,
  BUILDS_ON,
  DACS,
  DEPTH_SEEN,
  NO_BLUE,
  ORACLE,
  RIGHT_ALONE,
  RUNGS,
  SIZES,
  SOURCES,
  TRUE_LABELS,
  rung_config,
)
from corda_jax.adaptation import step as adaptation_step
from corda_jax.errors import UserError
from corda_jax.jobs.experiment import Experiment
from corda_jax.jobs.restore import restore_state
from corda_jax.jobs.train import step_inputs
from data_pipelines.batches import evaluation_batches, train_batches
from data_pipelines.provide import provide

SIZE = {"height": 32, "width": 48}
GAP = 1.5  # not the default: all ways must lead to the same city


def small(rung, source, **settings):
  config = rung_config(rung, source, "small", {})
  config.update_from_flattened_dict(
    {
      "num_steps": 2,
      "data.crop_height": 32,
      "data.crop_width": 32,
      "data.evaluation_batch_size": 2,
      "data.prepare_processes": 1,
      "data.street_world.gap": GAP,
      "data.street_world.source_frames": 3,
      "data.street_world.target_frames": 4,
      "data.street_world.validation_frames": 3,
      "model.encoder.stage_sizes": (1, 1),
      "model.encoder.strides": (1, 2),
      "model.encoder.dilations": (1, 1),
      "model.encoder.width": 4,
      "model.task_width": 2,
    }
    | {
      f"data.{domain}.{side}": value
      for domain in ("source", "target")
      for side, value in SIZE.items()
    }
    | {
      f"data.street_world.{domain}_{side}": value
      for domain in ("source", "target")
      for side, value in SIZE.items()
    }
    | settings
  )
  return config


def frames(layout, split, count, folder, *, right=True):
  options = {"seed": 0, "gap": GAP, "folder": folder, "right": right, "processes": 1}
  return world.render(layout, split, count, **options, **SIZE)


@pytest.mark.parametrize("source", list(SOURCES))
def test_frames_in_memory_are_those_of_the_pipeline(tmp_path, source):
  config = small("photometric, not files", source)
  data = config.data
  data.records_dir = str(tmp_path / "records")
  data.source.root, data.target.root = str(tmp_path / source), str(tmp_path / "cityscapes")
  data.source.views = ()  # the layouts of synthetic files have none
  provide(data)
  for domain, layout, count in (("source", source, 3), ("target", "cityscapes", 4)):
    contents = ("image", "label", "inverse_depth", *(["views"] if domain == "target" else []))
    batches = list(evaluation_batches(data, domain=domain, split="train", contents=contents))
    made = frames(layout, "train", count, tmp_path)
    for name in ("image", "label", "inverse_depth", "right_image", "intrinsics"):
      if domain == "source" and name in ("right_image", "intrinsics"):
        continue
      found = np.concatenate([batch[name] for batch in batches])[:count]
      np.testing.assert_array_equal(getattr(made, name), found)
      assert getattr(made, name).dtype == found.dtype
    if domain == "target":
      assert (batches[0]["baseline"] == np.float32(world.BASELINE)).all()
  labels = np.concatenate([batch["label"] for batch in evaluation_batches(data)])[:3]
  by_city = [0, 2, 1]  # the pipeline's order: of two cities
  found = frames("cityscapes", "val", 3, tmp_path).label[by_city]
  np.testing.assert_array_equal(found, labels)
  # A batch has the names, types and shapes of the pipeline's.
  config.data.source.views = ()
  wanted = next(train_batches(data, seed=0))
  source_frames, target_frames = (frames(source, "train", 3, tmp_path), made)
  batch = next(world.train_batches(source_frames, target_frames, config, start_step=0))
  for name, value in wanted.items():
    assert batch[name].shape == value.shape
    assert batch[name].dtype == value.dtype or name.endswith("_name")


def test_batches_depend_on_seed_and_step_alone(tmp_path):
  config = small("mixing (DACS)", "gta5", **{"data.crop_height": 20})
  source, target = frames("gta5", "train", 3, tmp_path), frames("cityscapes", "train", 4, tmp_path)
  made = list(itertools.islice(world.train_batches(source, target, config, start_step=0), 6))
  later = next(world.train_batches(source, target, config, start_step=4))
  for name, value in later.items():
    np.testing.assert_array_equal(made[4][name], value)
  # Every frame once an epoch: six batches of two are four epochs of three and three of four.
  for name, count in (("source", 3), ("target", 4)):
    names = np.concatenate([batch[f"{name}_name"] for batch in made]).reshape(-1, count)
    assert all(sorted(epoch) == [f"{number:06d}" for number in range(count)] for epoch in names)
    assert len({tuple(epoch) for epoch in names}) > 1
  # What is cut from a frame is cut at one place, which the camera follows.
  batch = made[0]
  place = int(batch["target_name"][0])
  left, top = (target.intrinsics[place] - batch["target_intrinsics"][0])[2:].astype(int)
  for field in ("image", "label", "inverse_depth", "right_image"):
    whole = getattr(target, field)[place]
    np.testing.assert_array_equal(
      batch[f"target_{field}"][0], whole[top : top + 20, left : left + 32]
    )
  assert len({tuple(b["target_intrinsics"][0]) for b in made}) > 1
  config.seed = 1
  other = next(world.train_batches(source, target, config, start_step=0))
  assert any((other[name] != made[0][name]).any() for name in ("source_image", "target_image"))


def test_frames_are_rendered_once_and_all_are_scored(tmp_path, monkeypatch):
  alone = frames("cityscapes", "val", 3, tmp_path, right=False)
  assert alone.right_image is None
  monkeypatch.setattr(world, "_left", None)
  made = frames("cityscapes", "val", 3, tmp_path)
  monkeypatch.setattr(world, "_right", None)
  again = frames("cityscapes", "val", 3, tmp_path)
  for name, one, other in zip(world.Frames._fields, made, again, strict=True):
    np.testing.assert_array_equal(one, other)
    assert name == "right_image" or (getattr(alone, name) == one).all()
  with pytest.raises(TypeError):
    frames("cityscapes", "val", 2, tmp_path)  # others are not those
  batches = list(world.whole_frames(made, 2))
  assert [batch["valid"].tolist() for batch in batches] == [[True, True], [True, False]]
  np.testing.assert_array_equal(batches[1]["image"][0], made.image[2])


@pytest.mark.parametrize("size", list(SIZES))
def test_every_rung_is_a_configuration_that_can_be(size):
  for rung, source in itertools.product((*RUNGS, *BOUNDS), SOURCES):
    config = rung_config(rung, source, size, {"seed": 3})
    experiment = Experiment.from_config(config)
    assert config.seed == 3
    assert config.data.source.dataset == ("cityscapes" if rung == ORACLE else source)
    assert config.evaluation.classes == ("synthia_16" if source == "synthia" else "all")
    assert (experiment.joint is not None) == (rung == "photometric, not files")
    depth = rung not in ("source only", DACS, ORACLE, *BOUNDS)
    assert experiment.has_depth_heads == depth


def test_right_views_are_rendered_for_what_reads_them(tmp_path, monkeypatch):
  monkeypatch.setattr(world, "_right", None)
  config = small(DACS, "gta5")
  made = ladder.frames_of(config, tmp_path)
  assert [each.right_image for each in made] == [None] * 3
  batch = next(world.train_batches(*made[:2], config, start_step=0))
  assert not [name for name in batch if "right" in name]
  with pytest.raises(TypeError):
    ladder.frames_of(small("photometric, not files", "gta5"), tmp_path)


def test_the_ladder_of_another_configuration():
  config = rung_config(DACS, "synthia", "small", {"seed": 1}, base="demo:batch=8")
  assert (config.data.batch_size, config.num_steps) == (8, 500)
  assert (config.data.source.dataset, config.model.depth, config.seed) == ("synthia", False, 1)


def test_bounds_are_told_what_training_must_not_know(tmp_path):
  truth = frames("cityscapes", "train", 4, tmp_path)
  for rung, target in itertools.product((*RUNGS, *BOUNDS), (False, True)):
    shown = frames_of_rung(rung, truth, target=target)
    np.testing.assert_array_equal(shown.image[..., :2], truth.image[..., :2])
    np.testing.assert_array_equal(shown.label, truth.label)
    knows_labels = target and rung in (RIGHT_ALONE, TRUE_LABELS)
    wanted = truth.label if knows_labels else truth.inverse_depth
    np.testing.assert_array_equal(shown.inverse_depth, wanted)
    blue = shown.image[..., 2]
    if rung == NO_BLUE:
      assert not blue.any()
    elif rung == DEPTH_SEEN:
      known = truth.inverse_depth > 2
      order = np.argsort(truth.inverse_depth[known])
      assert (np.diff(blue[known][order].astype(int)) >= 0).all()
      assert len(np.unique(blue)) > 20
      assert not blue[truth.inverse_depth == 1].any()
    else:
      np.testing.assert_array_equal(blue, truth.image[..., 2])


def test_bounds_train_on_what_they_are_told(tmp_path):
  threshold = {"method.confidence_threshold": 0.06}  # a fresh network is sure of little
  config = small(TRUE_LABELS, "gta5", **{"data.batch_size": 4} | threshold)
  source, target = frames("gta5", "train", 3, tmp_path), frames("cityscapes", "train", 4, tmp_path)
  batch = step_inputs(next(world.train_batches(source, target, config, start_step=0)))
  experiments = {rung: experiment_of(rung, config) for rung in (RIGHT_ALONE, TRUE_LABELS)}
  key, losses = jax.random.key(0), {}
  with jax.numpy_dtype_promotion("standard"):  # Optax's AdamW is not strict
    state = experiments[TRUE_LABELS].initial_state()
    pseudo_label = jax.jit(experiments[TRUE_LABELS].make_maps())(state, batch, key)["pseudo_label"]
    for rung, experiment in experiments.items():
      step = jax.jit(experiment.make_step())
      none = np.full_like(pseudo_label, 255)
      some = np.where(np.indices(none.shape).sum(0) % 2, pseudo_label, none)
      for name, truth in {"none": none, "some": some, "all": pseudo_label}.items():
        told_batch = batch | {"target_inverse_depth": np.float32(truth)}
        losses[rung, name] = float(step(state, told_batch, key)[1]["ce_mix"])
  # A pixel without a true label counts in neither; where a pseudo-label is right, it is the truth.
  for name in ("none", "some", "all"):
    np.testing.assert_allclose(losses[RIGHT_ALONE, name], losses[TRUE_LABELS, name], rtol=1e-6)
  shares = [losses[TRUE_LABELS, name] / losses[TRUE_LABELS, "all"] for name in ("none", "some")]
  assert shares[0] + 0.05 < shares[1] < 0.95
  assert adaptation_step.mix_domains.__module__ == adaptation_step.__name__  # all is as it was


def write_result(folder, miou, abs_rel=None):
  folder.mkdir()
  result = {
    "miou": miou,
    "classes": "ours",
    "class_sets": {"all": ["road", "car"], "ours": ["road"]},
    "iou": {"road": miou + 1, "car": None},
  }
  if abs_rel is not None:
    result["depth"] = {"abs_rel": abs_rel}
  (folder / "results.json").write_text(json.dumps(result))


@pytest.fixture
def runs(tmp_path):
  rows = (
    ("source only", {0: 20.0, 1: 22.0}, None),
    ("mixing (DACS)", {0: 40.0, 1: 43.0}, None),
    ("+ depth heads", {1: 44.0}, 0.25),  # seed 0 is not done yet
    ("+ refinement, as released", {0: 44.5, 1: 45.0}, 0.2),
    (ORACLE, {1: 55.0}, None),
  )
  made = []
  for rung, scores, depth in rows:
    for seed in (1, 0):
      run = ladder_report.Run(rung, "gta5", seed, tmp_path / ladder._name(f"{rung} {seed}"))
      made.append(run)
      if seed in scores:
        write_result(run.folder, scores[seed], depth)
  return made


def test_the_table_tells_what_each_rung_adds(runs):
  lines = ladder_report.table(runs, "gta5").splitlines()
  assert lines[0].startswith("| gta5 | mIoU of 1 classes, mean ± spread | by seed |")
  assert lines[2] == "| source only | 21.0 ± 1.4 | 20.0, 22.0 |  | -20.5 ± 0.7 |  |  |"
  gain = "+20.5 ± 0.7"
  assert lines[3] == f"| {DACS} | 41.5 ± 2.1 | 40.0, 43.0 | {gain} |  | {gain} |  |"
  assert lines[4] == "| + depth heads | 44.0 | -, 44.0 | +1.0 | +1.0 | +22.0 | 0.250 |"  # of seed 1
  # What it builds on, the correlation, is not there: it must not be compared with another rung.
  released, over = "+ refinement, as released", "+3.2 ± 1.8 | +23.8 ± 1.1"
  assert lines[5] == f"| {released} | 44.8 ± 0.4 | 44.5, 45.0 |  | {over} | 0.200 ± 0.000 |"
  assert lines[6] == f"| {ORACLE} | 55.0 | -, 55.0 |  | +12.0 | +33.0 |  |"
  assert lines[8].startswith("| IoU, mean of seeds 1 | source only |")  # the one that all have
  assert lines[-4] == "| road | 23.0 | 44.0 | 45.0 | 46.0 | 56.0 |"
  assert lines[-3] == "| (car) | - | - | - | - | - |"
  assert lines[-1] == "Classes in brackets are not in the mean."
  assert ladder_report.table(runs, "synthia") == "synthia: no run is done yet."
  (runs[0].folder / "results.json").unlink()
  told = "No seed is done on all of them: no table by class."
  assert ladder_report.table(runs, "gta5").endswith(told)


def test_what_a_rung_builds_on_differs_in_little():
  assert set(BUILDS_ON) == {*RUNGS, *BOUNDS} - {"source only", ORACLE, NO_BLUE}
  for rung, base in BUILDS_ON.items():
    made, before = ((RUNGS | BOUNDS)[name] for name in (rung, base))
    differing = {name for name in made.keys() | before.keys() if made.get(name) != before.get(name)}
    assert len(differing) <= (6 if rung == "photometric, not files" else 2), (rung, differing)


def test_the_plot_shows_every_run_and_the_spread(runs, tmp_path, monkeypatch):
  drawn = []
  save = Figure.savefig

  def saved(figure, *args, **options):
    drawn.append(figure)
    return save(figure, *args, **options)

  monkeypatch.setattr(Figure, "savefig", saved)
  path = tmp_path / "plots" / "ladder.png"
  ladder_report.draw(runs, path)
  assert path.stat().st_size > 10_000
  axis, gains = drawn[0].axes  # there are no runs of the other source
  names = [label.get_text() for label in axis.get_xticklabels()]
  released = "+ refinement, as released"
  assert names == ["source only", DACS, "+ depth heads", released, ORACLE]
  means = [container.lines[0].get_ydata()[0] for container in axis.containers]
  assert means == [21, 41.5, 44, 44.75, 55]
  low, high = axis.containers[1].lines[2][0].get_segments()[0][:, 1]
  np.testing.assert_allclose((low, high), (41.5 - 4.5**0.5, 41.5 + 4.5**0.5))
  dots = [line.get_ydata() for line in axis.lines if line.get_marker() == "o"]
  assert [sorted(each) for each in dots] == [[20, 22], [40, 43], [44], [44.5, 45], [55]]
  # Of the same seeds, between the ends of the ladder.
  names = [label.get_text() for label in gains.get_xticklabels()]
  assert names == ["+ depth heads", released]
  dots = [line.get_ydata() for line in gains.lines if line.get_marker() == "o"]
  assert [sorted(each) for each in dots] == [[1], [2, 4.5]]
  assert [container.lines[0].get_ydata()[0] for container in gains.containers] == [1, 3.25]
  with pytest.raises(UserError, match=r"cannot be written .* name another file for the plot"):
    ladder_report.draw(runs, path / "below" / "a_file.png")


def check_loss_scales(folder, monkeypatch, capsys):
  """Of a run with depth heads: what `loss_scales` prints, against gradients of the parts."""
  kept, real = [], loss_scales.scales

  def scales(*arguments):
    kept.extend(real(*arguments))
    return kept

  monkeypatch.setattr(loss_scales, "scales", scales)
  capsys.readouterr()
  with jax.numpy_dtype_promotion("standard"):
    loss_scales.main([str(folder), "--batches", "2"])
  cells = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:-1]]
  names = [row[0] for row in cells]
  assert names == [
    *(f"{name}{head}" for name in ("berhu_mix", "berhu_src") for head in ("", "_initial")),
    *(f"{name}{head}" for name in ("ce_mix", "ce_src") for head in ("", "_initial")),
    loss_scales.SEGMENTATION,
    loss_scales.DEPTH,
  ]
  assert [row[0] for row in cells if "" in row] == [loss_scales.SEGMENTATION]
  for column in (2, 6):
    shares = [float(row[column].strip("%")) for row in cells]
    assert sum(shares[-2:]) == pytest.approx(100, abs=0.2)
    assert sum(shares[:-2]) == pytest.approx(100, abs=0.5)
  experiment = Experiment.from_config(ladder_looks.config_of_run(folder))
  trained = restore_state(experiment, folder)
  losses = experiment.make_losses()
  parts = {
    "ce_mix": ["ce_mix"],
    "the other cross-entropies": ["ce_mix_initial", "ce_src", "ce_src_initial"],
    loss_scales.SEGMENTATION: names[4:8],
    loss_scales.DEPTH: names[:4],
  }

  @jax.jit
  @functools.partial(jax.jacrev, has_aux=True)
  def gradients(encoder, state, batch, key):
    found = losses({**state.params, "encoder": encoder}, state, batch, key)
    found = {name: sum(found[each] for each in part) for name, part in parts.items()}
    return found, found

  for rows, state in zip(kept, (experiment.initial_state(), trained), strict=True):
    wanted = []
    for _, batch, key in ladder_looks.later_batches(experiment, folder, int(trained.step), 2):
      with jax.numpy_dtype_promotion("standard"):
        made, values = gradients(
          state.params["encoder"], state.replace(step=trained.step), batch, key
        )
      flat = {name: np.float64(ravel_pytree(each)[0]) for name, each in made.items()}
      norms = {name: np.linalg.norm(each) for name, each in flat.items()}
      pairs = {
        "ce_mix": "the other cross-entropies",
        loss_scales.DEPTH: loss_scales.SEGMENTATION,
      }
      wanted.append(
        [(values[a], norms[a], flat[a] @ flat[b] / (norms[a] * norms[b])) for a, b in pairs.items()]
      )
    found = [rows["ce_mix"], rows[loss_scales.DEPTH]]
    np.testing.assert_allclose(found, np.mean(wanted, axis=0), rtol=1e-3, atol=1e-4)
    assert np.abs(found)[:, 2].min() > 0.001  # else its sign would not be seen


@pytest.mark.parametrize("command", [difficulty, loss_scales])
def test_bounds_are_not_looked_into(command, tmp_path):
  folder = tmp_path / ladder._name(f"gta5 {RIGHT_ALONE} 0")
  with pytest.raises(UserError, match=f"{folder.name} is of a bound: name another run"):
    command.main([str(folder)])


@pytest.mark.long
def test_runs_are_made_once_and_go_on(tmp_path, monkeypatch, capsys):
  def config(rung, source, size, settings, base):
    sizes = {"data.batch_size": 4, "data.evaluation_batch_size": 4}  # of the tests' four devices
    made = small(rung, source, **sizes)
    made.update_from_flattened_dict(settings)
    return made

  def main(*arguments):
    with jax.numpy_dtype_promotion("standard"):  # Optax's AdamW is not strict
      ladder.main(list(arguments))

  monkeypatch.setattr(ladder, "rung_config", config)
  arguments = ["--sources", "gta5", "--seeds", "2", "--workdir", str(tmp_path), "--rungs"]
  trained = []
  real = ladder.train

  def counted(experiment, folder, **options):
    trained.append(folder.name)
    return real(experiment, folder, **options)

  monkeypatch.setattr(ladder, "train", counted)
  main(*arguments, "mixing (DACS)")
  assert trained == ["gta5_mixing_DACS_0", "gta5_mixing_DACS_1"]
  assert "2 of 2 runs are done." in capsys.readouterr().out
  main(*arguments, "mixing (DACS)", ORACLE)
  assert trained[2:] == ["gta5_trained_on_target_labels_0", "gta5_trained_on_target_labels_1"]
  assert "4 of 4 runs are done." in capsys.readouterr().out
  # Of all other configurations, too, and without checkpoints; the runs that can be made are made.
  shutil.rmtree(tmp_path / "gta5_mixing_DACS_0" / "checkpoints")
  with pytest.raises(
    UserError, match=r"2 runs .*DACS_0 holds results of .*: evaluation.flip \(False → True\);"
  ):
    main(*arguments, "mixing (DACS)", "source only", "--set", "evaluation.flip=True")
  assert trained[4:] == ["gta5_source_only_0", "gta5_source_only_1"]
  assert "2 of 4 runs are done." in capsys.readouterr().out  # none of the others is shown
  # Also where a stop leaves them unvisited.
  with pytest.raises(UserError, match=r"2 runs could not be made; gta5_mixing_DACS_0: .* holds"):
    main(*arguments, DACS, "--minutes", "0", "--set", "evaluation.flip=True")
  assert "0 of 2 runs are done." in capsys.readouterr().out
  monkeypatch.setattr(ladder, "train", real)
  plot = tmp_path / "ladder.png"
  one = [*arguments, "+ refinement, as released", "--plot", str(plot)]
  one[one.index("2")] = "1"
  main(*one)
  assert plot.stat().st_size > 10_000
  capsys.readouterr()
  folder, picture = tmp_path / "gta5_refinement_as_released_0", tmp_path / "doubts.png"
  drawn, real_draw = [], difficulty.draw

  def draw(looks, *where):
    drawn.extend(looks)
    real_draw(looks, *where)

  monkeypatch.setattr(difficulty, "draw", draw)
  made = ladder_looks.train_batches
  monkeypatch.setattr(  # the same batch again and again: each time other classes are pasted on it
    ladder_looks, "train_batches", lambda *a, **k: itertools.repeat(next(made(*a, **k)))
  )
  with jax.numpy_dtype_promotion("standard"):
    difficulty.main([str(folder), "--batches", "3", "--pictures", str(picture)])
  assert any((seen.counts != drawn[0].counts).any() for seen in drawn[1:])
  told = capsys.readouterr().out.splitlines()
  row = told[2].strip("| ").split(" | ")
  assert row[0] == folder.name
  assert all(0 < float(area) < 1 for area in row[2:])
  assert told[4].startswith("| true class |")
  assert picture.stat().st_size > 10_000
  with pytest.raises(UserError, match="no depth heads or no adaptation"):
    difficulty.main([str(tmp_path / "gta5_mixing_DACS_0")])
  check_loss_scales(folder, monkeypatch, capsys)
  main(*arguments, NO_BLUE, "--minutes", "0")
  told = capsys.readouterr().out
  assert "Stopped. The same command goes on from here." in told
  assert "0 of 2 runs are done." in told


@pytest.mark.long
def test_a_run_that_is_stopped_goes_on_and_ends_as_if_it_were_not(tmp_path, monkeypatch, capsys):
  settings = {"num_steps": 4, "data.batch_size": 4, "data.evaluation_batch_size": 4}
  monkeypatch.setattr(ladder, "rung_config", lambda *_, **__: small(DACS, "gta5", **settings))
  made, starts, stop = world.train_batches, [], True

  def stopped_after_two(*arguments, start_step):
    starts.append(start_step)
    for number, batch in enumerate(made(*arguments, start_step=start_step), start_step):
      if number == 2 and stop:
        os.kill(os.getpid(), signal.SIGTERM)  # as the timer of --minutes does
      yield batch

  monkeypatch.setattr(ladder, "train_batches", stopped_after_two)

  def main(folder):
    arguments = ["--sources", "gta5", "--seeds", "1", "--rungs", DACS, "--minutes", "30"]
    with jax.numpy_dtype_promotion("standard"):  # Optax's AdamW is not strict
      ladder.main([*arguments, "--workdir", str(folder)])
    return ladder_report.Run(DACS, "gta5", 0, folder / "gta5_mixing_DACS_0").result()

  assert main(tmp_path / "cut") is None
  told = capsys.readouterr().out
  assert "The same command goes on from here." in told
  assert "0 of 1 runs are done." in told
  stop = False
  cut = main(tmp_path / "cut")
  assert starts[0] == 0
  assert 0 < starts[1] < 4
  assert cut == main(tmp_path / "whole")
  assert starts[2:] == [0]


@pytest.mark.parametrize(
  ("options", "told"),
  [
    (["--set", "seed=3", "--set", "num_steps=2"], "--set names seed, which the ladder chooses"),
    (["--set", "num_stepz=3", "--set", "log_every=2"], "num_stepz.*does not fit"),
    (["--workdir", "/dev/null/runs"], "cannot be made .* name another --workdir"),
    (["--seeds", "0"], "wanted 1 or more"),
  ],
)
def test_options_that_cannot_be(options, told, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=told):
    ladder.main(["--minutes", "0", *options])


def test_what_the_step_reads_is_there(tmp_path):
  config = small("photometric, not files", "synthia")
  source = frames("synthia", "train", 3, tmp_path)
  target = frames("cityscapes", "train", 4, tmp_path)
  batch = next(world.train_batches(source, target, config, start_step=0))
  inputs = step_inputs(batch, Experiment.from_config(config).joint)
  assert inputs["source_right_image"].shape == (2, 32, 32, 3)
  assert inputs["target_baseline"].dtype == np.float32


def test_the_area_under_the_curve():
  doubt = np.array([0.9, 0.8, 0.5, 0.5, 0.1])
  wrong = np.array([True, False, True, False, False])
  # Of six pairs the first wins three; the second wins one, shares one, loses one.
  assert difficulty.auroc(doubt, wrong) == pytest.approx((3 + 1.5) / 6)
  with warnings.catch_warnings(action="error"):  # SciPy's, of a sample that is empty
    assert math.isnan(difficulty.auroc(doubt, wrong & False))
  assert difficulty.auroc(-doubt, wrong) == pytest.approx(1 - 4.5 / 6)


def test_what_fails_on_a_class():
  label, wrong = np.array([2, 0, 2, 2]), np.array([True, False, False, False])
  errors = np.array([0.1, 0.4, 0.3, 0.9]), np.array([0.2, 0.0, 0.0, 0.0])
  lines = difficulty.class_table(["road", "car", "sky"], label, wrong, *errors).splitlines()
  assert lines[2:] == [
    "| road | 25.0% | 0.0% | 40.0% | 0.0% |",
    "| sky | 75.0% | 33.3% | 30.0% | 0.0% |",
  ]


def test_pixels_of_the_target_that_are_known_are_judged():
  maps = {
    "mask": np.array([[[True, False, False, False, False]]]),
    "pseudo_label": np.array([[[1, 1, 2, 3, 4]]], np.uint8),
    "confidence": np.float32([[[0.9, 0.75, 0.5, 0.9, 0.9]]]),
    "pixel_weight": np.float32([[[1, 0.2, 0.3, 0.4, 0.5]]]),
    "inverse_depth": np.float32([[[9, 10, 20, 9, 9]]]),
    "source_inverse_depth": np.float32([[[9, 12, 80, 9, 9]]]),
    "teacher_inverse_depth": np.float32([[[9, 10, 50, 9, 9]]]),
    "teacher_source_inverse_depth": np.float32([[[9, 20, 60, 9, 9]]]),
  }
  batch = {
    "target_image": np.zeros((1, 1, 5, 3), np.uint8),
    "target_label": np.array([[[1, 1, 7, 255, 4]]], np.uint8),  # one of the source, one without
    "target_inverse_depth": np.float32([[[9, 8, 40, 9, 1]]]),  # and one without depth
  }
  seen = difficulty._judge(maps, batch)
  assert seen.wrong()[seen.counts].tolist() == [False, True]
  wanted = (
    [0.25, 0.5],
    [-0.2, -0.3],
    [0.25, 1.5],
    [1.25, 0.25],
    [np.log(2), np.log(1.2)],
    [np.log(2) - np.log(1.2) / 2, np.log(1.2) / 2],  # of 0, 0, log 1.2, log 2 where depth is known
    [1.5, 0.5],
    [0.25, 0.25],
    [1 - 0.75 * 0.75, 1],
  )
  for name, values in zip(difficulty.MEASURES, wanted, strict=True):
    np.testing.assert_allclose(seen.doubts[name][seen.counts], values, rtol=1e-6)
