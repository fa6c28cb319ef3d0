"""How fast is the gradient of a 3x3 kernel, by a convolution and by matrix products?

    python -m benchmarks.speed.kernel_gradients

Operations a second of both forms of `corda_jax.models.operations`, and of the convolution itself,
batch 2, float32: at the recipe's sizes for crops of 128 and of 256 pixels, and at narrower ones.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.options import run_command
from corda_jax.models.operations import (
  convolve,
  kernel_gradient_by_convolution,
  kernel_gradient_by_products,
)

# Height and width, channels in and out, dilation.
_SIZES = (
  *((16, 256, 2), (16, 512, 4), (32, 256, 2), (32, 512, 4)),
  *((16, 128, 1), (24, 128, 1), (32, 128, 1), (32, 64, 1), (64, 64, 1)),
  *((24, 64, 1), (48, 64, 1), (48, 32, 1), (96, 32, 1), (96, 16, 1)),
)
_BATCH, _REPEATS = 2, 5


def main() -> None:
  """Times and prints a row for each size."""
  device = jax.devices()[0]
  print(f"{device.device_kind} ({device.platform}), JAX {jax.__version__}; GFLOP/s\n")
  print("| size, channels, dilation | convolution | gradient by it | by products |")
  print("|---" * 4 + "|")
  for size, channels, dilation in _SIZES:
    rates = measure(size, channels, dilation)
    cells = " | ".join(f"{rate / 1e9:.0f}" for rate in rates)
    print(f"| {size}x{size}, {channels}, {dilation} | {cells} |", flush=True)


def measure(size: int, channels: int, dilation: int) -> list[float]:
  """Operations a second of the convolution and of both forms of its kernel's gradient."""
  random = np.random.default_rng(0)
  x, cotangent = random.standard_normal((2, _BATCH, size, size, channels), np.float32)
  kernel = random.standard_normal((3, 3, channels, channels), np.float32)
  given = {"padding": dilation, "dilation": dilation}
  gradients = [
    functools.partial(form, shape=kernel.shape, **given)
    for form in (kernel_gradient_by_convolution, kernel_gradient_by_products)
  ]
  seconds = [
    fastest(functools.partial(convolve, stride=1, **given), x, kernel),
    *(fastest(gradient, x, cotangent) for gradient in gradients),
  ]
  operations = 2 * _BATCH * size**2 * 9 * channels**2
  return [operations / each for each in seconds]


def fastest(function: Callable[..., Any], *arguments: Any) -> float:
  """Seconds of the fastest of several calls, without compilation."""
  compiled, arguments = jax.jit(function), jax.device_put(arguments)
  jax.block_until_ready(compiled(*arguments))
  seconds = []
  for _ in range(_REPEATS):
    started = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    seconds.append(time.perf_counter() - started)
  return min(seconds)


if __name__ == "__main__":
  run_command(main)
