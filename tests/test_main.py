"""The program from the command line: a whole run on made files, and what bad input says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corda_jax.bundle import read_bundle
from corda_jax.models.torch_files import read_torch_file
from corda_jax.models.torch_write import write_torch_file

ROOT = Path(__file__).parents[1]
TINY = {
  "num_steps": 2,
  "evaluate_every": 2,
  "checkpoint_every": 2,
  "data.batch_size": 2,
  "data.evaluation_batch_size": 2,
  "data.crop_height": 24,
  "data.crop_width": 32,
  "data.source.height": 32,
  "data.source.width": 64,
  "data.target.height": 32,
  "data.target.width": 64,
  "data.prepare_processes": 1,
  "data.street_world.source_frames": 3,
  "data.street_world.target_frames": 3,
  "data.street_world.validation_frames": 3,
  "data.street_world.source_height": 32,
  "data.street_world.source_width": 64,
  "data.street_world.target_height": 32,
  "data.street_world.target_width": 64,
  "model.encoder.width": 4,
  "model.task_width": 4,
  "evaluation.pictures": 2,
}


def command(folder, workdir="run", mode="train", config="configs/demo.py", **fields):
  fields = {
    **TINY,
    "data.records_dir": folder / "records",
    "data.source.root": folder / "gta5",
    "data.target.root": folder / "cityscapes",
  } | {name.replace("__", "."): value for name, value in fields.items()}
  return [
    *(sys.executable, "-m", "corda_jax.main", f"--config={config}"),
    *(f"--workdir={folder / workdir}", f"--mode={mode}"),
    *(f"--config.{name}={value}" for name, value in fields.items()),
  ]


def run(arguments):
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "PYTHONPATH": str(ROOT),
  }
  return subprocess.run(
    arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
  )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A folder where a whole run has ended."""
  folder = tmp_path_factory.mktemp("demo")
  result = run(command(folder))
  assert result.returncode == 0, result.stderr
  return folder, result


@pytest.mark.long
def test_a_run_from_nothing_to_pictures(finished):
  folder, result = finished
  workdir = folder / "run"
  scores = json.loads((workdir / "results.json").read_text())
  assert scores["step"] == 2
  assert len(scores["iou"]) == 19
  assert (workdir / "pictures" / "student_step_000002.png").read_bytes().startswith(b"\x89PNG")
  assert list((workdir / "tensorboard").glob("events.*"))
  assert (workdir / "checkpoints" / "2").is_dir()
  assert json.loads((workdir / "config.json").read_text())["model"]["encoder"]["width"] == 4
  assert "mIoU" in result.stdout
  assert "parameters in all" in result.stdout
  assert "2/2" in result.stderr
  assert not list(folder.rglob("*.partial"))


@pytest.mark.long
def test_a_finished_run_evaluates_and_refuses_another_configuration(finished):
  folder, _ = finished
  before = json.loads((folder / "run" / "results.json").read_text())
  result = run(command(folder, mode="evaluate"))
  assert result.returncode == 0, result.stderr
  evaluation = json.loads((folder / "run" / "evaluation.json").read_text())
  assert evaluation["miou"] == before["miou"]
  result = run(command(folder, optimizer__momentum=0.5))
  assert_one_line(result, "optimizer.momentum (0.9 → 0.5)")
  result = run(command(folder, mode="evaluate", model__normalization__bgr=False))
  assert_one_line(result, "model.normalization.bgr (True → False)")


@pytest.mark.long
def test_a_finished_run_predicts_exports_and_tells(finished, tmp_path):
  folder, _ = finished
  images = folder / "cityscapes" / "leftImg8bit" / "val"
  result = run(command(folder, mode="predict", prediction__input=images))
  assert result.returncode == 0, result.stderr
  assert "Predictions: " in result.stdout
  written = folder / "run" / "predictions" / "val"
  assert len(json.loads((written / "results.json").read_text())["images"]) == 3
  assert len(list(written.rglob("*_inverse_depth.png"))) == 3
  result = run(command(folder, mode="export"))
  assert result.returncode == 0, result.stderr
  image = np.stack([np.asarray(Image.open(next(images.rglob("*.png"))).convert("RGB"))])
  predicted = read_bundle(folder / "run" / "bundle").predict(image)["label"][0]
  label = np.asarray(Image.open(next(written.rglob("*_label.png"))))
  assert label.shape == predicted.shape
  (folder / "run" / "report.html").unlink()
  result = run(command(folder, mode="report"))
  assert result.returncode == 0, result.stderr
  assert "mIoU" in (folder / "run" / "report.html").read_text()
  result = run(command(folder, mode="predict", prediction__input=tmp_path / "none.png"))
  assert_one_line(result, "none.png, which is not there")
  result = run(command(folder, mode="predict", prediction__input=images, data__target__height=48))
  assert_one_line(result, "data.target.height (32 → 48)")


@pytest.mark.long
def test_sigterm_saves_and_a_bucket_is_no_workdir(finished):
  folder, _ = finished
  arguments = command(folder, workdir="stopped", num_steps=100_000)
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
  process = subprocess.Popen(
    arguments,
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  until = time.monotonic() + 120
  while not (folder / "stopped" / "checkpoints" / "2").is_dir():
    assert time.monotonic() < until
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.02)
  process.send_signal(signal.SIGUSR1)  # a profile, wherever the run is
  process.send_signal(signal.SIGTERM)
  told = process.communicate(timeout=120)[0]
  assert process.returncode == 143, told
  assert "Stopped by SIGTERM after step" in told
  result = run([x for x in command(folder) if "--workdir" not in x] + ["--workdir=gs://bucket/run"])
  assert_one_line(result, "no folder of this machine")


