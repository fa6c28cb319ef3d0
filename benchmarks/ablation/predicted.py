"""Depth of the street world by a network that saw no depth: for `benchmarks.ablation.run`.

    python -m benchmarks.ablation.predicted --workdir runs/depth_of_all

trains one network on the stereo pairs of both synthetic cities and of the real one at several gaps,
in memory, and reports its errors on other frames of each. `benchmarks.ablation.run --depth_run
runs/depth_of_all` then takes its predictions in place of the true depth, everywhere.
"""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.ablation.world import Frames, render, whole_frames
from benchmarks.memory import MemoryFeed, NoWriter
from benchmarks.options import run_command
from configs import depth_street_world
from corda_jax.atomic_io import atomic_write
from corda_jax.depth.camera import disparity_to_depth
from corda_jax.depth.evaluate import DepthEvaluator
from corda_jax.depth.inverse_depth import from_metres
from corda_jax.depth.task import DepthTask
from corda_jax.pretrained.depth_weights import weights_digest
from corda_jax.resize import resize_centered
from corda_jax.training.restore import restore_state
from corda_jax.training.run_files import check_config, record_config
from corda_jax.training.sharding import make_mesh
from corda_jax.training.train_loop import train
from data_pipelines.street_world.scene import BASELINE

SIZE = (96, 192)  # at which depth is learned: the ablation's frames have 72x144
_GAPS = (1.0, 1.5)
_BATCH = 50  # frames that are predicted together


def main(arguments: list[str] | None = None) -> None:
  """Trains what is missing; prints errors by city."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", type=Path, default=Path("runs/depth_of_all"))
  parser.add_argument("--frames", type=int, default=600, help="training streets of each city")
  parser.add_argument("--validation_frames", type=int, default=100, help="of each city")
  parser.add_argument("--steps", type=int, default=6_000)
  options = parser.parse_args(arguments)
  jax.config.update("jax_compilation_cache_dir", str(options.workdir.absolute() / "compiled"))
  config = depth_street_world.get_config("stereo")
  config.num_steps, config.evaluate_every = options.steps, options.steps
  config.optimizer.decay_at = (options.steps * 3 // 4,)
  config.evaluation.pictures = config.draw_every = 0
  frames = options.workdir / "frames"
  cities = {
    **{layout: (layout, 0.0) for layout in ("gta5", "synthia")},
    **{f"real, gap {gap}": ("cityscapes", gap) for gap in _GAPS},
  }
  shared = {"seed": config.data.street_world.seed, "height": SIZE[0], "width": SIZE[1]}

  def of_city(city, split, count, **more):
    layout, gap = cities[city]
    return render(layout, split, count, gap=gap, folder=frames, **shared, **more)

  every = [of_city(city, "train", options.frames, right=True) for city in cities]
  task = _task(config)
  options.workdir.mkdir(parents=True, exist_ok=True)
  check_config(options.workdir, config.to_dict())
  record_config(options.workdir, config.to_dict())
  validation = {city: of_city(city, "val", options.validation_frames) for city in cities}
  feed = MemoryFeed(
    functools.partial(_batches, every, config),
    lambda: whole_frames(validation["real, gap 1.0"], config.data.evaluation_batch_size),
  )
  train(task, options.workdir, feed, NoWriter())
  state = restore_state(task, options.workdir)
  print("\n| city | abs rel | best constant a row |\n|---|---|---|")
  for city, found in validation.items():
    batches = functools.partial(whole_frames, found, config.data.evaluation_batch_size)
    result = DepthEvaluator(task).score(state, batches)
    print(f"| {city} | {result['abs_rel']:.3f} | {result['baselines']['rows']['abs_rel']:.3f} |")


def _task(config: Any) -> DepthTask:
  """The network is so small that one device suffices."""
  return DepthTask.from_config(config, make_mesh(jax.local_devices()[:1]))


def _batches(cities: list[Frames], config: Any, start: int) -> Iterator[dict[str, np.ndarray]]:
  """Endless batches of whole frames, as many of each city; a batch depends on its number alone."""
  step, size = start, config.data.batch_size
  while True:
    random = np.random.default_rng((config.seed, step))
    parts = [cities[(step * size + i) % len(cities)] for i in range(size)]
    places = [random.integers(len(part.image)) for part in parts]
    chosen = list(zip(parts, places, strict=True))
    yield {
      "target_image": np.stack([part.image[place] for part, place in chosen]),
      "target_right_image": np.stack([part.right_image[place] for part, place in chosen]),
      "target_intrinsics": np.stack([part.intrinsics[place] for part, place in chosen]),
      "target_baseline": np.full(size, BASELINE, np.float32),
    }
    step += 1


def add_depth_run(parser: argparse.ArgumentParser) -> None:
  """Adds the option --depth_run, for `PredictedDepth`."""
  parser.add_argument(
    "--depth_run", type=Path, help="folder of benchmarks.ablation.predicted: depth by that network"
  )


class PredictedDepth:
  """Predictions of a network of `main`.

  Args:
    run: its folder.

  Attributes:
    run: its folder.
    digest: identifies its weights.
  """

  def __init__(self, run: Path):
    """Restores the network."""
    self.run = run
    self._task = _task(depth_street_world.get_config("stereo"))
    self._state = restore_state(self._task, run)
    self.digest = weights_digest(self._state)

  def __call__(
    self, layout: str, split: str, count: int, *, size: tuple[int, int], **world: Any
  ) -> np.ndarray:
    """Inverse depth of the first frames of a split, float32 [N, H, W]; kept in the run's folder.

    Args:
      layout: "gta5", "synthia" or "cityscapes".
      split: "train" or "val".
      count: number of frames.
      size: (H, W) of the result.
      **world: "seed" and "gap" of the world.
    """
    name = f"{layout}_{split}_{count}_{size[1]}x{size[0]}_{world['seed']}_{world['gap']:g}"
    path = self.run / f"predicted_{self.digest}_{name}.npy"
    if not path.exists():
      frames = render(
        layout, split, count, height=SIZE[0], width=SIZE[1], folder=self.run / "frames", **world
      )
      found = self._predicted(frames, size)
      with atomic_write(path, unique=True) as partial, open(partial, "wb") as file:
        np.save(file, found)
    return np.load(path)

  def _predicted(self, frames: Frames, size: tuple[int, int]) -> np.ndarray:
    batches = (
      {name: batch[name] for name in ("image", "valid")} for batch in whole_frames(frames, _BATCH)
    )
    disparity = DepthEvaluator(self._task).pictures(self._state, batches)["disparity"]
    depth = self._task.config.depth
    limits = {"min_depth": depth.min_depth, "max_depth": depth.max_depth}
    metres = disparity_to_depth(disparity, **limits) * depth.metres_per_unit
    return np.asarray(resize_centered(from_metres(metres)[..., None], size))[..., 0]


if __name__ == "__main__":
  run_command(main)
