"""The stages for a GPU, run by a stand-in for Python, and the comparison of devices."""

import argparse
import dataclasses
import json
import re
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import devices, gpu, options
from benchmarks.speed.runners import Reference
from corda_jax.errors import UserError
from tests import tiny
from tests.benchmark_commands import as_a_command, numbers, table_rows
from tests.stub_network import stubs_for_networks

ROOT = Path(__file__).parents[1]
STAND_IN = """
import json, os, sys, time
words = sys.argv[1:]
with open("{calls}", "a") as file:
  values = [os.environ.get("XLA_FLAGS", ""), os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]]
  file.write(json.dumps([words, *values]) + chr(10))
print("ran", words[1], flush=True)
if "benchmarks.speed.classifier" in words: sys.exit(3)
if os.environ.get("SLOW", "none") in " ".join(words): time.sleep(100)
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
  """A function that returns the commands that ran: arguments, XLA_FLAGS and the allocator's."""
  stand_in, file = tmp_path / "python", tmp_path / "calls"
  stand_in.write_text(f"#!{sys.executable}\n{STAND_IN.format(calls=file)}")
  stand_in.chmod(0o755)
  monkeypatch.setattr(gpu.sys, "executable", str(stand_in))
  monkeypatch.setenv("XLA_FLAGS", "")
  monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "as it was")
  return lambda: [json.loads(line) for line in file.read_text().splitlines()]


SIZES = {"batches": (1, 2), "platform": "cpu", "height": 64, "config": "demo:as_released"}
SIZES |= {"rounds": 1, "steps": 3}
MODULES = ("devices", "ablation.run", "speed.step", "speed.references", "speed.encoders")
MODULES += ("speed.kernel_gradients", "speed.classifier")


def read_report(folder):
  return json.loads((folder / "stages.json").read_text())


def test_all_stages_are_commands_that_run(calls, tmp_path):
  names = list(gpu.stages(argparse.Namespace(released=tmp_path, out=tmp_path, **SIZES)))
  assert names[:3] == ["devices", "values", "step"]
  assert names.index("training") < names.index("recipes")
  released = tmp_path / "the release"
  (released / "model").mkdir(parents=True)
  (released / "model" / "deeplabv2_gta.py").touch()
  given = ["--batches", "4", "32", "--released", str(released), "--out", str(tmp_path / "out")]
  with pytest.raises(UserError, match=r"not done: kernels:.*kernels\.txt"):  # and others went on
    gpu.main([*given, *names])
  parser = argparse.ArgumentParser()
  options.add_sweep_options(parser)
  parser.add_argument("--reference", action="append", default=[])
  parser.add_argument("--rounds", type=int)
  parser.add_argument("--json", type=Path)
  references, rows = [], []
  modules = {arguments[1] for arguments, *_ in calls()}
  assert modules == {"tests.golden", *(f"benchmarks.{name}" for name in MODULES)}
  for arguments, flags, preallocate in calls():
    assert arguments[0] == "-m"
    place = ROOT / arguments[1].replace(".", "/")
    assert place.with_suffix(".py").exists() or (place / "__main__.py").exists()
    if arguments[1] == "benchmarks.speed.step":
      found = parser.parse_args(arguments[2:])
      name = found.json.stem
      references += [(4, text) for text in found.reference]
      assert preallocate == str(not found.reference).lower()
      for _, config in options.swept_configs(found):  # fields and values that there are
        if name.startswith("recipes"):
          assert config.model.dtype == "bfloat16"
          continue
        assert config.data.crop_height == config.data.crop_width == 512
        precision = f"{config.model.dtype} {config.compute.matmul_precision}"
        kept = not config.compute.rematerialize and not config.compute.one_student_pass
        if kept and name not in ("no_graphs", "forms", "layout"):
          rows.append((config.data.batch_size, precision))
      assert ("command_buffer" in flags) == (name == "no_graphs")
      assert ("nhwc" in flags) == (name == "layout")
    elif arguments[1] == "benchmarks.speed.references":
      references += [(32, text) for text in arguments[2:] if "=" in text]
    elif arguments[1] == "benchmarks.ablation.run":
      assert 0 < float(arguments[arguments.index("--minutes") + 1]) < 24 * 60
  # Each row of the open table in docs/benchmarks.md once; the two batches are others here.
  kinds = {"float32": "float32 highest", "TF32": "float32 default", "bfloat16": "bfloat16 default"}
  text = (ROOT / "docs" / "benchmarks.md").read_text()
  found = re.findall(r"^\| (\d+) \| (float32|TF32|bfloat16) \|", text, re.MULTILINE)
  batches = {"2": 4, "4": 4, "8": 8, "16": 32}
  assert sorted(rows) == sorted((batches[batch], kinds[kind]) for batch, kind in found)
  assert len(references) == 3 * 4
  for batch, option in references:
    words = shlex.split(Reference.parts_of_option(option)[1])
    assert words[1:3] == ["benchmarks/reference/released_step.py", str(released)]
    assert f"--batch={batch}" in words
  section = text.partition("### On a GPU")[2].partition("## ")[0]
  named = re.findall(r"^\| [^|]*\(`(\w+)`(?:, `(\w+)`)?\) \|", section, re.MULTILINE)
  assert len(named) > 7
  assert {name for pair in named for name in pair if name} <= set(names)