def test_nothing_to_evaluate(tmp_path):
  assert_one_line(run(command(tmp_path, mode="evaluate")), "no checkpoints in")
  assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_unreadable_image(finished, tmp_path):
  shutil.copytree(finished[0] / "gta5", tmp_path / "gta5")
  broken = tmp_path / "gta5" / "images" / "00002.png"
  broken.write_bytes(broken.read_bytes()[:100])
  assert_one_line(run(command(tmp_path)), str(broken))
  assert not list(tmp_path.rglob("*.array_record*"))
  assert not (tmp_path / "run" / "config.json").exists()


def assert_one_line(result, *wanted):
  assert result.returncode not in (0, None)
  # Besides a progress bar.
  lines = [x for x in result.stderr.splitlines() if x.strip() and "frame/s]" not in x]
  assert len(lines) == 1, result.stderr
  for text in wanted:
    assert text in lines[0]


def test_unknown_field(tmp_path):
  assert_one_line(run(command(tmp_path, optimiser__rate=3)), "unknown", "optimiser")
  assert not list(tmp_path.iterdir())


def test_missing_folder(tmp_path):
  arguments = command(tmp_path, data__street_world__enabled=False)
  assert_one_line(run(arguments), str(tmp_path / "gta5"))
  assert not (tmp_path / "records").exists() or not list((tmp_path / "records").rglob("*.json"))


def test_wrong_layout(tmp_path):
  (tmp_path / "gta5" / "pictures").mkdir(parents=True)
  arguments = command(tmp_path, data__street_world__enabled=False)
  assert_one_line(run(arguments), str(tmp_path / "gta5"), "images")


def test_folder_that_is_no_street_world(tmp_path):
  (tmp_path / "gta5" / "images").mkdir(parents=True)
  assert_one_line(run(command(tmp_path)), str(tmp_path / "gta5"), "street_world")


def test_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("not a folder")
  result = run(command(tmp_path, workdir="file/run"))
  assert_one_line(result, "--workdir=", "cannot be written")


def test_a_network_that_cannot_be_is_told_before_data_are_made(tmp_path):
  result = run(command(tmp_path, model__initial_semantics_from="foo"))
  assert_one_line(result, "model.initial_semantics_from is 'foo', wanted 'encoder' or 'decoder'")
  assert not list(tmp_path.iterdir())


def test_presets_that_are_not_there(tmp_path):
  result = run(command(tmp_path, config="configs/demo.py:as_published"))
  assert_one_line(result, "preset 'as_published' is unknown, wanted 'as_released', and")
  result = run(command(tmp_path, config="configs/your_data.py:as_published"))
  assert_one_line(result, "this configuration takes no preset")
  result = run(command(tmp_path, config="configs/gta2cs.py:as_written"))
  assert_one_line(result, "preset 'as_written' is unknown, wanted 'as_released' or 'as_published'")


def test_only_training_wants_a_training_batch_that_fits_the_devices(tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
  fields = {"data__evaluation_batch_size": 4}
  result = run(command(tmp_path, **fields))
  assert_one_line(result, "data.batch_size is 2, wanted a multiple of the 4 devices")
  fields |= {"data__batch_size": 4, "model__batch_norm_group": 2}
  assert_one_line(
    run(command(tmp_path, **fields)), "model.batch_norm_group is 2, but each of the 4"
  )
  assert_one_line(run(command(tmp_path, mode="evaluate", **fields)), "no checkpoint")


def test_missing_configuration(tmp_path):
  result = run(command(tmp_path, config="configs/none.py"))
  assert_one_line(result, "configs/none.py")


def test_wrong_type_and_mode(tmp_path):
  assert_one_line(run(command(tmp_path, num_steps="many")), "num_steps", "many")
  assert_one_line(run(command(tmp_path, mode="dance")), "dance")


def test_batch_that_devices_cannot_share(tmp_path):
  arguments = command(tmp_path, data__batch_size=0)
  assert_one_line(run(arguments), "data.batch_size is 0")


def test_no_arguments():
  result = run([sys.executable, "-m", "corda_jax.main"])
  assert_one_line(result, "--config")
  result = run([sys.executable, "-m", "corda_jax.main", "--config=configs/demo.py"])
  assert_one_line(result, "--workdir is missing")
  arguments = ["--config", "configs/demo.py", "--workdri=here"]  # which absl takes apart, too
  result = run([sys.executable, "-m", "corda_jax.main", *arguments])
  assert_one_line(result, "workdri")


@pytest.mark.long
def test_weights_of_pytorch_in_and_out(tmp_path):
  """Both jobs need no data, and a wrong file leaves nothing behind."""
  arguments = command(tmp_path, mode="import_torch", initial_weights=tmp_path / "weights.pth")
  (tmp_path / "weights.pth").write_text("<html>")
  assert_one_line(run(arguments), "weights.pth is not a PyTorch file but a web page")
  assert_one_line(run(command(tmp_path, initial_weights=tmp_path / "weights.pth")), "a web page")
  assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]

  kernel = np.random.RandomState(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
  write_torch_file(tmp_path / "weights.pth", {"conv1.weight": kernel})
  result = run(arguments)
  assert result.returncode == 0, result.stderr
  assert "student: 1 of the network's" in result.stdout
  result = run(command(tmp_path, mode="export_torch"))
  assert result.returncode == 0, result.stderr
  exported = read_torch_file(tmp_path / "run" / "corda.pth")
  np.testing.assert_array_equal(exported["model"]["conv1.weight"], kernel)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "weights.pth"]
