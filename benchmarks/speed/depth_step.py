"""Where does a step of the depth stage spend its time?

    python -m benchmarks.speed.depth_step
    python -m benchmarks.speed.depth_step --config depth_cityscapes --batch 1 --repeats 3

Times the whole step and each of its parts alone, with gradients where the step takes them, on
batches in memory. The parts do not add up to the step exactly: alone, a part cannot share work with
others, and the compiler cannot join it to them.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.options import load_config, run_command
from benchmarks.speed.runners import device_name
from corda_jax.depth import camera, photometric
from corda_jax.depth.motion import are_temporal, image_names, temporal_views
from corda_jax.depth.step import draw, jittered_input
from corda_jax.depth.task import DepthTask


def main(arguments: list[str] | None = None) -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", default="depth_street_world", help="name of a file in configs/")
  parser.add_argument("--views", default="both", help="stereo, video or both")
  parser.add_argument("--batch", type=int, default=None, help="default: the configuration's")
  parser.add_argument("--repeats", type=int, default=20, help="timings; the fastest is shown")
  options = parser.parse_args(arguments)
  config = load_config(f"{options.config}:{options.views}")
  config.data.batch_size = options.batch or config.data.batch_size
  task = DepthTask.from_config(config)
  parts = measure(task, options.repeats)
  print(report(task, parts))


Part = tuple[Callable[..., Any], tuple]  # a compiled function and its arguments


def measure(task: DepthTask, repeats: int) -> dict[str, float]:
  """Part → milliseconds, the fastest of `repeats`."""
  functions = _parts(task)
  for function, arguments in functions.values():
    jax.block_until_ready(function(*arguments))  # compiles
  times = {name: [] for name in functions}
  for _ in range(repeats):  # in turn: other load on the machine affects all alike
    for name, (function, arguments) in functions.items():
      started = time.perf_counter()
      jax.block_until_ready(function(*arguments))
      times[name].append(1e3 * (time.perf_counter() - started))
  return {name: min(values) for name, values in times.items()}


def _parts(task: DepthTask) -> dict[str, Part]:
  random = np.random.RandomState(0)
  batch = _random_batch(task, random)
  state, key = task.initial_state(), jax.random.key(0)
  return {
    "the whole step": (jax.jit(task.make_step()), (state, batch, key)),
    **_network_parts(task, state, _uniform(random, *batch["image"].shape)),
    **_loss_parts(task, batch, random),
  }


def _random_batch(task: DepthTask, random: np.random.RandomState) -> dict[str, jax.Array]:
  data = task.config.data
  shape = (data.batch_size, data.crop_height, data.crop_width)
  batch = {
    name: jnp.asarray(random.randint(0, 256, (*shape, 3)), jnp.uint8)
    for name in image_names(task.views)
  }
  camera_of = (1.1 * shape[2], 1.1 * shape[2], shape[2] / 2, shape[1] / 2)
  batch["intrinsics"] = jnp.tile(jnp.array(camera_of, jnp.float32), (shape[0], 1))
  batch["baseline"] = jnp.full(shape[0], 0.2, jnp.float32)
  return batch


def _uniform(random: np.random.RandomState, *size: int) -> jax.Array:
  return jnp.asarray(random.uniform(0.1, 0.9, size), jnp.float32)


def _network_parts(task: DepthTask, state: Any, x: jax.Array) -> dict[str, Part]:
  """The networks with gradients of their parameters, and the jitter of what they see."""
  models = task.models
  neighbours = len(temporal_views(task.views))

  def squares(network, name, params, *inputs, **options):
    outputs, _ = network.apply(
      {"params": params, "batch_stats": state.batch_stats[name]},
      *inputs,
      train=True,
      mutable=["batch_stats"],
      **options,
    )
    return sum((y * y).sum() for y in outputs)

  def depth(params, x):
    return squares(models.depth, "depth", params, x)

  def encode(params, x):
    def features(network, x, train):
      return network.encoder.features(x, train=train)

    return squares(models.depth, "depth", params, x, method=features)

  def pose(params, first, second):
    return squares(models.pose, "pose", params, first, second)

  def jitter(key, x):
    draws = draw(key, len(x), task.step.config)
    return [jittered_input(x, draws, task.normalization) for _ in range(1 + neighbours)]

  parts = {
    "depth network": (jax.jit(jax.grad(depth)), (state.params["depth"], x)),
    "its encoder": (jax.jit(jax.grad(encode)), (state.params["depth"], x)),
    "colour jitter": (jax.jit(jitter), (jax.random.key(0), x)),
  }
  if models.pose is not None:
    pairs = (jnp.concatenate([x] * neighbours),) * 2
    parts["pose network"] = (jax.jit(jax.grad(pose)), (state.params["pose"], *pairs))
  return parts


def _loss_parts(
  task: DepthTask, batch: dict[str, jax.Array], random: np.random.RandomState
) -> dict[str, Part]:
  """The photometric loss with gradients of the disparities, and its most expensive parts."""
  views, config = task.views, task.step.config
  shape = batch["image"].shape[:3]
  target, sources = _uniform(random, *shape, 3), _uniform(random, len(views), *shape, 3)
  transforms = jnp.stack([camera.stereo_matrix(batch["baseline"])] * len(views))
  scene = photometric.Views(target, sources, transforms, batch["intrinsics"], are_temporal(views))
  disparities = [_uniform(random, shape[0], shape[1] >> s, shape[2] >> s, 1) for s in range(4)]
  depths = 10 * _uniform(random, 4, *shape)
  warped, cotangent = (_uniform(random, 4, len(views), *shape, 3) for _ in range(2))

  def warp(depths):
    def all_views(depth):
      warp_view = jax.vmap(camera.synthesize_view, (0, None, None, 0))
      return warp_view(sources, depth, scene.intrinsics, transforms)

    return (jax.vmap(all_views)(depths) * cotangent).sum()

  def dissimilarity(warped):
    losses = jax.vmap(jax.vmap(photometric.ssim_loss, (0, None)), (0, None))(warped, target)
    return (losses * cotangent).sum()

  def loss(disparities):
    return photometric.photometric_loss(disparities, scene, config, key=jax.random.key(0))[0]

  return {
    "photometric loss": (jax.jit(jax.grad(loss)), (disparities,)),
    "its warps": (jax.jit(jax.grad(warp)), (depths,)),
    "its SSIM": (jax.jit(jax.grad(dissimilarity)), (warped,)),
  }


def report(task: DepthTask, parts: dict[str, float]) -> str:
  """The times and their shares of the step, as Markdown."""
  data, whole = task.config.data, parts["the whole step"]
  lines = [
    f"{device_name()}, batch {data.batch_size}, "
    f"{data.crop_width}x{data.crop_height}, views {', '.join(task.views)}, "
    f"{data.batch_size / whole * 1e3:.1f} frames/s",
    "",
    "| part | ms | share of the step |",
    "|---|---|---|",
  ]
  parts = parts | {"its decoder": parts["depth network"] - parts["its encoder"]}
  order = (
    "the whole step", "depth network", "its encoder", "its decoder", "pose network",
    "photometric loss", "its warps", "its SSIM", "colour jitter",
  )  # fmt: skip
  for name in order:
    if name in parts:
      indent = "… " if name.startswith("its") else ""
      lines.append(f"| {indent}{name} | {parts[name]:.1f} | {parts[name] / whole:.0%} |")
  return "\n".join(lines)


if __name__ == "__main__":
  run_command(main)
