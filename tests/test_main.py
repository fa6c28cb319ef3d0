"""The command: a whole run on made files, its exit codes, and what it refuses."""

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
from absl import flags
from PIL import Image

from corda_jax import command_line, main
from corda_jax.configuration import flatten
from corda_jax.errors import EXIT_CODE, Preempted, UserError, shown
from corda_jax.inference.bundle import read_bundle
from corda_jax.locks import only_writer
from corda_jax.pretrained.torch_format import read_torch_file
from corda_jax.pretrained.torch_write import write_torch_file
from tests.command import arguments, refused, run, run_process, start


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A folder where a whole run has ended, and what it printed."""
  folder = tmp_path_factory.mktemp("demo")
  return folder, run_process(arguments(folder, profile__at_step=1, profile__steps=1))


def test_a_run_from_nothing_to_pictures(finished):
  folder, output = finished
  workdir = folder / "run"
  scores = json.loads((workdir / "results.json").read_text())
  assert scores["step"] == 2
  assert len(scores["iou"]) == 19
  assert (workdir / "pictures" / "student_step_000002.png").read_bytes().startswith(b"\x89PNG")
  assert list((workdir / "tensorboard").glob("events.*"))
  assert list((workdir / "tensorboard").rglob("*.xplane.pb"))
  assert (workdir / "checkpoints" / "2").is_dir()
  assert json.loads((workdir / "config.json").read_text())["model"]["encoder"]["width"] == 4
  assert "mIoU" in output.stdout
  assert "encoder/stage1_block0" in output.stdout
  assert "2/2" in output.stderr
  assert not list(folder.rglob("*.partial"))


@pytest.mark.slow
def test_the_demo_of_the_readme(tmp_path):
  run(arguments(tmp_path, config="configs/demo.py"))
  history = (tmp_path / "run" / "history.jsonl").read_text()
  assert "ce_masked" in history


def test_a_finished_run_evaluates_and_refuses_another_configuration(finished):
  folder, _ = finished
  before = json.loads((folder / "run" / "results.json").read_text())
  run_process(arguments(folder, mode="evaluate"))
  evaluation = json.loads((folder / "run" / "evaluation.json").read_text())
  assert evaluation == before
  refused(arguments(folder, optimizer__momentum=0.5), "optimizer.momentum", 0.9, 0.5)
  other = {"model__normalization__bgr": False}
  refused(arguments(folder, mode="evaluate", **other), "model.normalization.bgr", True, False)


def test_a_finished_run_predicts_exports_and_reports(finished, tmp_path):
  folder, _ = finished
  images = folder / "cityscapes" / "leftImg8bit" / "val"
  run(arguments(folder, mode="predict", prediction__input=images))
  written = folder / "run" / "predictions" / "val"
  assert len(json.loads((written / "results.json").read_text())["images"]) == 3
  assert len(list(written.rglob("*_inverse_depth.png"))) == 3
  run(arguments(folder, mode="export"))
  image = np.stack([np.asarray(Image.open(next(images.rglob("*.png"))).convert("RGB"))])
  predicted = read_bundle(folder / "run" / "bundle").predict(image)["label"][0]
  label = np.asarray(Image.open(next(written.rglob("*_label.png"))))
  assert label.shape == predicted.shape
  (folder / "run" / "report.html").unlink()
  run(arguments(folder, mode="report"))
  assert "mIoU" in (folder / "run" / "report.html").read_text()
  predict = {"mode": "predict", "prediction__input": tmp_path / "none.png"}
  refused(arguments(folder, **predict), "none.png")
  refused(arguments(folder, **predict, data__target__height=48), "data.target.height", 32, 48)


def test_a_console_that_fails_ends_nothing(finished):
  folder, _ = finished
  with open("/dev/full", "w") as full:
    process = start(arguments(folder, mode="report"), stdout=full, stderr=full)
    assert process.wait() == 0


@pytest.mark.parametrize("mode", ["train", "export", "export_torch"])
def test_one_writer_a_run(finished, mode):
  folder, _ = finished
  lock = {"train": ".run.lock", "export": ".bundle.lock", "export_torch": ".corda.pth.lock"}[mode]
  with only_writer(folder / "run" / lock, otherwise=""):
    refused(arguments(folder, mode=mode), folder / "run", "process", os.getpid(), "--workdir")


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_the_home_folder_in_every_path(tmp_path, monkeypatch, dashes):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "own.py").write_text("from configs.demo import get_config  # noqa: F401")
  fields = (
    "initial_weights",
    "terms.photometric.initial_pose",
    "prediction.input",
    "prediction.output",
  )
  fields += ("data.records_dir", "data.source.root", "data.target.depth_root")
  line = ["main", f"{dashes}config=~/own.py", "--workdir=~/run"]
  line += [f"--config.{field}=~/{field}" for field in fields]
  values = flags.FlagValues()
  command_line.define_flags(values, line)
  command = main.parse(line, values)
  assert command.workdir == tmp_path / "run"
  given = flatten(command.config.to_dict())
  assert {field: given[field] for field in fields} == {
    field: f"{tmp_path}/{field}" for field in fields
  }


@pytest.mark.parametrize("mode", ["evaluate", "export", "export_torch"])
def test_a_mistyped_folder_is_not_made(tmp_path, mode):
  refused(arguments(tmp_path, mode=mode), tmp_path / "run", "checkpoint")
  assert not (tmp_path / "run").exists()


def test_sigterm_saves(finished):
  folder, _ = finished
  process = start(arguments(folder, workdir="stopped", num_steps=100_000), stderr=subprocess.STDOUT)
  until = time.monotonic() + 120
  while not (folder / "stopped" / "checkpoints" / "2").is_dir():
    assert time.monotonic() < until
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  printed = process.communicate(timeout=120)[0]
  assert process.returncode == 143, printed
  assert "SIGTERM" in printed


@pytest.mark.parametrize(
  ("error", "code"),
  [
    (KeyboardInterrupt(), 130),
    (Preempted(3), EXIT_CODE),
    (OSError(28, "full"), "error: "),
    (MemoryError(), "error: not enough memory (MemoryError)"),
    (RuntimeError("RESOURCE_EXHAUSTED: 9 bytes\nmore"), "error: not enough memory (RESOURCE_EX"),
  ],
)
def test_exit_codes(monkeypatch, error, code):
  def fails(*_):
    raise error

  monkeypatch.setattr(main, "run", fails)
  command = main.Command(config=None, workdir=Path(), mode="train", multihost=False)
  with pytest.raises(SystemExit) as stopped:
    main.main(command)
  assert stopped.value.code == code or stopped.value.code.startswith(code)
  assert "\n" not in str(stopped.value.code)


def test_an_error_of_the_program_is_not_hidden(monkeypatch):
  def fails(*_):
    raise RuntimeError("INTERNAL: a bug")

  monkeypatch.setattr(main, "run", fails)
  with pytest.raises(RuntimeError, match="a bug"):
    main.main(main.Command(config=None, workdir=Path(), mode="train", multihost=False))


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    ({"optimiser__rate": 3}, "optimiser"),  # noticed before JAX is imported,
    ({"mode": "evaluate"}, "checkpoint"),  # before TensorFlow is,
    ({"mode": "prepare", "data__street_world__enabled": False}, "gta5"),  # and after
  ],
)
def test_an_error_is_one_line_and_exit_code_1(tmp_path, fields, expected):
  output = run_process(arguments(tmp_path, **fields), code=1)
  assert output.stdout == ""
  (line,) = output.stderr.splitlines()
  assert expected in line
  assert not (tmp_path / "run").exists()


IMPORTED = """
import runpy, sys
sys.argv = {argv!r}
try:
  runpy.run_module("corda_jax.main", run_name="__main__", alter_sys=True)
