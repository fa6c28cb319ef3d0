"""The depth stage by the command: depth training → files → adaptation, as docs/depth.md."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import demo
from corda_jax.configuration import flatten
from corda_jax.depth.estimator import load_depth_estimator
from corda_jax.errors import UserError
from corda_jax.locks import only_writer
from corda_jax.training.run_files import record_config
from tests.command import TINY, arguments, refused, run, run_process
from tests.stub_network import stubs_for_networks

KEPT = (
  "num_steps", "evaluate_every", "checkpoint_every", "data.batch_size",
  "data.evaluation_batch_size", "data.target.height", "data.target.width",
  "data.prepare_processes", "data.street_world.target_frames",
  "data.street_world.validation_frames", "data.street_world.target_height",
  "data.street_world.target_width", "evaluation.pictures", "data.records_dir", "data.target.root",
)  # fmt: skip


def depth_arguments(folder, mode="train", config="configs/depth_street_world.py:both", **fields):
  """Flags of a tiny job of the depth stage; of the tiny fields those that its configuration has."""
  own = {
    "data__crop_height": 32,
    "data__crop_width": 64,
    "model__pose__encoder__width": 4,
    "model__depth__encoder__width": 4,
  }
  if "street_world" in config:
    own["model__depth__widths"] = "(4,4,4,4)"
  kept = {*KEPT, *(name.replace("__", ".") for name in own | fields)}
  if "street_world" not in config:
    kept = {name for name in kept if not name.startswith("data.street_world")}
  return [
    flag
    for flag in arguments(folder, "depth", mode, config, **own | fields)
    if not flag.startswith("--config.") or flag.removeprefix("--config.").partition("=")[0] in kept
  ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A folder where a depth network was trained on stereo and video, and what was printed."""
  folder = tmp_path_factory.mktemp("depth")
  return folder, run_process(depth_arguments(folder))


def test_depth_is_trained_and_measured(trained):
  folder, output = trained
  scores = json.loads((folder / "depth" / "results.json").read_text())
  assert scores["step"] == TINY["num_steps"]
  assert scores["frames"] == 3
  assert 0 < scores["baselines"]["rows"]["abs_rel"] <= scores["baselines"]["constant"]["abs_rel"]
  assert not scores["median_scaling"]  # the right view gives the scale
  assert f"{scores['abs_rel']:.3f}" in output.stdout
  sheet = folder / "depth" / "pictures" / "depth_step_000002.png"
  with Image.open(sheet) as image:
    assert min(image.size) > 300
  assert list((folder / "depth" / "tensorboard").glob("events.*"))
  run(depth_arguments(folder, "evaluate"))
  evaluation = json.loads((folder / "depth" / "evaluation.json").read_text())
  # Measured on other devices, so the last digits differ.
  evaluation, scores = flatten(evaluation), flatten(scores)
  assert evaluation == pytest.approx(scores, rel=1e-3)
  assert [type(value) for value in evaluation.values()] == [*map(type, scores.values())]
  refused(
    depth_arguments(folder, "evaluate", "configs/depth_street_world.py:stereo"),
    "data.target.views",
    ["right", "previous", "next"],
  )


def test_files_of_a_network_feed_the_adaptation(trained, tmp_path):
  folder, _ = trained
  files = folder / "files"
  label = {"label_depth__folder": files, "label_depth__encoding": "metric"}
  output = run(depth_arguments(folder, "label_depth", **label))
  assert "3/3" in output.stderr
  reading = f"--config.data.target.depth=mono --config.data.target.depth_root={files}"
  assert reading in output.stdout
  made = sorted(files.rglob("*_leftImg8bit.png"))
  assert len(made) == 6
  with Image.open(made[0]) as image:
    values = np.asarray(image)
  assert values.shape == (32, 64)
  # Inverse depth of 4.4 to 220 metres, as 256 (Y - 1).
  assert 256 * (655.36 / 220 - 1.1) < values.min() <= values.max() < 256 * (655.36 / 4.3)
  # The same network makes the depth of an image that has no file.
  estimator = load_depth_estimator(str(files), str(folder / "depth"))
  image = next((folder / "cityscapes").rglob(f"leftImg8bit/*/*/{made[0].name}"))
  with Image.open(image) as picture:
    found = estimator.inverse_depth(estimator.variables, np.asarray(picture)[None])
  np.testing.assert_allclose(found[0], values / 256 + 1, rtol=1e-3)
  # Of a larger image it is that of the same things: the corners of both are one pixel.
  large = np.kron(np.asarray(picture), np.ones((2, 2, 1), np.uint8))[None]
  corners = np.ix_((0, -1), (0, -1))
  enlarged = np.asarray(estimator.inverse_depth(estimator.variables, large))[0]
  assert enlarged.shape == (64, 128)
  np.testing.assert_allclose(enlarged[corners], np.asarray(found[0])[corners], rtol=1e-3)
  with pytest.raises(UserError, match="name the folder of a run"):
    load_depth_estimator(str(files), str(tmp_path))
  # Stopped and started again, it writes what is missing and leaves the rest.
  made[0].unlink()
  before = {path: path.stat().st_mtime_ns for path in made[1:]}
  with only_writer(files / "disparity/.lock", otherwise=""):
    refused(depth_arguments(folder, "label_depth", **label), files, "process", "label_depth.folder")
  run(depth_arguments(folder, "label_depth", **label))
  with Image.open(made[0]) as image:
    np.testing.assert_array_equal(np.asarray(image), values)
  assert before == {path: path.stat().st_mtime_ns for path in made[1:]}
  # Another encoding does not mix.
  sigmoid = label | {"label_depth__encoding": "sigmoid"}
  refused(depth_arguments(folder, "label_depth", **sigmoid), "encoding", "metric", "sigmoid")
  # Another scale than the training's is reported.
  scale = {"depth__metres_per_unit": 1.0}
  # The files that are there have another.
  refused(depth_arguments(folder, "label_depth", **label, **scale), "metres_per_unit", 2.2, 1.0)
  output = run(depth_arguments(folder, "label_depth", **sigmoid | scale | {
    "label_depth__folder": folder / "of another scale",
  }))  # fmt: skip
  assert "depth.metres_per_unit 1.0" in output.stdout
  refused(depth_arguments(folder, "evaluate", **scale), "depth.metres_per_unit", 2.2, 1.0)
  # A split that is not there is noticed before the first one is labelled.
  other = {"label_depth__folder": folder / "other", "label_depth__splits": "('train','val')"}
  refused(depth_arguments(folder, "label_depth", **other), "data.target", "'val'")
  assert not (folder / "other").exists()

  with stubs_for_networks():
    run(arguments(folder, "adapted", data__target__depth="mono", data__target__depth_root=files))
  assert json.loads((folder / "adapted" / "results.json").read_text())["step"] == 2


