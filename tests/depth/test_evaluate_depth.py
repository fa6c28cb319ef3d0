"""Evaluations of the depth stage: against the formulas, and the job that labels a data set."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.depth import label
from corda_jax.depth.evaluate import DepthEvaluator, predict_disparity
from corda_jax.depth.label import label_depth
from corda_jax.depth.motion import are_temporal, predict_poses, view_transforms
from corda_jax.depth.photometric import Views, photometric_loss
from corda_jax.depth.scores import format_depth_scores
from corda_jax.depth.task import DepthTask
from corda_jax.errors import UserError
from corda_jax.metrics import DEPTH_ERRORS, depth_errors
from corda_jax.pretrained.depth_weights import initial_depth_state, weights_digest
from corda_jax.pretrained.torch_write import write_torch_file
from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.sharding import make_mesh
from tests import runs, tiny_depth
from tests.pretrained.test_names_monodepth import drawn, imagenet
from tests.stub_network import stub_depth_task

ALL = ("right", "previous", "next")


def build(views=("right",), devices=2, **overrides):
  return stub_depth_task(tiny_depth.get_config(views, **overrides), devices)


def build_real(views=("right",), **overrides):
  """With the networks of the configuration."""
  config = tiny_depth.get_config(views, **overrides)
  return DepthTask.from_config(config, make_mesh(jax.devices()[:2]))


def assert_same(got, expected):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), jax.device_get(expected))


@pytest.fixture(scope="module")
def stereo():
  return build()


@pytest.fixture(scope="module")
def state(stereo):
  """Statistics are not those of a fresh network."""
  state = stereo.initial_state()
  stats = jax.tree.map(lambda x: x * 0.8 + 0.1, state.batch_stats)
  return state.replace(batch_stats=stats)


def described_disparity(task, state, image):
  """[B, H, W] of uint8 frames, continued by their border to what the network takes."""
  pad = [(0, 0), *((0, -size % tiny_depth.STRIDE) for size in image.shape[1:3]), (0, 0)]
  x = np.pad(image / 255, pad, mode="edge")
  x = jnp.asarray((x - 0.45) / 0.225, jnp.float32)
  variables = {"params": state.params["depth"], "batch_stats": state.batch_stats["depth"]}
  disparity = task.models.depth.apply(variables, x, train=False)[0]
  return np.asarray(disparity, np.float64)[:, : image.shape[1], : image.shape[2], 0]


def described_scores(task, state, scaling):
  """Errors and ratios of each frame that counts."""
  errors, ratios = [], []
  for batch in tiny_depth.evaluation_batches():
    disparity = described_disparity(task, state, batch["image"])
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
  step = dataclasses.replace(stereo.step, views=views)
  task = dataclasses.replace(stereo, config=config, step=step)
  result = DepthEvaluator(task).score(state, tiny_depth.evaluation_batches)
  errors, ratios = described_scores(task, state, scaled)
  # Eight frames, of which one only fills the batch and one has no truth.
  assert result["frames"] == len(errors) == 6
  assert result["median_scaling"] is scaled
  for name in DEPTH_ERRORS:
    expected = np.mean([error[name] for error in errors])
    np.testing.assert_allclose(result[name], expected, rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(result["scale"], np.median(ratios), rtol=1e-4)
  np.testing.assert_allclose(result["scale_spread"], np.std(ratios) / np.median(ratios), rtol=1e-3)
  assert 0 < result["baselines"]["rows"]["abs_rel"] < result["baselines"]["constant"]["abs_rel"]
  table = format_depth_scores(result)
  assert f"{result['abs_rel']:10.3f}" in table.splitlines()[1]
  assert f"{result['baselines']['rows']['rmse']:10.3f}" in table.splitlines()[3]
  assert ("brought to the truth's median" in table) is scaled


def test_baselines_are_measured_like_the_network(stereo, state):
  baselines = DepthEvaluator(stereo).score(state, tiny_depth.evaluation_batches)["baselines"]
  truths = []
  for batch in tiny_depth.evaluation_batches():
    truth = 655.36 / batch["inverse_depth"][batch["valid"]].astype(np.float64) - 0.01
    truths.extend(np.where((truth <= 80), truth, np.nan))
  known = [truth[~np.isnan(truth)] for truth in truths if not np.isnan(truth).all()]
  every = np.concatenate(known)
  candidates = np.quantile(every, np.linspace(0.01, 0.6, 200))
  best = min(candidates, key=lambda c: np.mean(np.abs(c - every) / every))
  expected = np.mean([depth_errors(truth, 0 * truth + best)["abs_rel"] for truth in known])
  np.testing.assert_allclose(baselines["constant"]["abs_rel"], expected, rtol=5e-3)


def described_losses(task, state, batch):
  """The photometric loss of each frame, cut to what the networks take; and the maps of all."""
  batch = {k: jnp.asarray(v) for k, v in batch.items() if v.dtype.kind != "U"}
  images = {k: v[:, :32, :48].astype(jnp.float32) / 255 for k, v in batch.items() if "image" in k}
  inputs = {k: (v - 0.45) / 0.225 for k, v in images.items()}
  views = task.views

  def apply(name, *x):
    variables = {"params": state.params[name], "batch_stats": state.batch_stats[name]}
    return getattr(task.models, name).apply(variables, *x, train=False)

  @jax.jit
  def described(images, inputs, batch):
    disparities = apply("depth", inputs["image"])
    poses, _ = predict_poses(lambda *x: (apply("pose", *x), None), inputs, views)
    transforms = view_transforms(poses, views, batch["baseline"], 2.2)
    sources = jnp.stack([images[f"{view}_image"] for view in views])

    def loss_of(i):
      scene = Views(
        images["image"][i], sources[:, i], transforms[:, i], batch["intrinsics"][i],
        are_temporal(views),
      )  # fmt: skip
      return photometric_loss([x[i] for x in disparities], scene, task.step.config)

    frames = jnp.arange(len(images["image"]))
    return jax.lax.map(lambda i: loss_of(i[None])[0], frames), loss_of(frames)[1]

  return described(images, inputs, batch)


@pytest.mark.parametrize("views", [pytest.param(("right",), marks=pytest.mark.slow), ALL])
def test_without_truth_the_photometric_loss_is_reported(views, tmp_path):
  task = build(views, **{"data.target.depth": "none"})
  state = task.initial_state()

  def batches():
    for batch in tiny_depth.evaluation_batches():
      fill = ~batch["valid"][:, None, None, None]
      batch["image"] = np.where(fill, 255 - batch["image"], batch["image"])
      yield {k: v for k, v in batch.items() if k != "inverse_depth"}

  evaluator = DepthEvaluator(task)
  result = evaluator.score(state, batches)
  found = [described_losses(task, state, batch) for batch in batches()]
  assert set(result) == {"photometric_loss", "frames"}
  valid = np.concatenate([batch["valid"] for batch in batches()])
  losses = np.concatenate([losses for losses, _ in found])
  np.testing.assert_allclose(result["photometric_loss"], losses[valid].mean(), rtol=1e-5)
  assert losses.mean() != pytest.approx(losses[valid].mean(), rel=1e-3)  # fills do not count
  assert result["frames"] == 7
  assert f"{result['photometric_loss']:.4f} over 7 frames" in format_depth_scores(result)

  pictures = evaluator.pictures(state, batches())
  assert len(pictures["image"]) == 7
  pictures = {name: value[:6] for name, value in pictures.items()}
  images = np.concatenate([batch["image"][:, :32, :48] for batch in batches()])[valid]
  np.testing.assert_array_equal(pictures["image"], images[:6])
  warped = np.concatenate([np.asarray(maps["warped"]).swapaxes(0, 1) for _, maps in found])[valid]
  assert pictures["warped"].shape == (6, len(views), 32, 48, 3)
  np.testing.assert_allclose(pictures["warped"], warped[:6], atol=2e-3)
  assert "truth" not in pictures


@pytest.mark.slow
def test_weights_of_torchvision_reach_a_run(tmp_path):
  fresh = build_real(ALL).state_shapes
  variables = {}
  for network, seed in (("depth", 1), ("pose", 2)):
    shapes = {"params": fresh.params["depth"], "batch_stats": fresh.batch_stats["depth"]}
    variables[network] = drawn(shapes, seed)
    write_torch_file(tmp_path / f"{network}.pth", imagenet(variables[network]))
  files = {f"initial_weights.{name}": str(tmp_path / f"{name}.pth") for name in ("depth", "pose")}
  # A step that changes no parameter: what the run ends with is what it began with.
  task = build_real(ALL, **files, **{"optimizer.learning_rate": 0.0, "num_steps": 1})
  state, _ = runs.run(task, tmp_path / "run")
  assert_same(state.params["depth"]["encoder"], variables["depth"]["params"]["encoder"])
  first = variables["pose"]["params"]["encoder"]
  twice = np.concatenate([first["stem_conv"]["kernel"] / 2] * 2, 2)  # it sees two frames
  expected = first | {"stem_conv": {"kernel": twice}}
  assert_same(state.params["pose"]["encoder"], expected)
  # The decoders, which the files lack, begin as ever.
  random = build_real(ALL).initial_state()
  for network in ("depth", "pose"):
    assert_same(state.params[network]["decoder"], random.params[network]["decoder"])
  stats = initial_depth_state(task).batch_stats
  for network in ("depth", "pose"):
    assert_same(stats[network]["encoder"], variables[network]["batch_stats"]["encoder"])


def test_without_files_a_run_begins_at_random():
  task = build()
  assert_same(initial_depth_state(task), task.initial_state())


def test_a_file_of_another_network_is_refused(tmp_path):
  write_torch_file(tmp_path / "a.pth", {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)})
  task = build_real(**{"initial_weights.depth": str(tmp_path / "a.pth")})
  with pytest.raises(UserError, match=r"a\.pth.*conv1\.weight"):
    initial_depth_state(task)


def test_digests_say_weights_apart(stereo, state):
  digest = weights_digest(state)
  assert digest == weights_digest(jax.tree.map(jnp.copy, state))
  assert digest == weights_digest(state.replace(step=state.step + 1))
  assert len(digest) == 8
  for part in ("params", "batch_stats"):
    leaves, tree = jax.tree.flatten(getattr(state, part)["depth"])
    leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].add(1e-3)
    changed = state.replace(**{part: {"depth": jax.tree.unflatten(tree, leaves)}})
    assert weights_digest(changed) != digest


def test_frames_without_any_truth_cannot_be_measured():
  task = build()
  state = task.initial_state()

  def batches():
    for batch in tiny_depth.evaluation_batches():
      yield batch | {"inverse_depth": np.ones_like(batch["inverse_depth"])}

  with pytest.raises(UserError, match=r"data\.target\.depth='none'"):
    DepthEvaluator(task).score(state, batches)


class Written:
  """Depth files in memory; "frame0_1" has been written, and "broken" cannot be."""

  folder = "depth"

  def __init__(self, broken=None):
    self.files, self.meta, self._broken = {}, None, broken

  def missing(self, split, name):
    return name != "city/frame0_1"

  def write(self, split, name, values):
    if name == self._broken:
      raise OSError(28, "No space left on device")
    self.files[name] = values

  def hint(self, domain):
    return f"the {domain}'s options"


class LabelFeed:
  def __init__(self, files):
    self._files = files

  def names(self, need):
    batches = tiny_depth.evaluation_batches()
    return [str(n) for b in batches for n, v in zip(b["name"], b["valid"], strict=True) if v]

  def frames(self, need, spread=0, names=None):
    for batch in tiny_depth.evaluation_batches():
      yield batch | {"valid": batch["valid"] & np.isin(batch["name"], list(names))}

  def depth_files(self, domain, folder, meta):
    self._files.meta = meta
    return self._files


@pytest.fixture
def labelling(tmp_path, state):
  """A task of one split whose run holds the state, and the folder of the run."""
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, state.replace(step=jnp.int32(3)))
  checkpoints.close()
  return build(**{"label_depth.splits": ("validation",)}), tmp_path


@pytest.mark.parametrize("encoding", ["sigmoid", "metric"])
def test_every_missing_frame_is_labelled(labelling, state, encoding, monkeypatch, capsys):
  task, workdir = labelling
  monkeypatch.chdir(workdir)
  config = task.config.copy_and_resolve_references()
  config.label_depth.encoding = encoding
  files = Written()
  label_depth(dataclasses.replace(task, config=config), workdir, LabelFeed(files))
  expected = {}
  for batch in tiny_depth.evaluation_batches():
    disparity = described_disparity(task, state, batch["image"])
    inverse = 655.36 / (2.2 / (0.01 + 9.99 * disparity) + 0.01)
    values = 65535 * disparity if encoding == "sigmoid" else 256 * (inverse - 1)
    names = zip(batch["name"], values, batch["valid"], strict=True)
    expected |= {str(name): value for name, value, valid in names if valid}
  del expected["city/frame0_1"]
  assert len(expected) == 6
  assert files.files.keys() == expected.keys()
  for name, values in expected.items():
    assert files.files[name].dtype == np.uint16
    np.testing.assert_allclose(files.files[name], np.clip(values, 0, 65535), atol=2, err_msg=name)
  assert files.meta["step"] == 3
  assert files.meta["weights"] == weights_digest(state)
  assert ("metres_per_unit" in files.meta) is (encoding == "metric")
  assert "the target's options" in capsys.readouterr().out


def test_a_network_that_diverged_labels_nothing(stereo, state, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  params = jax.tree.map(lambda x: x * jnp.nan, state.params)
  monkeypatch.setattr(label, "restore_state", lambda *_: state.replace(params=params))
  files = Written()
  with pytest.raises(UserError, match=r"city/frame0_0"):
    label_depth(stereo, tmp_path, LabelFeed(files))
  assert not files.files


@pytest.mark.parametrize("broken", ["city/frame0_0", "city/frame1_2"])
def test_errors_of_writing_end_the_job(labelling, broken, monkeypatch):
  task, workdir = labelling
  monkeypatch.chdir(workdir)
  files = Written(broken)
  with pytest.raises(OSError, match="No space left"):
    label_depth(task, workdir, LabelFeed(files))
  assert broken not in files.files
  assert files.files
