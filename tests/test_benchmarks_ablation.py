"""The ablation: its world is the pipeline's, variants differ in what they must."""

import itertools
import json

import numpy as np
import pytest

from benchmarks.ablation import depth as depth_ablation
from benchmarks.ablation import depth_seen, report, variants, world
from benchmarks.ablation import run as ablation
from benchmarks.ablation.oracles import frames_of_variant
from benchmarks.ablation.report import Run, table
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.labels import IGNORE
from corda_jax.training.run_files import record_config
from corda_jax.visualize import colorize
from data_pipelines.input_pipeline import as_numpy, evaluation_dataset, train_dataset
from data_pipelines.prepare import provide
from data_pipelines.street_world import formats

PHOTOMETRIC = "photometric, not files"
ALL = (*variants.VARIANTS, *variants.ORACLES)
GAP = 1.5  # not the default: all ways must lead to the same city
COUNTS = {"source": 3, "target": 4, "validation": 3}


def small(variant, source="gta5", **settings):
  """A variant of a network and a world of few, small frames."""
  fields = {f"data.street_world.{name}_frames": count for name, count in COUNTS.items()}
  for domain in ("source", "target"):
    for side, size in (("height", 32), ("width", 48)):
      fields |= {f"data.{domain}.{side}": size, f"data.street_world.{domain}_{side}": size}
  fields |= {"data.crop_height": 32, "data.crop_width": 32, "data.evaluation_batch_size": 2}
  fields |= {"data.prepare_processes": 1, "data.street_world.gap": GAP, "num_steps": 2}
  return variants.variant_config(variant, source, "small", fields | settings)


def frames(layout, split, count, folder, *, right=True):
  options = {"seed": 0, "gap": GAP, "folder": folder, "right": right, "processes": 1}
  return world.render(layout, split, count, height=32, width=48, **options)


def test_frames_in_memory_are_those_of_the_pipeline(tmp_path):
  config = small(PHOTOMETRIC, "synthia")
  data = config.data
  data.records_dir = str(tmp_path / "records")
  data.source.root, data.target.root = str(tmp_path / "synthia"), str(tmp_path / "cityscapes")
  data.source.views = ()  # the layouts of synthetic files have none
  needs = [("source", "train"), ("target", "train"), ("target", "validation")]
  provide(data, [(*need, ("image", "label")) for need in needs])
  made, names = {}, ["image", "label", "inverse_depth"]
  for domain, layout, views in (("source", "synthia", []), ("target", "cityscapes", ["views"])):
    contents = (*names, *views)
    dataset = evaluation_dataset(data, domain=domain, split="train", contents=contents)
    batches = list(as_numpy(dataset))
    made[domain] = frames(layout, "train", COUNTS[domain], tmp_path)
    for name in (*names, *(("right_image", "intrinsics") if views else ())):
      found = np.concatenate([batch[name] for batch in batches])[: COUNTS[domain]]
      np.testing.assert_array_equal(getattr(made[domain], name), found, strict=True)
  assert (batches[0]["baseline"] == np.float32(world.BASELINE)).all()
  labels = np.concatenate([batch["label"] for batch in as_numpy(evaluation_dataset(data))])[:3]
  found = frames("cityscapes", "val", 3, tmp_path).label[[0, 2, 1]]  # sorted by city, of two
  np.testing.assert_array_equal(found, labels)
  # A batch has the names, types and shapes of the pipeline's, and right views of both.
  batch = next(world.train_batches(*made.values(), config, start_step=0))
  for name, value in next(as_numpy(train_dataset(data, seed=0))).items():
    assert batch[name].shape == value.shape
    assert batch[name].dtype == value.dtype or name.endswith("_name")
  assert batch["source_right_image"].shape == batch["target_right_image"].shape


