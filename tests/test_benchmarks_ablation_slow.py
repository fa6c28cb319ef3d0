"""The commands of the ablation run, at a size where it takes seconds, and what they print holds."""

import functools
import itertools
import json
import os
import re
import signal

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from benchmarks.ablation import (
  depth_seen,
  doubts,
  inspection,
  loss_scales,
  pseudo_labels,
  report,
  variants,
  world,
)
from benchmarks.ablation import run as ablation
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.training.restore import restore_state
from tests.benchmark_commands import as_a_command, numbers, table_rows
from tests.stub_network import stubs_for_networks
from tests.test_benchmarks_ablation import frames, small

pytestmark = pytest.mark.slow

RELEASED = "+ refinement, as released"
BATCHES = {"data.batch_size": 4, "data.evaluation_batch_size": 4}  # of the tests' four devices


@pytest.fixture(autouse=True)
def _as_a_command():
  with as_a_command():
    yield


@pytest.fixture
def stub():
  with stubs_for_networks():
    yield


def run_ablation(folder, *rest, variant=RELEASED):
  ablation.main(["--sources", "gta5", "--workdir", str(folder), "--variants", variant, *rest])


def test_a_run_and_its_inspection(stub, tmp_path, monkeypatch, capsys):
  def config(variant, source, size, settings, base):
    return small(variant, source, **BATCHES | settings)

  monkeypatch.setattr(ablation, "variant_config", config)
  plot, picture = tmp_path / "plots" / "ablation.png", tmp_path / "doubts.png"
  run_ablation(tmp_path, "--seeds", "1", "--plot", str(plot))
  assert plot.stat().st_size > 10_000
  with pytest.raises(UserError, match=str(plot / "below")):
    run_ablation(tmp_path, "--seeds", "1", "--plot", str(plot / "below"))
  folder = tmp_path / "gta5_refinement_as_released_0"
  capsys.readouterr()
  pseudo_labels.main([str(folder), "--batches", "3", "--pictures", str(picture)])
  rows = table_rows(capsys.readouterr().out)
  found = list(pseudo_labels.look(folder, 3))
  wrong = np.concatenate([seen.wrong()[seen.counts] for seen in found])
  for measure in doubts.MEASURES:
    doubt = np.concatenate([seen.doubts[measure][seen.counts] for seen in found])
    assert numbers(rows[measure][:1]) == [round(doubts.auroc(doubt, wrong), 3)]
  assert picture.stat().st_size > 10_000
  check_loss_scales(folder, monkeypatch, capsys)
  made = inspection.train_batches
  monkeypatch.setattr(  # the same batch again and again: each time other classes are pasted on it
    inspection, "train_batches", lambda *a, **k: itertools.repeat(next(made(*a, **k)))
  )
  first, *others = pseudo_labels.look(folder, 3)
  assert any((seen.counts != first.counts).any() for seen in others)