def test_depth_is_learned_inside_the_adaptation(trained):
  folder, _ = trained
  joint = {
    "data__target__depth": "official",
    "data__target__views": "('right','previous','next')",
    "terms__photometric__domains": "('target',)",
    "terms__depth_files__domains": "('source',)",
    "terms__photometric__pose__encoder__width": 4,
  }
  with stubs_for_networks():
    output = run(arguments(folder, "joint", **joint))
  results = json.loads((folder / "joint" / "results.json").read_text())
  assert results["step"] == 2
  # The true depth trains nothing, but measures the depth head.
  assert results["depth"]["frames"] == 3
  assert f"abs rel {results['depth']['abs_rel']:.3f}" in output.stdout


def test_every_frame_of_a_video_is_labelled(tmp_path, random):
  """Also the first and the last, which have no neighbour and train nothing."""
  images = tmp_path / "video" / "train"
  images.mkdir(parents=True)
  for number in range(6):
    Image.fromarray(random.randint(0, 256, (32, 64, 3), np.uint8)).save(images / f"{number}.png")
  video = {
    "config": "configs/depth_gta_video.py",
    "data__target__root": tmp_path / "video",
    "data__target__height": 32,
    "data__target__width": 64,
    "data__target__folder__camera__intrinsics": "(60.0,60.0,31.5,15.5)",
    "model__depth__encoder__stage_sizes": "(1,1,1,1)",
    "model__depth__encoder__block": "basic",
    "model__depth__encoder__expansion": 1,
    "model__pose__encoder__stage_sizes": "(1,1,1,1)",
    "evaluation__max_frames": 2,
  }
  with stubs_for_networks():
    run(depth_arguments(tmp_path, **video))
  # A kind of depth is named, and validation has none of it.
  measured = video | {
    "data__target__depth": "metres_npy",
    "data__target__folder__shared_images": True,
    "data__target__folder__validation__images": "train/{name}.png",
    "evaluation__split": "validation",
  }
  message = ("data.target.depth", "metres_npy", "folder.validation.depth")
  refused(depth_arguments(tmp_path / "measured", **measured), *message)
  label = video | {"label_depth__folder": tmp_path / "files"}
  metric = label | {"label_depth__encoding": "metric"}
  refused(depth_arguments(tmp_path, "label_depth", **metric), "label_depth.encoding", "metric")
  assert not (tmp_path / "files").exists()
  with stubs_for_networks():
    output = run(depth_arguments(tmp_path, "label_depth", **label))
  assert "6/6" in output.stderr
  made = sorted(path.name for path in (tmp_path / "files").rglob("*.png"))
  assert made == [f"{number}.png" for number in range(6)]


def test_modes_belong_to_tasks(tmp_path):
  refused(arguments(tmp_path, mode="label_depth"), "--mode=label_depth", "'adaptation'")
  refused(depth_arguments(tmp_path, "export_torch"), "--mode=export_torch", "'depth'")
  assert not list(tmp_path.iterdir())


def test_labels_need_a_run_of_the_depth_stage(tmp_path):
  (tmp_path / "depth" / "checkpoints" / "2").mkdir(parents=True)
  record_config(tmp_path / "depth", demo.get_config().to_dict())
  files = {"label_depth__folder": tmp_path / "files"}
  refused(depth_arguments(tmp_path, "label_depth", **files), tmp_path / "depth", "depth stage")


def test_what_cannot_work_is_refused_before_anything_is_made(tmp_path):
  refused(depth_arguments(tmp_path, data__target__views="()"), "data.target.views")
  refused(depth_arguments(tmp_path, "label_depth"), "checkpoint")
  sound = depth_arguments(tmp_path, config="configs/depth_street_world.py:sound")
  refused(sound, "sound", "stereo", "video", "both")
  absent = {"initial_weights__depth": tmp_path / "absent.pth"}
  refused(depth_arguments(tmp_path, **absent), "absent.pth")
  refused(depth_arguments(tmp_path, data__batch_size=6), "data.batch_size", 6, 4)
  assert not list(tmp_path.iterdir())