def test_batches_with_rare_classes_show_them_more_often(tmp_path):
  given = frames("gta5", "train", 12, tmp_path), frames("cityscapes", "train", 4, tmp_path)
  fields = {"data.source.rare_classes.min_pixels": 4, "data.source.rare_classes.temperature": 1e-4}
  shares = {}
  for variant in (variants.DACS, variants.RARE):
    config = small(variant, **{"data.crop_height": 20, **fields})
    batches = list(itertools.islice(world.train_batches(*given, config, start_step=0), 40))
    label = np.concatenate([batch["source_label"] for batch in batches])
    present = np.stack([(label == number).sum((1, 2)) > 2 for number in range(19)])
    shares[variant] = present.mean(1)
    again = next(world.train_batches(*given, config, start_step=7))
    for name, value in again.items():
      np.testing.assert_array_equal(batches[7][name], value)
    for (top, bottom, left, right), crop in zip(
      batches[0]["source_border"], batches[0]["source_label"], strict=True
    ):
      cuts = given[0].label[:, top : 32 - bottom, left : 48 - right]
      assert (cuts == crop).all((1, 2)).any()
  counts = np.stack([(given[0].label == number).sum((1, 2)) for number in range(19)])
  rarest = np.argmin(np.where((counts > 4).any(1), counts.sum(1), np.inf))
  assert shares[variants.RARE][rarest] > 0.9  # of all crops, at this temperature
  assert shares[variants.DACS][rarest] < 0.5


def test_batches_depend_on_seed_and_step_alone(tmp_path):
  config = small(variants.DACS, **{"data.crop_height": 20})
  given = frames("gta5", "train", 3, tmp_path), frames("cityscapes", "train", 4, tmp_path)
  made = list(itertools.islice(world.train_batches(*given, config, start_step=0), 6))
  for name, value in next(world.train_batches(*given, config, start_step=4)).items():
    np.testing.assert_array_equal(made[4][name], value)
  # Every frame once an epoch: six batches of two are four epochs of three and three of four.
  for name, count in (("source", 3), ("target", 4)):
    names = np.concatenate([batch[f"{name}_name"] for batch in made]).reshape(-1, count)
    assert all(sorted(epoch) == [f"{number:06d}" for number in range(count)] for epoch in names)
    assert len({tuple(epoch) for epoch in names}) > 1
  # What is cut from a frame is cut at one place, which the camera follows.
  batch, target = made[0], given[1]
  place = int(batch["target_name"][0])
  left, top = (target.intrinsics[place] - batch["target_intrinsics"][0])[2:].astype(int)
  above, below, before, after = batch["target_border"][0]
  assert (above, before) == (top, left)
  assert (above + 20 + below, before + 32 + after) == target.label[place].shape
  for field in ("image", "label", "inverse_depth", "right_image"):
    cut = getattr(target, field)[place][top : top + 20, left : left + 32]
    np.testing.assert_array_equal(batch[f"target_{field}"][0], cut)
  assert len({tuple(b["target_intrinsics"][0]) for b in made}) > 1
  config.seed = 1
  other = next(world.train_batches(*given, config, start_step=0))
  assert all((other[key] != batch[key]).any() for key in ("target_name", "target_intrinsics"))


def test_frames_are_rendered_once_for_what_reads_them_and_all_are_scored(tmp_path, monkeypatch):
  made = frames("cityscapes", "val", 3, tmp_path)
  monkeypatch.setattr(formats, "Views", None)
  for one, other in zip(made, frames("cityscapes", "val", 3, tmp_path), strict=True):
    np.testing.assert_array_equal(one, other)
  with pytest.raises(TypeError):
    frames("cityscapes", "val", 2, tmp_path)  # others are not those
  batches = list(world.whole_frames(made, 2))
  assert [batch["valid"].tolist() for batch in batches] == [[True, True], [True, False]]
  np.testing.assert_array_equal(batches[1]["image"][0], made.image[2])
  monkeypatch.setattr(ablation, "render", lambda layout, split, count, **rest: rest["right"])
  assert ablation.frames_of(small(variants.DACS), tmp_path) == (False, False, False)
  assert ablation.frames_of(small(PHOTOMETRIC), tmp_path) == (True, True, False)


@pytest.mark.parametrize("size", list(variants.SIZES))
def test_every_variant_can_be_built(size):
  for variant, source in itertools.product(ALL, variants.SOURCES):
    config = variants.variant_config(
      variant, source, size, {"seed": 3}, base="demo:as_released,batch=8"
    )
    experiment = AdaptationTask.from_config(config)
    assert (config.seed, config.data.batch_size) == (3, 4 if size == "large" else 8)
    assert config.data.source.dataset == ("cityscapes" if variant == variants.ORACLE else source)
    assert config.evaluation.classes == ("synthia_16" if source == "synthia" else "all")
    assert ("views" in experiment.step.depth_from("target")) == (variant == PHOTOMETRIC)
    changes = (variants.VARIANTS | variants.ORACLES)[variant]
    depth = not changes.items() >= variants.WITHOUT_DEPTH.items()
    assert experiment.has_depth_heads == depth