def check_loss_scales(folder, monkeypatch, capsys):
  """Of a run with depth heads: what `loss_scales` prints, against gradients of the parts."""
  kept, real = [], loss_scales.scales

  def scales(*arguments):
    kept.extend(real(*arguments))
    return kept

  monkeypatch.setattr(loss_scales, "scales", scales)
  loss_scales.main([str(folder), "--batches", "2"])
  rows = {k: v for k, v in table_rows(capsys.readouterr().out).items() if k in kept[0]}
  *names, segmentation, all_depth = rows
  assert (segmentation, all_depth) == (loss_scales.SEGMENTATION, loss_scales.DEPTH)
  heads = [f"{domain}{head}" for domain in ("mix", "src") for head in ("", "_initial")]
  assert names == [f"{kind}_{each}" for kind in ("berhu", "ce") for each in heads]
  for column in (1, 5):
    shares = [float(cells[column].strip(" %")) for cells in rows.values()]
    assert sum(shares[-2:]) == pytest.approx(100, abs=0.2)
    assert sum(shares[:-2]) == pytest.approx(100, abs=0.5)
  experiment = AdaptationTask.from_config(inspection.config_of_run(folder))
  trained = restore_state(experiment, folder)
  losses = experiment.at_precision(experiment.step.weighted_losses)
  parts = {"ce_mix": ["ce_mix"], "other": [x for x in names if x[:3] == "ce_" and x != "ce_mix"]}
  parts |= {segmentation: names[4:], all_depth: names[:4]}

  @jax.jit
  @functools.partial(jax.jacrev, has_aux=True)
  def gradients(encoder, state, batch, key):
    found = losses({**state.params, "encoder": encoder}, state, batch, key)
    found = {name: sum(found[each] for each in part) for name, part in parts.items()}
    return found, found

  for found, state in zip(kept, (experiment.initial_state(), trained), strict=True):
    expected = []
    for _, batch, key in inspection.later_batches(experiment, folder, int(trained.step), 2):
      start = state.replace(step=trained.step)
      made, values = gradients(state.params["encoder"], start, batch, key)
      flat = {name: np.float64(ravel_pytree(each)[0]) for name, each in made.items()}
      norms = {name: np.linalg.norm(each) for name, each in flat.items()}
      pairs = (("ce_mix", "other"), (all_depth, segmentation))
      expected.append(
        [(values[a], norms[a], flat[a] @ flat[b] / (norms[a] * norms[b])) for a, b in pairs]
      )
    found = np.array([found["ce_mix"], found[all_depth]])
    np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=1e-3, atol=1e-4)
    assert np.abs(found)[:, 2].min() > 0.001  # else its sign would not be seen


def test_runs_are_made_once(tmp_path, monkeypatch, capsys):
  def make_run(run, config, frames, predict):
    made.append(run.folder.name)
    result = {"miou": 1.0, "classes": "all", "class_sets": {"all": ["road"]}, "iou": {"road": 1.0}}
    for name, value in (("config", config.to_dict()), ("results", result)):
      run.folder.mkdir(exist_ok=True)
      (run.folder / f"{name}.json").write_text(json.dumps(value))

  def done():
    return re.search(r"(\d+) of (\d+)", capsys.readouterr().out).groups()

  made = []
  monkeypatch.setattr(ablation, "make_run", make_run)
  run_ablation(tmp_path, "--seeds", "1", variant=variants.DACS)
  run_ablation(tmp_path, variants.ORACLE, "--seeds", "2", "--minutes", "0", variant=variants.DACS)
  run_ablation(tmp_path, variants.ORACLE, "--seeds", "2", variant=variants.DACS)
  oracle = "gta5_trained_on_target_labels"
  assert made == ["gta5_mixing_DACS_0", f"{oracle}_0", "gta5_mixing_DACS_1", f"{oracle}_1"]
  capsys.readouterr()
  # Results of another configuration are reported and not shown; what can be made is made.
  other = ["--seeds", "2", "--set", "evaluation.flip=True"]
  with pytest.raises(UserError, match=r"DACS_0.*evaluation.flip.*False.*True"):
    run_ablation(tmp_path, variants.SOURCE_ONLY, *other, variant=variants.DACS)
  assert done() == ("2", "4")
  assert made[4:] == ["gta5_source_only_0", "gta5_source_only_1"]
  with pytest.raises(UserError, match=r"DACS_0.*evaluation.flip"):
    run_ablation(tmp_path, *other, "--minutes", "0", variant=variants.DACS)
  assert done() == ("0", "2")
  # Oracles are skipped: they train by another step than their configuration says.
  run_ablation(tmp_path, "--seeds", "1", variant=variants.RIGHT_ALONE)
  for command in (pseudo_labels, loss_scales):
    with pytest.raises(UserError, match=made[-1]):
      command.main([str(tmp_path / made[-1])])
  with pytest.raises(UserError, match=made[0]):  # no depth heads
    pseudo_labels.main([str(tmp_path / made[0])])


