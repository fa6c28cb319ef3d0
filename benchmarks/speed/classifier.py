"""How fast is the dilated classifier as one product, and as the convolutions that it is?

    python -m benchmarks.speed.classifier

The recipe's classifier, 2048 to 19 channels with dilations 6 and 12, batch 2, at crops of 128, 256
and 512 pixels: milliseconds of the forward pass and of all gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.options import run_command
from benchmarks.speed.kernel_gradients import fastest
from benchmarks.speed.runners import device_name
from corda_jax.models.decoders.deeplab import DilatedClassifier
from corda_jax.models.operations import convolve

_SIZES, _BATCH, _CHANNELS = (17, 33, 65), 2, 2048


def main() -> None:
  """Times and prints a row for each size."""
  print(f"{device_name()}, JAX {jax.__version__}; ms\n")
  print("| places | forward: convolutions | product | gradients: convolutions | product |")
  print("|---" * 5 + "|")
  layer = DilatedClassifier(19)

  def convolutions(params, x):
    return sum(
      params[f"bias{i}"]
      + convolve(x, params[f"kernel{i}"], stride=1, padding=dilation, dilation=dilation)
      for i, dilation in enumerate(layer.dilations)
    )

  def product(params, x):
    return layer.apply({"params": params}, x)

  for size in _SIZES:
    x = np.random.default_rng(0).standard_normal((_BATCH, size, size, _CHANNELS), np.float32)
    params = layer.init(jax.random.key(0), jnp.asarray(x))["params"]
    times = [fastest(forward, params, x) for forward in (convolutions, product)]
    times += [
      fastest(jax.grad(lambda p, x, f=forward: (f(p, x) ** 2).sum(), (0, 1)), params, x)
      for forward in (convolutions, product)
    ]
    cells = " | ".join(f"{1e3 * each:.1f}" for each in times)
    print(f"| {size}x{size} | {cells} |", flush=True)


if __name__ == "__main__":
  run_command(main)