def test_what_does_not_fit_is_skipped_and_what_takes_longer_is_stopped(
  calls, tmp_path, monkeypatch
):
  monkeypatch.setenv("SLOW", "layout.json")
  made = gpu.stages(argparse.Namespace(released=None, out=tmp_path, **SIZES))
  assert "large_released" not in made
  assert "--reference" not in made["step"].commands[0]
  stages = {
    "kernels": gpu.Stage(1, made["kernels"].commands, made["kernels"].environment),
    "transformers": gpu.Stage(1000, made["transformers"].commands, {}),
    "layout": gpu.Stage(1, made["layout"].commands, made["layout"].environment),
    "values": gpu.Stage(30, made["values"].commands, made["values"].environment),
  }
  monkeypatch.setattr(gpu, "stages", lambda options: stages)
  since = time.monotonic()
  with pytest.raises(UserError, match="not done: kernels, layout"):
    gpu.main(["--out", str(tmp_path), "--seconds", "31"])
  assert time.monotonic() - since < 50  # not what the stage would take
  report = read_report(tmp_path)
  assert report["kernels"].startswith("failed with code 3")
  assert re.match(r"skipped: 3\d s left, 1000 expected", report["transformers"])
  assert re.fullmatch(r"stopped after [23] s", report["layout"])  # twice what was expected
  assert report["values"].startswith("skipped: ")
  assert [words[1] for words, *_ in calls()] == [
    *("benchmarks.speed.kernel_gradients", "benchmarks.speed.classifier"),
    "benchmarks.speed.step",
  ]
  assert (tmp_path / "kernels.txt").read_text().splitlines() == [
    *("ran benchmarks.speed.kernel_gradients", "ran benchmarks.speed.classifier")
  ]


def test_stages_that_there_are_not(tmp_path):
  with pytest.raises(UserError, match=r"'small', expected some of devices, values, step"):
    gpu.main(["--out", str(tmp_path), "small"])
  with pytest.raises(UserError, match=r"--released is .*none, expected a clone"):
    gpu.main(["--out", str(tmp_path), "--released", str(tmp_path / "none")])


@pytest.mark.slow
def test_a_dry_run_on_the_cpu(tmp_path, monkeypatch):
  made = gpu.stages
  without_limits = lambda options: {  # a CPU takes longer than a GPU  # noqa: E731
    name: dataclasses.replace(stage, fills=True) for name, stage in made(options).items()
  }
  monkeypatch.setattr(gpu, "stages", without_limits)
  given = ["--out", str(tmp_path), "--seconds", "1000"]
  for name, value in SIZES.items():
    given += [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]
  gpu.main([*given, "devices", "step"])
  assert all(state.startswith("done") for state in read_report(tmp_path).values())
  rows = table_rows((tmp_path / "devices.txt").read_text())
  first, in_bfloat16, on_cpu = numbers(rows["1"])
  assert on_cpu == first  # here, the CPU is the device
  assert in_bfloat16 == pytest.approx(first, rel=0.01)
  made = json.loads((tmp_path / "step.json").read_text())["steps"]
  assert len(made) == 2  # types
  for each in made:
    assert len(each["largest"]) == 10
    assert each["largest"][0][2] > each["largest"][9][2] > 0


def test_devices_that_differ_are_an_error(tmp_path, capsys):
  def write(*losses):
    for name, loss in zip(devices.RUNS, losses, strict=True):
      found = {"device": "a device", "losses": {"1": loss, "2": 2 * loss, "7": 1.0}, "miou": 12.0}
      (tmp_path / f"{name}.json").write_text(json.dumps(found))

  labels = np.zeros((2, 50, 50), np.uint8)
  np.save(tmp_path / "cpu_float32.npy", labels)
  np.save(tmp_path / "device_float32.npy", labels)
  write(8.0, 8.1, 8.0 * (1 + 9e-5))
  devices.report(tmp_path)
  rows = table_rows(capsys.readouterr().out)
  assert numbers(rows["2"]) == [16.0, 16.2, 16.00144]
  assert [name for name in rows if "-" not in name] == ["step", "1", "2", "7", "mIoU"]
  for loss in (8.0 * (1 - 2e-4), float("nan")):
    write(8.0, 8.0, loss)
    with pytest.raises(UserError, match=r"first loss differs by (2\.0e-04|nan)"):
      devices.report(tmp_path)
  write(8.0, 8.1, 8.0)
  labels[0, 0, :5] = 1  # of 5,000 pixels
  np.save(tmp_path / "device_float32.npy", labels)
  with pytest.raises(UserError, match=r"0\.100% of the classes differ"):
    devices.report(tmp_path)


@pytest.mark.slow
def test_runs_of_devices(monkeypatch, tmp_path):
  monkeypatch.setattr(options, "load_config", lambda name: tiny.get_config())
  with as_a_command(), stubs_for_networks():
    for name in devices.RUNS:
      devices.main(["--steps", "3", "--frames", "8", "--workdir", str(tmp_path), "--run", name])
  found = [json.loads((tmp_path / f"{name}.json").read_text()) for name in devices.RUNS]
  assert found[0] == found[2]  # here, the CPU is the device
  assert found[1] != found[2]  # bfloat16
  devices.report(tmp_path)
