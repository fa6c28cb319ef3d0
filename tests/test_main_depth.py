"""The depth stage from the command line: depth training → files → adaptation, as docs/depth.md."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import demo
from corda_jax.training.run_files import record_config
from tests.test_main import TINY, assert_one_line, command, run

DEPTH_FIELDS = (
  "num_steps", "evaluate_every", "checkpoint_every", "data.batch_size",
  "data.evaluation_batch_size", "data.target.height", "data.target.width",
  "data.prepare_processes", "data.street_world.target_frames",
  "data.street_world.validation_frames", "data.street_world.target_height",
  "data.street_world.target_width", "evaluation.pictures",
)  # fmt: skip


def depth_command(folder, mode="train", workdir="depth", views="both", **fields):
  arguments = command(folder, workdir, mode, f"configs/depth_street_world.py:{views}", **fields)
  kept = (*DEPTH_FIELDS, "data.records_dir", "data.target.root")
  own = tuple(name.replace("__", ".") for name in fields)
  return [
    argument
    for argument in arguments
    if not argument.startswith("--config.")
    or argument.removeprefix("--config.").partition("=")[0] in (*kept, *own)
  ] + [
    "--config.data.crop_height=32",
    "--config.data.crop_width=64",
    "--config.model.pose_encoder.width=4",
    "--config.model.encoder.width=4",
    "--config.model.decoder_widths=(4,4,4,4)",
  ]


def video_command(folder, mode="train", config="", **fields):
  """The command of configs/depth_gta_video.py with small networks and steps."""
  arguments = depth_command(folder, mode, **fields)
  arguments[3] = f"--config={config}"
  unused = ("--config.data.street_world", "--config.model.decoder_widths")
  return [argument for argument in arguments if not argument.startswith(unused)]


def assert_succeeds(result):
  assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A folder where a depth network was trained on stereo and video."""
  folder = tmp_path_factory.mktemp("depth")
  result = run(depth_command(folder))
  assert result.returncode == 0, result.stderr
  return folder, result