def test_a_base_without_adaptation_is_refused():
  with pytest.raises(UserError, match="demo:source_only"):
    variants.variant_config(variants.DACS, "gta5", "small", {}, base="demo:source_only")


def test_a_variant_changes_little():
  assert set(variants.BUILDS_ON) == {*ALL} - {
    variants.SOURCE_ONLY,
    variants.ORACLE,
    variants.NO_BLUE,
  }
  for variant, base in variants.BUILDS_ON.items():
    made, before = ((variants.VARIANTS | variants.ORACLES)[name] for name in (variant, base))
    differing = {name for name in made.keys() | before.keys() if made.get(name) != before.get(name)}
    most = {
      PHOTOMETRIC: 6,
      variants.RARE: 3,
      variants.RARE_MASKED: 4,
      variants.RARE_MASKED_DEPTH: 3,
    }
    assert len(differing) <= most.get(variant, 2), (variant, differing)


def test_oracles_know_what_training_must_not(tmp_path):
  truth = frames("cityscapes", "train", 4, tmp_path)
  for variant, target in itertools.product(ALL, (False, True)):
    expected = truth._replace(image=truth.image.copy())
    if target and variant in (variants.RIGHT_ALONE, variants.TRUE_LABELS):
      expected = expected._replace(inverse_depth=np.float32(truth.label))
    shown = frames_of_variant(variant, truth, target=target)
    if variant == variants.EMPTY_INPUT:
      expected = expected._replace(inverse_depth=np.ones_like(truth.inverse_depth))
    elif variant == variants.NO_BLUE:
      expected.image[..., 2] = 0
    elif variant == variants.DEPTH_SEEN:
      blue = expected.image[..., 2] = shown.image[..., 2]
      by_depth = blue.flat[truth.inverse_depth.argsort(axis=None)].astype(int)
      assert (np.diff(by_depth) >= 0).all()
      assert len(np.unique(blue)) > 20
      assert not blue[truth.inverse_depth == 1].any()
    for one, other in zip(shown, expected, strict=True):
      np.testing.assert_array_equal(one, other)


def test_the_table_shows_what_each_variant_adds(tmp_path):
  released = "+ refinement, as released"
  rows = (
    (variants.SOURCE_ONLY, {0: 20.0, 1: 22.0}, {}),
    (variants.DACS, {0: 40.0, 1: 43.0}, {}),
    ("+ depth heads", {1: 44.0}, {"depth": {"abs_rel": 0.25}}),  # seed 0 is not done yet
    (released, {0: 44.5, 1: 45.0}, {"depth": {"abs_rel": 0.2}}),
    (variants.ORACLE, {1: 55.0}, {}),
  )
  runs = []
  for (variant, scores, depth), seed in itertools.product(rows, (1, 0)):
    runs.append(Run(variant, "gta5", seed, tmp_path / str(len(runs))))
    if miou := scores.get(seed):
      result = {"miou": miou, "iou": {"road": miou + 1, "car": None}, "classes": "ours"} | depth
      runs[-1].folder.mkdir()
      path = runs[-1].folder / "results.json"
      path.write_text(json.dumps(result | {"class_sets": {"ours": ["road"]}}))
  lines = table(runs, "gta5").splitlines()
  assert lines[2:7] == [
    "| source only | 21.0 ± 1.4 | 20.0, 22.0 |  | -20.5 ± 0.7 |  |  |",
    f"| {variants.DACS} | 41.5 ± 2.1 | 40.0, 43.0 | +20.5 ± 0.7 |  | +20.5 ± 0.7 |  |",
    "| + depth heads | 44.0 | -, 44.0 | +1.0 | +1.0 | +22.0 | 0.250 |",  # of seed 1
    # What it builds on, the correlation, is missing: it must not be compared with another.
    f"| {released} | 44.8 ± 0.4 | 44.5, 45.0 |  | +3.2 ± 1.8 | +23.8 ± 1.1 | 0.200 ± 0.000 |",
    f"| {variants.ORACLE} | 55.0 | -, 55.0 |  | +12.0 | +33.0 |  |",
  ]
  # By class: of the one seed that all have.
  assert lines[-4:-2] == ["| road | 23.0 | 44.0 | 45.0 | 46.0 | 56.0 |", "| (car) |" + " - |" * 5]


