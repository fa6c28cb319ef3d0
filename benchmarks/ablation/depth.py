"""What is self-supervised depth worth? Trains depth networks on the street world, then adapts.

    python -m benchmarks.ablation.depth

First the errors of depth networks trained on stereo, on video and on both, beside two baselines,
and their predictions on the same frames, `WORKDIR/networks.png`. Then the target's mIoU after
adaptation with the true depth, with files of each of these networks, with the depth heads' own
photometric training, and without any depth. A restarted command continues where it stopped;
finished runs are not repeated.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.ablation.scores import miou_table
from benchmarks.ablation.seeds import run_once, run_seed
from benchmarks.options import run_command
from configs import demo, depth_street_world
from configs.depth import VIEWS
from corda_jax.depth.camera import disparity_to_depth
from corda_jax.depth.evaluate import DepthEvaluator
from corda_jax.depth.scores import BASELINES, mean_errors
from corda_jax.depth.task import DepthTask
from corda_jax.errors import UserError
from corda_jax.main import run
from corda_jax.metrics import DEPTH_ERRORS
from corda_jax.training.restore import restore_state
from corda_jax.visualize import colorize, write_sheet
from data_pipelines.input_pipeline import as_numpy, evaluation_dataset

TITLE = "target depth from"

# What each method changes in `demo:as_released`. A depth root names the network whose files are
# read, an initial pose the run. Joint runs read a kind of true depth that validation frames have,
# too: it trains nothing and measures the heads.
_JOINT = {
  "terms.depth_files.domains": ("source",),
  "terms.photometric.domains": ("target",),
  "model.initial_inverse_depth": 65.0,
  "data.target.depth": "official",
}
_POSE = "terms.photometric.initial_pose"
_NEIGHBOURS = ("previous", "next")
METHODS = {
  "true depth": {},
  **{
    f"files, {views}": {"data.target.depth": "mono", "data.target.depth_root": views}
    for views in VIEWS
  },
  "joint, stereo": {"data.target.views": ("right",), **_JOINT},
  "joint, video": {"data.target.views": _NEIGHBOURS, **_JOINT},
  "joint, video, trained pose": {
    "data.target.views": _NEIGHBOURS,
    _POSE: "video",
    **_JOINT,
  },
  "no target depth": {"terms.depth_files.domains": ("source",), "data.target.depth": "none"},
  "no depth (DACS)": {"model.depth": False, "model.correlation": False},
}


def main(arguments: list[str] | None = None) -> None:
  """Runs what is missing and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, default=3, help="adaptation runs of each method")
  parser.add_argument(
    "--workdir", type=Path, default=Path("runs/benchmark_depth"), help="folder of all runs"
  )
  parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
  parser.add_argument("--depth_steps", type=int, default=None, help="default: the configuration's")
  parser.add_argument("--steps", type=int, default=None, help="of adaptation; default: the demo's")
  options = parser.parse_args(arguments)
  if options.seeds < 0:
    raise UserError(f"--seeds is {options.seeds}, expected 0 or more")
  # Runs of one method share their compiled step.
  jax.config.update("jax_compilation_cache_dir", str(options.workdir.absolute() / "compiled"))
  started = time.monotonic()
  needed = needed_networks(options.methods if options.seeds else METHODS)
  networks = {views: _depth_network(views, options) for views in needed}
  if networks:
    print(f"\n{depth_table(networks)}\n", flush=True)
    print(f"Pictures: {_sheet(networks, options.workdir)}", flush=True)
  results: dict[str, list[dict[str, Any]]] = {method: [] for method in options.methods}
  for seed in range(options.seeds):  # seed by seed: an incomplete table is still fair
    for method in options.methods:
      results[method].append(_adaptation(method, seed, options))
      print(f"{method}, seed {seed}: target mIoU {results[method][-1]['miou']:.1f} %", flush=True)
  if options.seeds:
    print(f"\n{miou_table(results, TITLE)}")
    print(heads_table(results))
  print(f"\n{time.monotonic() - started:.0f} s on {os.cpu_count()} cores")


def needed_networks(methods: Iterable[str]) -> tuple[str, ...]:
  """Views of the depth networks whose files or weights some of `methods` read."""
  fields = ("data.target.depth_root", _POSE)
  named = {METHODS[method].get(field) for method in methods for field in fields}
  return tuple(views for views in VIEWS if views in named)


def _depth_network(views: str, options: argparse.Namespace) -> dict[str, Any]:
  """Trains a depth network and writes its files; returns its results."""
  config = depth_street_world.get_config(views)
  config.num_steps = options.depth_steps or config.num_steps
  workdir = options.workdir / views
  result = run_once(config, workdir)
  label = config.copy_and_resolve_references()
  label.label_depth.folder = str(options.workdir / "files" / views)
  label.label_depth.encoding = "metric"
  if views == "video":  # it has no scale of its own: takes that of the true median
    label.depth.metres_per_unit *= result["scale"]
  run(label, workdir, "label_depth")
  return result


