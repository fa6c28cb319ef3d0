r"""How fast are the transformer encoders, beside Hugging Face's in PyTorch?

    python -m benchmarks.speed.encoders --python ENV/bin/python --sizes 256 512
    python -m benchmarks.speed.encoders --compile B5 L

Times forward passes, and forward passes with the gradients of all parameters, on random images in
memory: MiT-B0, MiT-B2, DINOv2's ViT-S and, forward, Depth Anything V2 Small (on images twice as
wide as high), in turn with `benchmarks/reference/transformers_step.py`,
which `--python` runs in an environment of its own with PyTorch and transformers. Vision
Transformers see the multiple of 14 pixels below each size. `--compile` prints the seconds of
tracing and compiling instead, of forward pass and gradients.
"""

import argparse
import contextlib
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.options import run_command
from benchmarks.speed.runners import FAILURES, Reference, device_name, time_in_turn
from corda_jax.errors import first_line
from corda_jax.models.depth_anything import depth_anything
from corda_jax.models.encoders.mix_transformer import mix_transformer
from corda_jax.models.encoders.vision_transformer import dinov2

_MITS, _DEPTH = ("B0", "B1", "B2", "B3", "B4", "B5"), ("DA-S", "DA-B", "DA-L")
NETWORKS = (*_MITS, "S", "B", "L", "g", *_DEPTH)
_REFERENCE = Path(__file__).parents[1] / "reference" / "transformers_step.py"
_PATCH = 14


class EncoderStep:
  """A compiled pass of an encoder, on one batch in memory.

  Attributes:
    name: name of its row.
    compile_seconds: seconds of tracing and compiling.
  """

  def __init__(
    self, name: str, size: str, *, pixels: tuple[int, int], options: argparse.Namespace, train: bool
  ):
    """Builds and compiles.

    Args:
      name: name of its row.
      size: of `NETWORKS`.
      pixels: height and width of the images.
      options: options of the command.
      train: whether gradients are taken, too.
    """
    self.name = name
    dtype = jnp.dtype(options.dtype)
    shape = (options.batch, *pixels, 3)
    x = jnp.asarray(np.random.RandomState(0).standard_normal(shape), dtype)
    if size in _DEPTH:
      network = depth_anything(size.removeprefix("DA-"))
      network = network.clone(encoder=network.encoder.clone(dtype=dtype), dtype=dtype)
      call = {}
    else:
      network = (mix_transformer if size in _MITS else dinov2)(size).clone(dtype=dtype)
      if hasattr(network, "levels"):  # the last one alone, as transformers gives it
        network = network.clone(levels=network.levels[-1:])
      call = {"train": train, "method": "features"}

    def features(params, x):
      found = network.apply({"params": params}, x, **call)
      return found if isinstance(found, list) else [found]

    def loss(params, x):
      return sum(f.astype(jnp.float32).mean() for f in features(params, x))

    function = jax.value_and_grad(loss) if train else features
    params = jax.jit(lambda: network.init(jax.random.key(0), x[:1], **call)["params"])()
    started = time.perf_counter()
    self._compiled = jax.jit(function).lower(params, x).compile()
    self.compile_seconds = time.perf_counter() - started
    self._arguments = (params, x)

  def run(self, steps: int) -> float:
    """Seconds that so many passes take."""
    started = time.perf_counter()
    for _ in range(steps):
      result = self._compiled(*self._arguments)
    jax.block_until_ready(result)
    return time.perf_counter() - started


def main(arguments: list[str] | None = None) -> None:
  """Times and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--networks", nargs="+", default=["B0", "B2", "S", "DA-S"], choices=NETWORKS)
  parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512], help="sides of images")
  parser.add_argument("--batch", type=int, default=2)
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  parser.add_argument("--python", default="", help="that has PyTorch and transformers")
  parser.add_argument("--rounds", type=int, default=5, help="timings of each")
  parser.add_argument("--steps", type=int, default=2, help="of a timing")
  parser.add_argument("--compile", nargs="+", default=[], choices=NETWORKS, metavar="NETWORK")
  options = parser.parse_args(arguments)
  if options.compile:
    print(compile_table(options))
    return
  head = (
    f"{device_name()}, {options.dtype}, batch {options.batch}, JAX {jax.__version__}: "
    f"ms, median (fastest) of {options.rounds}",
    "",
    "| network | size | pass | transformers | ours | transformers / ours |",
    "|---|---|---|---|---|---|",
  )
  print(*head, sep="\n", flush=True)
  for size in options.networks:
    for side in options.sizes:
      for train in (False,) if size in _DEPTH else (False, True):
        try:
          print(row(size, side, options, train), flush=True)
        except FAILURES as error:  # the other rows go ahead
          print(f"| {_title(size)} | {side} | {first_line(error)} | | | |", flush=True)


def row(size: str, side: int, options: argparse.Namespace, train: bool) -> str:
  """Times one network at one size, and gives its row."""
  height, width = pixels = _pixels(size, side)
  name, kind = _title(size), "gradients" if train else "forward"
  with contextlib.ExitStack() as stack:
    runners: list[Any] = [EncoderStep("ours", size, pixels=pixels, options=options, train=train)]
    if options.python:
      command = (
        f"{options.python} {_REFERENCE} {size} --height {height} --width {width} "
        f"--batch {options.batch} --dtype {options.dtype} {'--train' if train else ''}"
      )
      runners.append(stack.enter_context(Reference("transformers", command)))
    seconds, failed = time_in_turn(runners, rounds=options.rounds, steps=options.steps)

  def cell(runner):
    if runner not in seconds:
      return failed.get(runner, "")
    each = [1e3 * s for s in seconds[runner]]
    return f"{statistics.median(each):,.0f} ({min(each):,.0f})"

  both = len(seconds) == 2
  ratio = (
    statistics.median(seconds["transformers"]) / statistics.median(seconds["ours"]) if both else 0
  )
  return (
    f"| {name} | {width}x{height} | {kind} | {cell('transformers')} | {cell('ours')} | "
    f"{f'{ratio:.2f}' if both else ''} |"
  )


def compile_table(options: argparse.Namespace) -> str:
  """Seconds of compilation; networks of one shape of blocks differ in depth alone."""
  lines = ["| network | blocks | compilation, s |", "|---|---|---|"]
  for size in options.compile:
    try:
      pixels = _pixels(size, options.sizes[0])
      step = EncoderStep(size, size, pixels=pixels, options=options, train=True)
    except FAILURES as error:
      lines.append(f"| {_title(size)} | | {first_line(error)} |")
      continue
    vision = size.removeprefix("DA-")
    blocks = sum(mix_transformer(size).depths) if size in _MITS else dinov2(vision).depth
    lines.append(f"| {_title(size)} | {blocks} | {step.compile_seconds:.1f} |")
  return "\n".join(lines)


def _pixels(size: str, side: int) -> tuple[int, int]:
  """Height and width of the images, of whole patches where the network has such."""
  if size in _MITS:
    return side, side
  height = side // _PATCH * _PATCH
  return height, (2 if size in _DEPTH else 1) * height


def _title(size: str) -> str:
  if size in _DEPTH:
    return f"Depth Anything V2 {size.removeprefix('DA-')}"
  return f"MiT-{size}" if size in _MITS else f"ViT-{size} of DINOv2"


if __name__ == "__main__":
  run_command(main)