def test_a_comparison_of_depths_has_one_scale_and_their_errors(tmp_path, monkeypatch):
  sheets, write = [], depth_ablation.write_sheet

  def recorded(rows, title, path):
    sheets.append(rows)
    write(rows, title, path)

  monkeypatch.setattr(depth_ablation, "write_sheet", recorded)
  truth = np.geomspace(4, 80, 240).reshape(1, 12, 20)
  truth[0, 0] = np.nan
  image = np.full((1, 12, 20, 3), 7, np.uint8)
  equal = np.where(np.isnan(truth), 9, truth)
  depths = {"equal": equal, "far": np.full(truth.shape, 80.0), "fifth": 1.2 * equal}
  sheet = tmp_path / "sheet.png"
  depth_ablation.depth_comparison(image, truth, depths, title="a title", path=sheet)
  assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
  _, shown, equal, no_error, far, error, _, fifth = (row for _, row in sheets[0])
  np.testing.assert_array_equal(fifth[0, 1:], colorize(np.full((11, 20), 0.2), 0, 0.5, "magma"))
  np.testing.assert_array_equal(equal[0, 1:], shown[0, 1:])
  assert (shown[0, 0] == 0).all()
  assert (no_error == no_error[0, 5, 5]).all()
  np.testing.assert_array_equal(far[0, 3, 3], shown[0, -1, -1])
  brightness = error[0, 1:].sum(-1).ravel()
  assert (np.diff(brightness.astype(int)) <= 0).all()  # the nearer the truth, the larger the error
  assert (error[0, 0] == no_error[0, 5, 5]).all()  # unknown: none


def test_only_what_can_be_compared_is(tmp_path):
  made = {
    "without": small(variants.DACS),
    "seen": small(variants.INPUT),
    "other": small(variants.INPUT, **{"data.street_world.gap": 0.5}),
  }
  for name, config in made.items():
    (tmp_path / name).mkdir()
    record_config(tmp_path / name, config.to_dict())
  refused = (
    ("without", "without", "without.*depth"),
    ("seen", "seen", "seen.*no depth"),
    ("without", "other", r"gap.*1\.5.*0\.5"),
  )
  for first, second, expected in refused:
    with pytest.raises(UserError, match=expected):
      depth_seen.look(tmp_path / first, tmp_path / second)


def test_errors_are_counted_by_place():
  """Road, with a pole of one column that a network takes for the wall behind."""
  label = np.zeros((1, 4, 9), np.uint8)
  label[..., 4], label[..., -1] = 1, IGNORE
  worse = np.where(label == 1, 2, label)
  worse[0, 0, 0] = 2
  names = ("road", "pole", "wall")
  lines = depth_seen.table(label, {"all right": label, "worse": worse}, names).splitlines()
  assert lines[2] == "| all right | 0.0% | 0.0% | 0.0% | 0.0% |"
  # Of 32 pixels, 4 are the pole's; 16 are beside another label: 12 at the pole, 4 at the margin.
  assert lines[3] == "| worse | 15.6% | 100.0% | 25.0% | 6.2% |"


@pytest.mark.parametrize("base", [variants.DACS, variants.MASKED])
def test_gains_of_a_plot_are_over_its_base(tmp_path, monkeypatch, base):
  scores = {variants.DACS: 40.0, variants.MASKED: 43.0, variants.RARE: 41.5}
  runs = [Run(variant, "gta5", 0, tmp_path / str(n)) for n, variant in enumerate(scores)]
  for run in runs:
    run.folder.mkdir()
    (run.folder / "results.json").write_text(json.dumps({"miou": scores[run.variant]}))
  drawn = []
  monkeypatch.setattr(report, "_draw_variants", lambda axis, *drawing: drawn.append(drawing))
  report.draw(runs, tmp_path / "a.png", base)
  (_, of_scores), (gains, of_gains) = ((values, text) for values, text in drawn)
  assert "mIoU" in of_scores
  assert gains == {name: [score - scores[base]] for name, score in scores.items() if name != base}
  assert base.split()[-1].strip("()") in of_gains