def _sheet(networks: dict[str, dict[str, Any]], workdir: Path) -> Path:
  """Draws the networks' predictions on the same frames."""
  depths = {}
  for views, result in networks.items():
    config = depth_street_world.get_config(views)
    task = DepthTask.from_config(config)
    count = config.evaluation.pictures
    dataset = evaluation_dataset(
      config.data, split="validation", contents=("image", "inverse_depth"), spread=count
    )
    state = restore_state(task, workdir / views)
    pictures = DepthEvaluator(task).pictures(state, as_numpy(dataset))
    limits = {name: config.depth[name] for name in ("min_depth", "max_depth")}
    depth = disparity_to_depth(pictures["disparity"], **limits) * config.depth.metres_per_unit
    depths[views] = depth * (result["scale"] if result["median_scaling"] else 1)
  path = workdir / "networks.png"
  title = "Depth learned from stereo, from video (times one factor) and from both"
  depth_comparison(pictures["image"], pictures["truth"], depths, title=title, path=path)
  return path


def depth_comparison(
  image: np.ndarray,
  truth: np.ndarray,
  depths: Mapping[str, np.ndarray],
  *,
  title: str,
  path: Path,
) -> None:
  """Writes a PNG with one column per frame: several depths in one colour scale, and their errors.

  Args:
    image: uint8 RGB [N, H, W, 3].
    truth: [N, H, W], metres; NaN where unknown.
    depths: name → [N, H, W], metres.
    title: title at the top.
    path: path of the PNG, which is written atomically.
  """
  write_sheet(_comparison_rows(image, truth, depths), title, path)


def _comparison_rows(
  image: np.ndarray, truth: np.ndarray, depths: Mapping[str, np.ndarray]
) -> list[tuple[str, np.ndarray]]:
  known = ~np.isnan(truth)
  nearness = -np.log(np.where(known, truth, np.nanmax(truth)))
  low, high = np.percentile(nearness[known], (1, 99))

  def shown(nearness):
    return colorize(nearness, low, high, "inferno")

  rows = [
    ("image", image),
    ("truth\n(bright: near,\nblack: unknown)", shown(nearness) * known[..., None]),
  ]
  for name, depth in depths.items():
    error = np.where(known, np.abs(depth - truth) / truth, 0)
    rows.append((name, shown(-np.log(depth))))
    rows.append(
      (f"{name}: error\n(bright: half of\nthe truth or more)", colorize(error, 0, 0.5, "magma"))
    )
  return rows


def _adaptation(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
  config = demo.get_config("as_released")
  config.update_from_flattened_dict(METHODS[method])
  if config.data.target.depth_root:
    folder = options.workdir / "files" / config.data.target.depth_root
    config.data.target.depth_root = str(folder)
  photometric = config.terms.photometric
  if photometric.initial_pose:
    trained = options.workdir / photometric.initial_pose
    photometric.initial_pose = str(trained)
    unit = depth_street_world.get_config("video").depth.metres_per_unit
    scale = json.loads((trained / "results.json").read_text())["scale"]
    photometric.metres_per_unit = unit * scale
  name = re.sub(r"\W+", "_", method).strip("_")
  return run_seed(config, seed, options.steps, options.workdir / f"{name}_{seed}")


def heads_table(results: dict[str, list[dict[str, Any]]]) -> str:
  """Errors of the target's depth head after adaptation, means over seeds, as Markdown, if any.

  Excludes runs that read a network's files: their records hold these instead of the truth.
  """
  lines = ["", f"| depth head, {TITLE} | {' | '.join(DEPTH_ERRORS)} |"]
  lines.append("|---" * (len(DEPTH_ERRORS) + 1) + "|")
  for method, runs in results.items():
    found = [run["depth"] for run in runs if "depth" in run]
    if found and "data.target.depth_root" not in METHODS[method]:
      scaled = " (in proportion)" if found[0]["median_scaling"] else ""
      means = mean_errors(found)
      lines.append(f"| {method}{scaled} | {' | '.join(f'{means[e]:.3f}' for e in means)} |")
  return "\n".join(lines) if len(lines) > 3 else ""


def depth_table(networks: dict[str, dict[str, Any]]) -> str:
  """Errors of the networks and of the baselines, as Markdown."""
  lines = [f"| | {' | '.join(DEPTH_ERRORS)} |", "|---" * (len(DEPTH_ERRORS) + 1) + "|"]
  rows = dict(networks)
  baselines = next(iter(networks.values()))["baselines"]
  rows |= {words: baselines[name] for name, words in BASELINES.items()}
  for name, errors in rows.items():
    lines.append(f"| {name} | {' | '.join(f'{errors[e]:.3f}' for e in DEPTH_ERRORS)} |")
  return "\n".join(lines)


if __name__ == "__main__":
  run_command(main)