def test_what_is_seen_with_depth_and_without(tmp_path, monkeypatch, capsys):
  def config(variant, source, size, settings, base):
    widths = {"model.encoder.width": 4, "model.decoder.width": 4}
    return small(variant, source, **BATCHES | widths | settings)

  monkeypatch.setattr(ablation, "variant_config", config)
  run_ablation(tmp_path, variants.INPUT, "--seeds", "1", variant=variants.DACS)
  folders = [tmp_path / f"gta5_{name}_0" for name in ("mixing_DACS", "DACS_depth_as_input")]
  capsys.readouterr()
  depth_seen.main([*map(str, folders), "--picture", str(tmp_path / "seen.png")])
  rows = table_rows(capsys.readouterr().out)
  assert (tmp_path / "seen.png").stat().st_size > 10_000
  seen = depth_seen.look(*folders)
  for network, folder in zip((depth_seen.WITHOUT, depth_seen.WITH), folders, strict=True):
    right = (seen.predictions[network] == seen.label)[seen.label != 255].mean()
    scored = json.loads((folder / "results.json").read_text())["pixel_accuracy"]
    assert 100 * right == pytest.approx(scored, abs=0.01)
    assert numbers(rows[network][:1]) == [pytest.approx(100 - scored, abs=0.06)]
  hidden, shown = (seen.predictions[name] for name in (depth_seen.HIDDEN, depth_seen.WITH))
  assert (hidden != shown).any()


def test_a_run_that_is_stopped_goes_on_and_ends_as_if_it_were_not(stub, tmp_path, monkeypatch):
  config = small(variants.DACS, num_steps=4, **BATCHES)
  monkeypatch.setattr(
    ablation, "variant_config", lambda *_, **__: config.copy_and_resolve_references()
  )
  made, starts, stop = world.train_batches, [], True

  def stopped_after_two(*arguments, start_step):
    starts.append(start_step)
    for number, batch in enumerate(made(*arguments, start_step=start_step), start_step):
      if number == 2 and stop:
        os.kill(os.getpid(), signal.SIGTERM)  # as the timer of --minutes does
      yield batch

  def result(folder):
    run_ablation(folder, "--seeds", "1", "--minutes", "30", variant=variants.DACS)
    run = report.Run(variants.DACS, "gta5", 0, folder / "gta5_mixing_DACS_0")
    return run.result()

  monkeypatch.setattr(ablation, "train_batches", stopped_after_two)
  assert result(tmp_path / "cut") is None
  stop = False
  assert result(tmp_path / "cut") == result(tmp_path / "whole")
  assert (starts[0], *starts[2:]) == (0, 0)
  assert 0 < starts[1] < 4


def test_oracles_train_on_what_they_know(stub, tmp_path):
  threshold = {"teacher.confidence_threshold": 0.06}  # a fresh network is sure of little
  config = small(variants.TRUE_LABELS, **BATCHES | threshold)
  given = frames("gta5", "train", 3, tmp_path), frames("cityscapes", "train", 4, tmp_path)
  batch = next(world.train_batches(*given, config, start_step=0))
  oracles = (variants.RIGHT_ALONE, variants.TRUE_LABELS)
  configs = {variant: small(variant, **BATCHES | threshold) for variant in oracles}
  experiments = {variant: AdaptationTask.from_config(made) for variant, made in configs.items()}
  batch = experiments[oracles[0]].batch_inputs(batch)
  key, losses = jax.random.key(0), {}
  state = experiments[variants.TRUE_LABELS].initial_state()
  maps = jax.jit(experiments[variants.RIGHT_ALONE].make_maps())(state, batch, key)
  pseudo_label = maps["pseudo_label"]
  none = np.full_like(pseudo_label, 255)
  some = np.where(np.indices(none.shape).sum(0) % 2, pseudo_label, none)
  for variant, experiment in experiments.items():
    compiled = jax.jit(experiment.make_step())
    for name, truth in {"none": none, "some": some, "all": pseudo_label}.items():
      changed = batch | {"target_inverse_depth": np.float32(truth)}
      losses[variant, name] = float(compiled(state, changed, key)[1]["ce_mix"])
  # A pixel without a true label counts in neither; where a pseudo-label is right, it is the truth.
  right, true = ([losses[variant, name] for name in ("none", "some", "all")] for variant in oracles)
  np.testing.assert_allclose(right, true, rtol=1e-6)
  assert true[0] + 0.05 * true[2] < true[1] < 0.95 * true[2]