def test_training_wants_a_batch_that_fits_the_devices(tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
  result = run(depth_command(tmp_path, data__evaluation_batch_size=4, data__batch_size=6))
  assert result.returncode == 1
  assert "error: data.batch_size is 6, wanted a multiple of the 4 devices" in result.stderr
  assert "Traceback" not in result.stderr


@pytest.mark.long
def test_depth_is_trained_and_measured(trained):
  folder, result = trained
  scores = json.loads((folder / "depth" / "results.json").read_text())
  assert scores["step"] == TINY["num_steps"]
  assert scores["frames"] == 3
  assert 0 < scores["floors"]["rows"]["abs_rel"] <= scores["floors"]["constant"]["abs_rel"]
  assert not scores["median_scaling"]  # the right view tells the scale
  assert "best constant a row" in result.stdout
  sheet = folder / "depth" / "pictures" / "depth_step_000002.png"
  with Image.open(sheet) as image:
    assert min(image.size) > 300
  assert list((folder / "depth" / "tensorboard").glob("events.*"))
  result = run(depth_command(folder, "evaluate"))
  assert result.returncode == 0, result.stderr
  evaluation = json.loads((folder / "depth" / "evaluation.json").read_text())
  assert evaluation == scores
  result = run(depth_command(folder, "evaluate", views="stereo"))
  assert_one_line(result, "data.target.views (['right', 'previous', 'next'] → ['right'])")


@pytest.mark.long
def test_files_of_a_network_feed_the_adaptation(trained):
  folder, _ = trained
  files = folder / "files"
  arguments = depth_command(
    folder, "label_depth", label_depth__folder=files, label_depth__encoding="metric"
  )
  result = run(arguments)
  assert result.returncode == 0, result.stderr
  assert "3/3" in result.stderr
  assert f"--config.data.target.depth=mono --config.data.target.depth_root={files}" in result.stdout
  made = sorted(files.rglob("*_leftImg8bit.png"))
  assert len(made) == 6
  with Image.open(made[0]) as image:
    values = np.asarray(image)
  assert values.shape == (32, 64)
  # Inverse depth of 4.4 to 220 metres, as 256 (Y - 1).
  assert 256 * (655.36 / 220 - 1.1) < values.min() <= values.max() < 256 * (655.36 / 4.3)
  # Stopped and started again, it writes what is missing and leaves the rest.
  made[0].unlink()
  before = {path: path.stat().st_mtime_ns for path in made[1:]}
  assert run(arguments).returncode == 0
  with Image.open(made[0]) as image:
    np.testing.assert_array_equal(np.asarray(image), values)
  assert before == {path: path.stat().st_mtime_ns for path in made[1:]}
  # Another encoding does not mix.
  result = run(depth_command(folder, "label_depth", label_depth__folder=files))
  assert_one_line(result, "encoding ('metric' there, 'sigmoid' now)")
  # Another scale than the training's is told.
  told = run(depth_command(folder, "label_depth", depth__metres_per_unit=1.0))
  assert "Labels with depth.metres_per_unit 1.0; trained with 2.2." in told.stdout
  result = run(depth_command(folder, "evaluate", depth__metres_per_unit=1.0))
  assert_one_line(result, "depth.metres_per_unit (2.2 → 1.0)")
  # A split that is not there is told before the first one is labelled.
  other = folder / "other"
  fields = {"label_depth__folder": other, "label_depth__splits": "('train','val')"}
  assert_one_line(run(depth_command(folder, "label_depth", **fields)), "label_depth.splits: ")
  assert not other.exists()

  adapt = {"data__target__depth": "mono", "data__target__depth_root": files}
  result = run(command(folder, "adapted", **adapt))
  assert result.returncode == 0, result.stderr
  assert json.loads((folder / "adapted" / "results.json").read_text())["step"] == 2


@pytest.mark.long
def test_depth_is_learned_inside_the_adaptation(trained):
  folder, _ = trained
  joint = {
    "data__target__depth": "official",
    "data__target__views": "('right','previous','next')",
    "method__depth_supervision__target": "photometric",
    "model__pose_encoder__width": 4,
  }
  result = run(command(folder, "joint", **joint))
  assert result.returncode == 0, result.stderr
  results = json.loads((folder / "joint" / "results.json").read_text())
  assert results["step"] == 2
  # The true depth trains nothing, but measures the depth head.
  assert results["depth"]["frames"] == 3
  assert "depth head: abs rel" in result.stdout


@pytest.mark.long
def test_every_frame_of_a_video_is_labelled(tmp_path, random):
  """Also the first and the last, which have no neighbour and train nothing."""
  images = tmp_path / "video" / "train"
  images.mkdir(parents=True)
  for number in range(5):
    Image.fromarray(random.randint(0, 256, (32, 64, 3), np.uint8)).save(images / f"{number}.png")
  fields = {
    "data__target__root": tmp_path / "video",
    "data__target__height": 32,
    "data__target__width": 64,
    "data__target__folder__camera__intrinsics": "(60.0,60.0,31.5,15.5)",
    "model__encoder__stage_sizes": "(1,1,1,1)",
    "model__encoder__block": "basic",
    "model__encoder__expansion": 1,
    "model__pose_encoder__stage_sizes": "(1,1,1,1)",
    "evaluation__max_frames": 2,
  }
  video = {"config": "configs/depth_gta_video.py", **fields}
  assert_succeeds(run(video_command(tmp_path, **video)))
  files = {"label_depth__folder": tmp_path / "files"}
  metric = {"label_depth__encoding": "metric"}
  result = run(video_command(tmp_path, "label_depth", **video, **files, **metric))
  assert_one_line(result, "trained on video alone, whose scale nobody knows")
  assert not (tmp_path / "files").exists()
  result = run(video_command(tmp_path, "label_depth", **video, **files))
  assert_succeeds(result)
  assert "5/5" in result.stderr
  made = sorted(path.name for path in (tmp_path / "files").rglob("*.png"))
  assert made == [f"{number}.png" for number in range(5)]


def test_modes_belong_to_tasks(tmp_path):
  result = run(command(tmp_path, mode="label_depth"))
  assert_one_line(
    result, "--mode=label_depth does not go with a configuration of task 'adaptation'"
  )
  result = run(depth_command(tmp_path, "export_torch"))
  assert_one_line(result, "--mode=export_torch does not go with a configuration of task 'depth'")
  assert not list(tmp_path.iterdir())


def test_labels_want_a_run_of_the_depth_stage(tmp_path):
  config = demo.get_config()
  (tmp_path / "depth" / "checkpoints" / "2").mkdir(parents=True)
  record_config(tmp_path / "depth", config.to_dict())
  files = {"label_depth__folder": tmp_path / "files"}
  result = run(depth_command(tmp_path, "label_depth", **files))
  assert_one_line(result, "holds no run of the depth stage")


def test_what_cannot_work_is_told_before_anything_is_made(tmp_path):
  result = run(depth_command(tmp_path, data__target__views="()"))
  assert_one_line(result, "data.target.views is empty")
  result = run(depth_command(tmp_path, "label_depth"))
  assert_one_line(result, "no checkpoints in")
  result = run(depth_command(tmp_path, views="sound"))
  assert_one_line(result, "views 'sound' are unknown, wanted stereo, video, both")
  result = run(depth_command(tmp_path, initial_weights__depth=tmp_path / "absent.pth"))
  assert_one_line(result, "absent.pth")
  assert not list(tmp_path.iterdir())
