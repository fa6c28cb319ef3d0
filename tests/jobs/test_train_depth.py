"""The jobs of the depth stage, from batches in memory to files."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.depth.motion import are_temporal, predict_poses, view_transforms
from corda_jax.depth.photometric import Views, photometric_loss
from corda_jax.errors import UserError
from corda_jax.jobs.depth_evaluate import DepthEvaluator, evaluate_depth, predict_disparity
from corda_jax.jobs.depth_experiment import DepthExperiment
from corda_jax.jobs.depth_scores import format_depth_scores
from corda_jax.jobs.label_depth import label_depth
from corda_jax.jobs.train_depth import train_depth
from corda_jax.metrics import DEPTH_ERRORS, depth_errors
from corda_jax.pretrained.depth_weights import initial_depth_state, weights_digest
from corda_jax.pretrained.torch_write import write_torch_file
from corda_jax.training.checkpoint import best_checkpoint
from corda_jax.training.sharding import make_mesh
from tests import tiny_depth
from tests.pretrained.test_names_monodepth import drawn, imagenet
from tests.stub_network import stub_depth_experiment

ALL = ("right", "previous", "next")


def build(views=("right",), devices=2, **overrides):
  return stub_depth_experiment(tiny_depth.get_config(views, **overrides), devices)


def build_real(views=("right",), **overrides):
  """With the networks of the configuration."""
  config = tiny_depth.get_config(views, **overrides)
  return DepthExperiment.from_config(config, make_mesh(jax.devices()[:2]))


def run(experiment, workdir, scalars=None, batches=tiny_depth.train_batches):
  workdir.mkdir(exist_ok=True)
  with jax.numpy_dtype_promotion("standard"):  # the library's Adam mixes types
    return train_depth(
      experiment,
      workdir,
      train_batches=batches,
      evaluation_batches=tiny_depth.evaluation_batches,
      write_scalars=lambda step, values: (
        None if scalars is None else scalars.append((step, dict(values)))
      ),
    )


class Killed(Exception):
  pass


def killed_at(step):
  def batches(start):
    for number, batch in enumerate(tiny_depth.train_batches(start), start):
      if number == step:
        raise Killed
      yield batch

  return batches


def assert_same(got, expected):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), jax.device_get(expected))


def test_a_resumed_run_ends_like_one_that_was_never_stopped(tmp_path, capsys):
  experiment, scalars = build(ALL), []
  whole, result = run(experiment, tmp_path / "whole", scalars)
  assert json.loads((tmp_path / "whole" / "results.json").read_text()) == result
  assert set(result) == {
    *DEPTH_ERRORS, "step", "frames", "median_scaling", "scale", "scale_spread", "floors",
  }  # fmt: skip
  assert result["step"] == int(whole.step) == 4
  curves = {name for _, values in scalars for name in values}
  assert curves >= {f"depth/{name}" for name in DEPTH_ERRORS} | {"train/total", "train/mean_depth"}
  assert [step for step, values in scalars if "depth/abs_rel" in values] == [2, 4]
  abs_rel = dict((s, v["depth/abs_rel"]) for s, v in scalars if "depth/abs_rel" in v)
  assert abs_rel[4] == result["abs_rel"]
  out = capsys.readouterr().out
  assert format_depth_scores(result) in out

  with pytest.raises(Killed):
    run(experiment, tmp_path / "stopped", batches=killed_at(3))
  assert not (tmp_path / "stopped" / "results.json").exists()
  resumed, resumed_result = run(experiment, tmp_path / "stopped")
  assert re.search(r"checkpoint.*\b2\b", capsys.readouterr().out)
  assert resumed_result == result
  assert_same(resumed, whole)
  fresh = experiment.initial_state()
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), fresh.params, whole.params)
  assert all(any(jax.tree.leaves(moved[name])) for name in ("depth", "pose"))

  # The best checkpoint is the one of the least error.
  assert best_checkpoint(tmp_path / "whole") == min(abs_rel, key=abs_rel.get)
  state, evaluated = evaluate_depth(experiment, tmp_path / "whole", tiny_depth.evaluation_batches)
  assert evaluated == result
  assert json.loads((tmp_path / "whole" / "evaluation.json").read_text()) == result
  assert_same(state, whole)


def test_nothing_to_evaluate_is_told(tmp_path):
  with pytest.raises(UserError, match=r"checkpoints in .*test_nothing"):
    evaluate_depth(build(), tmp_path, tiny_depth.evaluation_batches)


@pytest.fixture(scope="module")
def stereo():
  return build()


@pytest.fixture(scope="module")
def state(stereo):
  """Statistics are not those of a fresh network."""
  state = stereo.initial_state()
  stats = jax.tree.map(lambda x: x * 0.8 + 0.1, state.batch_stats)
  return state.replace(batch_stats=stats)


def described_disparity(experiment, state, image):
  """[B, H, W] of uint8 frames, continued by their border to what the network takes."""
  pad = [(0, 0), *((0, -size % tiny_depth.STRIDE) for size in image.shape[1:3]), (0, 0)]
  x = np.pad(image / 255, pad, mode="edge")
  x = jnp.asarray((x - 0.45) / 0.225, jnp.float32)
  variables = {"params": state.params["depth"], "batch_stats": state.batch_stats["depth"]}
  disparity = experiment.models.depth.apply(variables, x, train=False)[0]
  return np.asarray(disparity, np.float64)[:, : image.shape[1], : image.shape[2], 0]


def described_scores(experiment, state, scaling):
  """Errors and ratios of each frame that counts."""
  errors, ratios = [], []
  for batch in tiny_depth.evaluation_batches():
    disparity = described_disparity(experiment, state, batch["image"])
    depth = 2.2 / (0.01 + 9.99 * disparity)
    for prediction, inverse, valid in zip(
      depth, batch["inverse_depth"], batch["valid"], strict=True
    ):
      truth = 655.36 / inverse.astype(np.float64) - 0.01
      known = (inverse != 1) & (truth <= 80)
      if not (valid and known.any()):
        continue
      truth, prediction = truth[known], prediction[known]
      ratios.append(np.median(truth) / np.median(prediction))
      prediction = prediction * ratios[-1] if scaling else prediction
      errors.append(depth_errors(truth, np.clip(prediction, 0.001, 80)))
  return errors, ratios


def test_predictions_of_frames_of_any_size(stereo, state):
  image = tiny_depth.get_scene(1, 2, *tiny_depth.FRAME)["image"]
  variables = {"params": state.params["depth"], "batch_stats": state.batch_stats["depth"]}
  got = jax.jit(lambda v, x: predict_disparity(stereo, v, x))(variables, jnp.asarray(image))
  assert got.shape == (2, *tiny_depth.FRAME)
  np.testing.assert_allclose(got, described_disparity(stereo, state, image), atol=1e-5)


@pytest.mark.parametrize(
  ("views", "median_scaling", "scaled"),
  [
    (("right",), "never", False),
    (("right",), "always", True),
    (("right",), "video", False),
    (("previous", "next"), "video", True),
    (ALL, "video", False),
  ],
)
def test_scores_are_means_over_the_frames_that_count(stereo, state, views, median_scaling, scaled):
  config = tiny_depth.get_config(views, **{"evaluation.median_scaling": median_scaling})
  experiment = dataclasses.replace(stereo, config=config, views=views)
  result = DepthEvaluator(experiment).score(state, tiny_depth.evaluation_batches)
  errors, ratios = described_scores(experiment, state, scaled)
  # Eight frames, of which one only fills the batch and one has no truth.
  assert result["frames"] == len(errors) == 6
  assert result["median_scaling"] is scaled
  for name in DEPTH_ERRORS:
    expected = np.mean([error[name] for error in errors])
    np.testing.assert_allclose(result[name], expected, rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(result["scale"], np.median(ratios), rtol=1e-4)
  np.testing.assert_allclose(result["scale_spread"], np.std(ratios) / np.median(ratios), rtol=1e-3)
  assert 0 < result["floors"]["rows"]["abs_rel"] < result["floors"]["constant"]["abs_rel"]
  table = format_depth_scores(result)
  assert f"{result['abs_rel']:10.3f}" in table.splitlines()[1]
  assert f"{result['floors']['rows']['rmse']:10.3f}" in table.splitlines()[3]
  assert ("brought to the truth's median" in table) is scaled


def test_floors_are_measured_like_the_network(stereo, state):
  floors = DepthEvaluator(stereo).score(state, tiny_depth.evaluation_batches)["floors"]
  truths = []
  for batch in tiny_depth.evaluation_batches():
    truth = 655.36 / batch["inverse_depth"][batch["valid"]].astype(np.float64) - 0.01
    truths.extend(np.where((truth <= 80), truth, np.nan))
  known = [truth[~np.isnan(truth)] for truth in truths if not np.isnan(truth).all()]
  every = np.concatenate(known)
  candidates = np.quantile(every, np.linspace(0.01, 0.6, 200))
  best = min(candidates, key=lambda c: np.mean(np.abs(c - every) / every))
  expected = np.mean([depth_errors(truth, 0 * truth + best)["abs_rel"] for truth in known])
  np.testing.assert_allclose(floors["constant"]["abs_rel"], expected, rtol=5e-3)


def described_losses(experiment, state, batch):
  """The photometric loss of each frame, cut to what the networks take; and the maps of all."""
  batch = {k: jnp.asarray(v) for k, v in batch.items() if v.dtype.kind != "U"}
  images = {k: v[:, :32, :48].astype(jnp.float32) / 255 for k, v in batch.items() if "image" in k}
  inputs = {k: (v - 0.45) / 0.225 for k, v in images.items()}
  views = experiment.views

  def apply(name, *x):
    variables = {"params": state.params[name], "batch_stats": state.batch_stats[name]}
    return getattr(experiment.models, name).apply(variables, *x, train=False)

  disparities = apply("depth", inputs["image"])
  poses, _ = predict_poses(lambda *x: (apply("pose", *x), None), inputs, views)
  transforms = view_transforms(poses, views, batch["baseline"], 2.2)
  sources = jnp.stack([images[f"{view}_image"] for view in views])

  def loss_of(i):
    scene = Views(
      images["image"][i], sources[:, i], transforms[:, i], batch["intrinsics"][i],
      are_temporal(views),
    )  # fmt: skip
    return photometric_loss([x[i] for x in disparities], scene, experiment.config.depth)

  frames = len(images["image"])
  losses = [float(loss_of(slice(i, i + 1))[0]) for i in range(frames)]
  return losses, loss_of(slice(0, frames))[1]


@pytest.mark.parametrize("views", [("right",), ALL])
def test_without_truth_the_photometric_loss_is_told(views, tmp_path):
  experiment = build(views, **{"data.target.depth": "none"})
  state = experiment.initial_state()

  def batches():
    for batch in tiny_depth.evaluation_batches():
      fill = ~batch["valid"][:, None, None, None]
      batch["image"] = np.where(fill, 255 - batch["image"], batch["image"])
      yield {k: v for k, v in batch.items() if k != "inverse_depth"}

  evaluator = DepthEvaluator(experiment)
  result = evaluator.score(state, batches)
  found = [described_losses(experiment, state, batch) for batch in batches()]
  assert set(result) == {"photometric_loss", "frames"}
  valid = np.concatenate([batch["valid"] for batch in batches()])
  losses = np.concatenate([losses for losses, _ in found])
  np.testing.assert_allclose(result["photometric_loss"], losses[valid].mean(), rtol=1e-5)
  assert losses.mean() != pytest.approx(losses[valid].mean(), rel=1e-3)  # fills do not count
  assert result["frames"] == 7
  assert f"{result['photometric_loss']:.4f} over 7 frames" in format_depth_scores(result)

  pictures = evaluator.pictures(state, batches, 6)
  images = np.concatenate([batch["image"][:, :32, :48] for batch in batches()])[valid]
  np.testing.assert_array_equal(pictures["image"], images[:6])
  warped = np.concatenate([np.asarray(maps["warped"]).swapaxes(0, 1) for _, maps in found])[valid]
  assert pictures["warped"].shape == (6, len(views), 32, 48, 3)
  np.testing.assert_allclose(pictures["warped"], warped[:6], atol=2e-3)
  assert "truth" not in pictures


def test_a_run_without_truth_is_scored_by_its_loss(tmp_path):
  experiment = build(**{"data.target.depth": "none", "num_steps": 2, "evaluate_every": 1})
  scalars = []
  _, result = run(experiment, tmp_path, scalars)
  losses = {s: v["depth/photometric_loss"] for s, v in scalars if "depth/photometric_loss" in v}
  assert set(losses) == {1, 2}
  assert json.loads((tmp_path / "results.json").read_text()) == result
  assert result == {"step": 2, "photometric_loss": losses[2], "frames": 7}


def labelled(experiment, state, write, batches=tiny_depth.evaluation_batches):
  label_depth(experiment, state, batches(), write, total=9, done=2, title="depth of train")


def test_every_missing_frame_is_labelled(stereo, state):
  written = {}
  labelled(stereo, state, written.__setitem__)
  expected = {}
  for batch in tiny_depth.evaluation_batches():
    disparity = described_disparity(stereo, state, batch["image"])
    names = zip(batch["name"], disparity, batch["valid"], strict=True)
    expected |= {str(name): values for name, values, valid in names if valid}
  assert len(expected) == 7
  assert written.keys() == expected.keys()
  for name, values in expected.items():
    assert written[name].dtype == np.float32
    np.testing.assert_allclose(written[name], values, atol=1e-5, err_msg=name)


def test_nothing_missing_is_nothing_to_do(stereo, state):
  labelled(stereo, state, None, batches=lambda: ())


def test_a_network_that_went_astray_labels_nothing(stereo, state):
  params = jax.tree.map(lambda x: x * jnp.nan, state.params)
  written = []
  with pytest.raises(UserError, match=r"city/frame0_0"):
    labelled(stereo, state.replace(params=params), lambda *x: written.append(x))
  assert not written


@pytest.mark.parametrize("broken", ["city/frame0_0", "city/frame1_2"])
def test_errors_of_writing_end_the_job(stereo, state, broken):
  written = []

  def write(name, disparity):
    if name == broken:
      raise OSError(28, "No space left on device")
    written.append(name)

  with pytest.raises(OSError, match="No space left"):
    labelled(stereo, state, write)
  assert broken not in written
  assert written


def test_weights_of_torchvision_reach_a_run(tmp_path):
  fresh = build_real(ALL).state_shapes()
  variables = {}
  for network, seed in (("depth", 1), ("pose", 2)):
    shapes = {"params": fresh.params["depth"], "batch_stats": fresh.batch_stats["depth"]}
    variables[network] = drawn(shapes, seed)
    write_torch_file(tmp_path / f"{network}.pth", imagenet(variables[network]))
  files = {f"initial_weights.{name}": str(tmp_path / f"{name}.pth") for name in ("depth", "pose")}
  # A step that changes no parameter: what the run ends with is what it began with.
  experiment = build_real(ALL, **files, **{"optimizer.learning_rate": 0.0, "num_steps": 1})
  state, _ = run(experiment, tmp_path / "run")
  assert_same(state.params["depth"]["encoder"], variables["depth"]["params"]["encoder"])
  first = variables["pose"]["params"]["encoder"]
  twice = np.concatenate([first["stem_conv"]["kernel"] / 2] * 2, 2)  # it sees two frames
  expected = first | {"stem_conv": {"kernel": twice}}
  assert_same(state.params["pose"]["encoder"], expected)
  # The decoders, which the files lack, begin as ever.
  random = build_real(ALL).initial_state()
  for network in ("depth", "pose"):
    assert_same(state.params[network]["decoder"], random.params[network]["decoder"])
  stats = initial_depth_state(experiment).batch_stats
  for network in ("depth", "pose"):
    assert_same(stats[network]["encoder"], variables[network]["batch_stats"]["encoder"])


def test_without_files_a_run_begins_at_random():
  experiment = build()
  assert_same(initial_depth_state(experiment), experiment.initial_state())


def test_a_file_of_another_network_is_refused(tmp_path):
  write_torch_file(tmp_path / "a.pth", {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)})
  experiment = build_real(**{"initial_weights.depth": str(tmp_path / "a.pth")})
  with pytest.raises(UserError, match=r"a\.pth.*conv1\.weight"):
    initial_depth_state(experiment)


def test_digests_tell_weights_apart(stereo, state):
  digest = weights_digest(state)
  assert digest == weights_digest(jax.tree.map(jnp.copy, state))
  assert digest == weights_digest(state.replace(step=state.step + 1))
  assert len(digest) == 8
  for part in ("params", "batch_stats"):
    leaves, tree = jax.tree.flatten(getattr(state, part)["depth"])
    leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].add(1e-3)
    changed = state.replace(**{part: {"depth": jax.tree.unflatten(tree, leaves)}})
    assert weights_digest(changed) != digest


@pytest.mark.parametrize(
  ("field", "value", "told"),
  [
    ("num_steps", 0, r"num_steps.*0"),
    ("model.decoder_widths", (8, 0), r"model\.decoder_widths.*\(8, 0\)"),
    ("data.target.views", (), r"data\.target\.views.*\('right',\)"),
    ("depth.min_depth", 0.0, r"depth\.min_depth.*depth\.max_depth.*0\.0.*100\.0"),
    ("depth.max_depth", 0.05, r"depth\.max_depth.*0\.1.*0\.05"),
    ("evaluation.min_depth", 90.0, r"evaluation\.min_depth.*evaluation\.max_depth.*90\.0"),
    ("depth.metres_per_unit", 0.0, r"depth\.metres_per_unit.*0\.0"),
    ("depth.over_views", "median", r"depth\.over_views.*'median'.*'minimum'.*'mean'"),
    ("depth.flip_probability", 1.5, r"depth\.flip_probability.*1\.5"),
    ("depth.smoothness_weight", float("nan"), r"depth\.smoothness_weight.*nan"),
    ("optimizer.beta2", -0.1, r"optimizer\.beta2.*-0\.1"),
    ("evaluation.median_scaling", "mono", r"evaluation\.median_scaling.*'mono'.*'always'"),
    ("label_depth.encoding", "png", r"label_depth\.encoding.*'png'.*'sigmoid'.*'metric'"),
    ("depth.ignored_bottom", 0.1, r"ignored_bottom.*0\.1.*32.*35"),
    ("data.crop_height", 40, r"48x40"),
    ("data.crop_width", 24, r"24x32.*16"),
  ],
)
def test_configurations_that_cannot_work_are_refused(field, value, told):
  with pytest.raises(UserError, match=told) as caught:
    build_real(**{field: value})
  assert "\n" not in str(caught.value)


def test_frames_without_any_truth_cannot_be_measured():
  experiment = build()
  state = experiment.initial_state()

  def batches():
    for batch in tiny_depth.evaluation_batches():
      yield batch | {"inverse_depth": np.ones_like(batch["inverse_depth"])}

  with pytest.raises(UserError, match=r"data\.target\.depth='none'"):
    DepthEvaluator(experiment).score(state, batches)