except SystemExit as stop:
  print(stop.code, file=sys.stderr)
print(*(name for name in ("jax", "tensorflow", "orbax") if name in sys.modules))
"""


def imported_by(flags):
  """What the command imports, and what it says."""
  code = IMPORTED.format(argv=["main", *flags])
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  return set(result.stdout.splitlines()[-1].split()), result.stderr


@pytest.mark.parametrize(
  ("flags", "imported"),
  [
    ([], set()),
    (["--config=configs/demo.py"], {"jax"}),
    (["--config=configs/demo.py", "--workdir={0}", "--config.num_steps=many"], {"jax"}),
    # What is checked before data are read.
    (["--config=configs/demo.py", "--workdir={0}", "--mode=evaluate"], {"jax", "orbax"}),
    (["--config=configs/demo.py", "--workdir={0}", "--config.model.part=x"], {"jax", "orbax"}),
  ],
)
def test_what_a_mistake_imports(tmp_path, flags, imported):
  found, message = imported_by([flag.format(tmp_path) for flag in flags])
  assert found == imported
  assert message.startswith("error: ")
  assert len(message.splitlines()) == 1


def test_jobs_of_a_trained_network_import_no_tensorflow(finished):
  folder, _ = finished
  image = next((folder / "cityscapes" / "leftImg8bit" / "val").rglob("*.png"))
  fields = {"prediction__input": image, "prediction__output": folder / "elsewhere"}
  code = """
