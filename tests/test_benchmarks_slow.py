"""Every command of benchmarks runs, at a size where it takes seconds, and what it prints holds."""

import dataclasses
import json
import re
import subprocess
import sys
from types import SimpleNamespace

from data_pipelines import quiet_tensorflow  # noqa: F401  # isort: skip (before all its users)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu import metric_writers
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import options
from benchmarks.ablation import (
  depth,
)
from benchmarks.scaling import communication, shared_frames
from benchmarks.speed import (
  depth_step,
  evaluation,
  input_frames,
  input_pipeline,
  logging_cost,
  precision,
  references,
  runners,
  step,
)
from benchmarks.speed.runners import JaxStep, random_batch
from configs import depth_street_world
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.metrics import DEPTH_ERRORS
from tests import tiny, tiny_depth, tiny_joint
from tests.benchmark_commands import as_a_command, numbers, table_rows
from tests.stub_network import stubs_for_networks

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _as_a_command():
  with as_a_command():
    yield


@pytest.fixture
def stub():
  with stubs_for_networks():
    yield


def use_config(monkeypatch, **fields):
  monkeypatch.setattr(options, "load_config", lambda name: tiny.get_config(**fields))


def test_step(stub, monkeypatch, tmp_path):
  use_config(monkeypatch)
  monkeypatch.setattr(step, "_PEAK_SIZES", {"cpu": 64})
  ends = f'ends={sys.executable} -c "print(1)"'  # before it is timed
  fails = f'fails={sys.executable} -c "raise SystemExit(3)"'  # before it is ready
  path = tmp_path / "numbers.json"
  arguments = ["--sweep", "model.dtype", "float32", "bfloat16", "--rounds", "1", "--steps", "1"]
  step.main([*arguments, "--reference", ends, "--reference", fails, "--json", str(path)])
  result = json.loads(path.read_text())
  assert set(result["failed"]) == {"ends", "fails"}
  assert len(result["peaks"]) == len(result["steps"]) == 2
  for variant in result["steps"]:
    assert variant["busy"]["optimizer"] > 0
    assert variant["peak_memory"] > 0
    # Products and convolutions agree; how the rest is counted is a matter of taste.
    counted = variant["operations"]
    assert sum(counted.values()) == pytest.approx(variant["xla_operations"], rel=0.1)
    assert counted["source"] > counted["teacher"] > counted["optimizer"]
    assert counted["mixed"] > counted["teacher"]


def test_step_counts_without_compiling(stub, monkeypatch, capsys):
  use_config(monkeypatch)
  monkeypatch.setattr(jax.stages.Lowered, "compile", None)
  step.main(["--count", "--sweep", "data.batch_size", "40", "400"])
  few, many = (numbers(cells) for cells in list(table_rows(capsys.readouterr().out).values())[2:])
  assert len(many) == len(step.PARTS) + 2
  assert many[-1] == pytest.approx(sum(many[:-1]), abs=len(many))  # of rounded numbers
  assert many[-1] > few[-1]


