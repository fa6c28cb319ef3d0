"""The depth benchmark's runs can be built, and its tables hold what the runs gave."""

import argparse

import jax
import pytest

from benchmarks import depth as benchmark
from benchmarks import depth_step
from benchmarks.scores import miou_table
from configs import demo, depth_street_world
from corda_jax.jobs.depth_experiment import DepthExperiment
from corda_jax.jobs.experiment import Experiment
from corda_jax.metrics import DEPTH_ERRORS
from tests import tiny_depth


@pytest.mark.parametrize("method", benchmark.METHODS)
def test_every_method_can_be_built(method):
  config = demo.get_config()
  config.update_from_flattened_dict(benchmark.METHODS[method])
  experiment = Experiment.from_config(config)
  heads = {name for name in experiment.state_shapes().params if name.startswith("final_D")}
  assert bool(heads) == (method != "no depth (DACS)")
  assert (experiment.joint is not None) == method.startswith("joint")
  assert (experiment.state_shapes().pose is not None) == method.startswith("joint, video")


@pytest.mark.parametrize("views", benchmark.VIEWS)
def test_every_depth_network_can_be_built(views):
  experiment = DepthExperiment.from_config(depth_street_world.get_config(views))
  assert (experiment.models.pose is not None) == (views != "stereo")


def test_tables():
  errors = {name: place / 10 for place, name in enumerate(DEPTH_ERRORS)}
  floors = {"constant": dict.fromkeys(DEPTH_ERRORS, 5.0), "rows": dict.fromkeys(DEPTH_ERRORS, 4.0)}
  lines = benchmark.depth_table({"stereo": errors | {"floors": floors}}).splitlines()
  assert lines[2] == "| stereo | 0.000 | 0.100 | 0.200 | 0.300 | 0.400 | 0.500 | 0.600 |"
  assert lines[3].startswith("| best constant | 5.000")
  assert lines[4].startswith("| best constant a row | 4.000")
  table = miou_table({"true depth": [{"miou": 40.0}, {"miou": 42.0}]}, benchmark.TITLE)
  assert table.splitlines()[0] == "| target depth from | mIoU, mean ± spread | seeds |"
  assert miou_table({}).startswith("| | mIoU")
  assert table.splitlines()[2] == "| true depth | 41.0 ± 1.4 | 40.0, 42.0 |"


def test_networks_are_trained_for_methods_that_read_their_files():
  assert benchmark.needed_networks(benchmark.METHODS) == ("stereo", "video", "both")
  assert benchmark.needed_networks(["files, both", "true depth"]) == ("both",)
  assert benchmark.needed_networks(["joint, video"]) == ()
  assert benchmark.needed_networks(["joint, video, trained pose"]) == ("video",)


def test_depth_heads_are_told_where_they_are_measured():
  runs = [
    {"depth": dict.fromkeys(DEPTH_ERRORS, value) | {"median_scaling": True}} for value in (0.1, 0.2)
  ]
  results = {"joint, video": runs, "files, stereo": runs, "no depth (DACS)": [{}]}
  lines = benchmark.heads_table(results).splitlines()
  assert len(lines) == 4
  assert benchmark.heads_table({"no depth (DACS)": [{}]}) == ""
  assert lines[3].startswith("| joint, video (in proportion) | 0.150 | 0.150")


def test_files_of_video_get_their_scale_from_the_truth(monkeypatch, tmp_path):
  done = []
  monkeypatch.setattr(benchmark, "run_once", lambda config, workdir: {"scale": 20.0})
  monkeypatch.setattr(benchmark, "run", lambda *arguments: done.append(arguments))
  options = argparse.Namespace(workdir=tmp_path, depth_steps=None)
  for views in benchmark.VIEWS:
    benchmark._depth_network(views, options)
  scale = depth_street_world.get_config().depth.metres_per_unit
  for (config, workdir, mode), views in zip(done, benchmark.VIEWS, strict=True):
    assert (workdir, mode) == (tmp_path / views, "label_depth")
    assert config.label_depth.folder == str(tmp_path / "files" / views)
    assert config.depth.metres_per_unit == (20 * scale if views == "video" else scale)


def test_every_run_has_a_folder_of_its_own(monkeypatch, tmp_path):
  folders = {}

  def run_seed(config, seed, steps, workdir):
    folders[workdir.name] = config

  monkeypatch.setattr(benchmark, "run_seed", run_seed)
  options = argparse.Namespace(workdir=tmp_path, steps=None)
  (tmp_path / "video").mkdir()
  (tmp_path / "video" / "results.json").write_text('{"scale": 20.0}')
  for method in benchmark.METHODS:
    benchmark._adaptation(method, 1, options)
  assert len(folders) == len(benchmark.METHODS)
  assert all(name.replace("_", "").isalnum() for name in folders)
  root = folders["files_video_1"].data.target.depth_root
  assert root == str(tmp_path / "files" / "video")
  joint = folders["joint_video_trained_pose_1"]
  assert joint.initial_pose == str(tmp_path / "video")
  scale = depth_street_world.get_config().depth.metres_per_unit
  assert joint.method.photometric.metres_per_unit == 20 * scale


@pytest.mark.long
def test_a_step_is_split_into_its_parts():
  experiment = DepthExperiment.from_config(tiny_depth.get_config(("right", "previous")))
  with jax.numpy_dtype_promotion("standard"):  # the library's Adam mixes types
    parts = depth_step.measure(experiment, repeats=1)
  assert min(parts.values()) > 0
  report = depth_step.report(experiment, parts)
  for part in ("depth network", "… its encoder", "pose network", "… its warps", "… its SSIM"):
    assert f"| {part} |" in report