import sys
from absl import flags
from corda_jax import main, command_line
for line in {lines!r}:
  values = flags.FlagValues()
  command_line.define_flags(values, line)
  command = main.parse(line, values)
  main.run(command.config, command.workdir, command.mode)
print("tensorflow" in sys.modules)
"""
  kernel = np.zeros((4, 3, 3, 3), np.float32)
  write_torch_file(folder / "weights.pth", {"conv1.weight": kernel})
  weights = {"workdir": "imported", "initial_weights": folder / "weights.pth"}
  modes = {"predict": {}, "export": {}, "export_torch": {}, "report": {}, "import_torch": weights}
  lines = [["main", *arguments(folder, mode=mode, **fields | more)] for mode, more in modes.items()]
  result = subprocess.run(
    [sys.executable, "-c", code.format(lines=lines)], capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.splitlines()[-1] == "False"


def test_nothing_to_evaluate(tmp_path):
  refused(arguments(tmp_path, mode="evaluate"), "checkpoint", tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_bucket_is_no_workdir(finished):
  folder, _ = finished
  flags = [flag for flag in arguments(folder) if not flag.startswith("--workdir")]
  refused([*flags, "--workdir=gs://bucket/run"], "gs:/", "mount")


def test_unreadable_image(finished, tmp_path):
  shutil.copytree(finished[0] / "gta5", tmp_path / "gta5")
  broken = tmp_path / "gta5" / "images" / "00002.png"
  broken.write_bytes(broken.read_bytes()[:100])
  refused(arguments(tmp_path), broken)
  assert not list(tmp_path.rglob("*.array_record*"))
  assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    ({"optimiser__rate": 3}, ["optimiser"]),
    ({"model__initial_semantics_from": "foo"}, ["model.initial_semantics_from", "foo", "decoder"]),
    ({"config": "configs/demo.py:as_published"}, ["as_published", "as_released"]),
    ({"config": "configs/gta2cs.py:as_written"}, ["as_written", "as_released", "as_published"]),
    ({"config": "configs/your_data.py:as_published"}, ["preset"]),
    ({"config": "configs/none.py"}, ["configs/none.py"]),
    ({"num_steps": "many"}, ["num_steps", "many"]),
    ({"mode": "dance"}, ["dance", "train"]),
    ({"data__batch_size": 0}, ["data.batch_size", 0]),
    ({"data__batch_size": 2}, ["data.batch_size", 2, 4]),
    ({"model__batch_norm_group": 2}, ["model.batch_norm_group", 2, 4]),
  ],
)
def test_what_is_refused_before_anything_is_made(tmp_path, fields, expected):
  refused(arguments(tmp_path, **fields), *expected)
  assert not list(tmp_path.iterdir())


def test_only_training_reads_the_training_batch(tmp_path):
  refused(arguments(tmp_path, mode="evaluate", data__batch_size=2), "checkpoint")


def test_folders_of_data(tmp_path):
  files = {"data__street_world__enabled": False}
  refused(arguments(tmp_path, **files), tmp_path / "gta5")
  assert not (tmp_path / "records").exists() or not list((tmp_path / "records").rglob("*.json"))
  (tmp_path / "gta5" / "pictures").mkdir(parents=True)
  refused(arguments(tmp_path, **files), tmp_path / "gta5", "images")
  (tmp_path / "gta5" / "images").mkdir()
  refused(arguments(tmp_path), tmp_path / "gta5", "street_world")
  (tmp_path / "file").write_text("not a folder")
  refused(arguments(tmp_path, workdir="file/run"), "--workdir", tmp_path / "file")


def test_very_long_errors_are_cut():
  assert shown(UserError("short")) == "short"
  line = shown(UserError("(" * 9_000 + "the end"))
  assert len(line) < 1_010
  assert line.endswith("the end")


def test_missing_flags():
  refused([], "--config")
  refused(["--config=configs/demo.py"], "--workdir")
  refused(["--config", "configs/demo.py", "--workdri=here"], "workdri")  # which absl takes apart
  for field in ("checkpoint_every[0]", "compute.matmul_precision[0]", "evaluation.scales[7]"):
    refused(["--config=configs/demo.py", f"--config.{field}=1", "--workdir=here"], field)
  refused(["--config=README.md", "--workdir=here"], "README.md")
  refused(["--config=configs", "--workdir=here"], "'configs'")
  refused(["--config=configs/demo.py", "--jax_debug_nans"], "JAX_DEBUG_NANS")
  refused(["--config=configs/demo.py", "--workdir=here", "train"], "train")


def test_weights_of_pytorch_in_and_out(tmp_path):
  """Both jobs need no data, and a wrong file leaves nothing behind."""
  weights = {"initial_weights": tmp_path / "weights.pth"}
  (tmp_path / "weights.pth").write_text("<html>")
  for mode in ("import_torch", "train"):
    refused(arguments(tmp_path, mode=mode, **weights), "weights.pth", "web page")
  assert os.listdir(tmp_path) == ["weights.pth"]

  kernel = np.random.RandomState(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
  write_torch_file(tmp_path / "weights.pth", {"conv1.weight": kernel})
  output = run(arguments(tmp_path, mode="import_torch", **weights))
  assert "student: 1 of" in output.stdout
  run(arguments(tmp_path, mode="export_torch"))
  exported = read_torch_file(tmp_path / "run" / "corda.pth")
  np.testing.assert_array_equal(exported["model"]["conv1.weight"], kernel)
  assert sorted(os.listdir(tmp_path)) == ["run", "weights.pth"]


def test_a_file_of_weights_is_used_by_one_command(tmp_path):
  weights = {"initial_weights": tmp_path / "weights.pth"}
  kernel = np.random.RandomState(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
  write_torch_file(weights["initial_weights"], {"conv1.weight": kernel})
  refused(arguments(tmp_path, mode="export", **weights), "weights.pth lacks")
  run(arguments(tmp_path / "first", mode="import_torch", **weights))
  run(arguments(tmp_path / "first", mode="export_torch"))
  whole = {"initial_weights": tmp_path / "first" / "run" / "corda.pth"}
  output = run(arguments(tmp_path, mode="export", **whole))
  assert "Weights of" in output.stdout
  with np.load(tmp_path / "run" / "bundle" / "variables.npz") as variables:
    stem = variables["params/encoder/stem_conv/kernel"]
  np.testing.assert_array_equal(stem, kernel.transpose(2, 3, 1, 0))
  again = run(arguments(tmp_path, mode="export", **whole))
  assert "Weights of" not in again.stdout  # the checkpoint is there
  other = {"initial_weights": tmp_path / "other.pth"}
  refused(arguments(tmp_path, mode="export", **other), "corda.pth", "other.pth", "--workdir")