def test_what_was_timed_is_kept_where_a_closer_look_fails(monkeypatch, tmp_path):
  def run(steps):
    found.append(json.loads(path.read_text()))
    return 2.0 * steps

  def build(options, save):
    save({"made": 3.0})
    return [SimpleNamespace(name="made", compile_seconds=3.0, run=run)], {}

  def fails(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory")

  found, path = [], tmp_path / "numbers.json"
  monkeypatch.setattr(step, "build_variants", build)
  monkeypatch.setattr(step, "measure", fails)
  step.main(["--rounds", "2", "--json", str(path)])
  assert found[0]["compile_seconds"] == {"made": 3.0}
  assert found[2]["seconds"] == {"made": [2.0]}  # after the first round that counts
  result = json.loads(path.read_text())
  assert result["seconds"] == {"made": [2.0, 2.0]}
  assert list(result["failed"].values()) == ["RESOURCE_EXHAUSTED: memory"]


def test_a_device_that_counts_nothing_is_no_obstacle(stub, monkeypatch):
  for kind, name in (("Lowered", "cost"), ("Compiled", "cost"), ("Compiled", "memory")):
    monkeypatch.setattr(getattr(jax.stages, kind), f"{name}_analysis", lambda self: None)
  made = JaxStep.build("tiny", tiny.get_config())
  found = step.measure(made, [made.run(1)])
  assert found["xla_operations"] is found["bytes"] is found["peak_memory"] is None


def test_what_compiling_takes_is_not_read_from_a_cache(tmp_path):
  def compiled(text):
    before = len(list(tmp_path.iterdir()))
    jax.jit(lambda x: x * float(text)).lower(jnp.ones(3)).compile()
    return len(list(tmp_path.iterdir())) - before

  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  compilation_cache.reset_cache()
  try:
    assert compiled("1.5") > 0
    with runners._no_compilation_cache():
      assert compiled("2.5") == 0
    assert compiled("3.5") > 0
  finally:
    compilation_cache.reset_cache()


def test_random_batches_are_what_the_step_reads():
  for case in (tiny_joint.FILES, tiny_joint.EVERYTHING):
    task = tiny_joint.build(case)
    made = task.batch_inputs(random_batch(task.config.data, 19, 0))
    real = task.batch_inputs(tiny_joint.get_batch())
    shapes = [{k: (v.shape, v.dtype) for k, v in batch.items()} for batch in (made, real)]
    assert shapes[0] == shapes[1]
  assert made["source_label"].max() < 19


def test_references_by_themselves_one_after_the_other(tmp_path):
  def program(name, answer):
    code = f"print(1, flush=True)\nfor n in __import__('sys').stdin: print({answer}, flush=True)"
    return f'{name}={sys.executable} -c "{code}"'

  path = tmp_path / "numbers.json"
  lost = f'lost={sys.executable} -c "raise SystemExit(3)"'
  programs = [program("slow", "2 * int(n)"), lost, program("fast", "int(n) / 8")]
  with pytest.raises(UserError, match=r"lost.*3"):
    references.main(["--rounds", "2", "--steps", "4", "--json", str(path), *programs])
  found = json.loads(path.read_text())
  assert found["seconds"] == {"slow": [2.0, 2.0], "fast": [0.125, 0.125]}
  assert list(found["failed"]) == ["lost"]


def test_messages(monkeypatch, capsys):
  use_config(monkeypatch, **{"compute.shard_state": True})
  communication.main(["--sweep", "model.batch_norm_group", "0", "1"])
  rows = table_rows(capsys.readouterr().out)
  counts = {row: numbers(cells) for row, cells in rows.items() if ": all-" in row}
  gathered = [each for row, each in counts.items() if "all-gather" in row]
  assert gathered  # the teacher and the updates
  assert all(whole == in_groups for whole, in_groups in gathered)
  whole, in_groups = np.sum([each for row, each in counts.items() if "all-reduce" in row], axis=0)
  assert whole > 20 * in_groups > 0  # none about the norm of each split gradient
  assert len(numbers(rows["state"])) == 2


def test_shared_frames(monkeypatch, capsys):
  use_config(monkeypatch, **{"data.target.height": 64, "data.target.width": 32})
  shared_frames.main(["--devices", "1", "4"])
  rows = table_rows(capsys.readouterr().out)
  alone, shared = numbers(rows["1"]), numbers(rows["4"])
  assert alone[2:] == [0, 0]
  assert shared[2] > 10
  assert shared[3] > 0


def test_logging_cost(stub, monkeypatch, capsys):
  use_config(monkeypatch, **{"log_every": 2, "evaluation.pictures": 0})
  monkeypatch.setattr(logging_cost, "_FIRST", 2)
  monkeypatch.setattr(logging_cost, "_PERIOD", 2)
  logging_cost.main(["--steps", "8", "--rounds", "2"])
  alone, *loops = list(table_rows(capsys.readouterr().out).values())[2:]
  assert len(loops) == 3
  assert all(numbers(cells[:1])[0] > 0 for cells in (alone, *loops))
  assert all("±" in cells[1] for cells in loops)


def test_evaluation(stub, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(evaluation, "HEIGHT", 32)
  monkeypatch.setattr(evaluation, "WIDTH", 64)
  config = tiny.get_config(**{"data.target.height": 20, "data.target.width": 32})
  monkeypatch.setattr(evaluation, "load_config", lambda name: config)
  evaluation.main(["--frames=6", "--network_frames=1", "--rendered=2", f"--workdir={tmp_path}"])
  rows = table_rows(capsys.readouterr().out)
  assert len(rows) == 2 + 4 + 4 + 1
  assert rows["together: the whole evaluation"][0] == " 4 "  # one frame on each of four devices
  with pytest.raises(UserError, match=r"frames.*0"):
    evaluation.main(["--frames=0"])

  def report_of(device_milliseconds):
    device = [evaluation.Part("network", 1, device_milliseconds)]
    host, whole = [evaluation.Part("batches", 1, 20.0)], evaluation.Part("all", 1, 1.0)
    return evaluation.report(host, device, whole, threads=2, feed=100.0)

  assert re.search(r"device bounds .* 50.0 %", report_of(20.0))
  assert re.search(r"host bounds .* 100.0 %", report_of(5.0))


def test_input_pipeline(tmp_path, monkeypatch, capsys):
  kinds = {
    name: dataclasses.replace(kind, files=(48, 80), size=(40, 64))
    for name, kind in input_pipeline.KINDS.items()
  }
  for module in (input_frames, input_pipeline):
    monkeypatch.setattr(module, "KINDS", kinds)
  fields = {"data.crop_height": 32, "data.crop_width": 48, "data.batch_size": 2}
  monkeypatch.setattr(input_pipeline, "get_config", lambda: tiny.get_config(**fields))
  arguments = ["--frames=4", "--rendered=2", "--seconds=0.05"]
  input_pipeline.main([*arguments, f"--workdir={tmp_path}"])
  printed = capsys.readouterr().out
  rows = table_rows(printed)
  parts = {"decode the image", "map the label", "read", "decode the inverse depth's crop"}
  assert parts | set(kinds) < set(rows)
  assert printed.count("16 cores feed") == 4
  assert len(list((tmp_path / "gta5_2_4" / "images").iterdir())) == 4
  with pytest.raises(UserError, match=r"frames.*0"):
    input_pipeline.main(["--frames=0"])
  fast = input_pipeline.Result(1.0, 1.0, {"a": 80.0}, {"b": 3.0, "c": 2.0})
  slow = input_pipeline.Result(1.0, 1.0, {"a": 120.0}, {"b": 13.0, "c": 2.0})
  line = input_pipeline.projection({"gta5": fast, "mono": slow}, "gta5", "mono")
  found = re.findall(r"\d+(?:\.\d)?", line.partition(":")[2])
  assert " ".join(found) == "100 10.0 16 400 2 2 100 25"


def test_depth_step(monkeypatch, capsys):
  config = tiny_depth.get_config(("right", "previous"))
  monkeypatch.setattr(depth_step, "load_config", lambda name: config)
  depth_step.main(["--repeats", "1"])
  rows = {
    row: cells for row, cells in table_rows(capsys.readouterr().out).items() if "%" in cells[1]
  }
  assert {"depth network", "… its encoder", "pose network", "… its warps", "… its SSIM"} < set(rows)
  assert all(numbers(rows[row])[0] >= 0 for row in rows if row != "… its decoder")


def test_depth(monkeypatch, tmp_path, capsys):
  """All but the runs themselves."""
  errors = dict.fromkeys(DEPTH_ERRORS, 1.0)
  result = errors | {"baselines": {"constant": errors, "rows": errors}}
  result |= {"scale": 20.0, "median_scaling": True}
  adapted, labelled, read = {}, {}, {}

  def run_once(config, workdir):
    workdir.mkdir()
    (workdir / "results.json").write_text(json.dumps(result))
    return result

  def run(config, workdir, mode):
    labelled[config.label_depth.folder] = config.depth.metres_per_unit

  def run_seed(config, seed, steps, workdir):
    adapted[workdir.name] = AdaptationTask.from_config(config)
    return {"miou": 40.0 + seed, "depth": errors | {"median_scaling": True}}

  def pictures(self, state, batches):
    return {"image": 0, "truth": 0, "disparity": jnp.ones((1, 2, 2))}

  def compare(image, truth, depths, *, title, path):
    read.update(depths)

  for name, function in (("run_once", run_once), ("run", run), ("run_seed", run_seed)):
    monkeypatch.setattr(depth, name, function)
  monkeypatch.setattr(depth, "restore_state", lambda *_: None)
  monkeypatch.setattr(depth.DepthEvaluator, "pictures", pictures)
  monkeypatch.setattr(depth, "depth_comparison", compare)
  monkeypatch.setattr(depth, "evaluation_dataset", lambda *_, **options: options)
  monkeypatch.setattr(depth, "as_numpy", lambda options: options)
  depth.main(["--seeds", "2", "--workdir", str(tmp_path)])
  unit = depth_street_world.get_config().depth.metres_per_unit
  scales = {"stereo": 1, "video": 20, "both": 1}  # video has none of its own
  assert labelled == {str(tmp_path / "files" / v): unit * scale for v, scale in scales.items()}
  assert set(read) == set(scales)
  assert len(adapted) == 2 * len(depth.METHODS)  # each in a folder of its own
  for name, experiment in adapted.items():
    heads = name[:-2] != "no_depth_DACS"
    assert experiment.has_depth_heads == heads
    views = "views" in experiment.step.depth_from("target")
    assert views == name.startswith("joint")
  root = adapted["files_video_1"].config.data.target.depth_root
  assert root == str(tmp_path / "files" / "video")
  joint = adapted["joint_video_trained_pose_1"].config
  assert joint.terms.photometric.initial_pose == str(tmp_path / "video")
  assert joint.terms.photometric.metres_per_unit == 20 * unit
  printed = capsys.readouterr().out
  assert "| true depth | 40.5 ± 0.7 | 40.0, 41.0 |" in printed
  assert printed.count("(in proportion)") == len(depth.METHODS) - 3  # of files there is no truth
  assert depth.needed_networks(["files, both", "true depth"]) == ("both",)
  assert depth.needed_networks(["joint, video"]) == ()


def test_curves_of_runs_are_read_whole(tmp_path):
  for number, last in enumerate((200, 199)):
    writer = metric_writers.SummaryWriter(str(tmp_path / str(number) / "tensorboard"))
    for place in range(1, last + 1):
      losses = {f"train/{name}": place / 4 for name in ("total", "ce_src", "ce_mix")}
      writer.write_scalars(place, losses)
    writer.close()
  curves = precision.read_curves(tmp_path / "0")
  assert sorted(curves) == ["ce_mix", "ce_src", "total"]
  for values in curves.values():
    np.testing.assert_array_equal(values, np.arange(1, 201) / 4)
  with pytest.raises(UserError, match=r"total.*200"):
    precision.read_curves(tmp_path / "1")


@pytest.mark.parametrize("name", ["speed.classifier", "speed.kernel_gradients"])
def test_commands_without_options(name):
  result = subprocess.run(
    [sys.executable, "-m", f"benchmarks.{name}"], capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  assert len(table_rows(result.stdout)) > 2
