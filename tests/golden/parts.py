"""Measures the parts of the method against `losses*.npz` and `augment*.npz`, in float64."""

import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax import losses, metrics
from corda_jax.adaptation import color_augmentation
from corda_jax.color_jitter import color_jitter
from corda_jax.resize import resize_aligned
from tests.golden.released_run import STORED, Measure, relative

ARITHMETIC = 1e-13  # a few roundings of float64
# The reference builds its blur kernel in float32.
KERNEL = 1e-6

_LOSSES = {
  "cross_entropy": (losses.cross_entropy, ("logits", "label")),
  "weighted_cross_entropy": (
    functools.partial(losses.cross_entropy, mean_over="all"),
    ("logits", "label", "pixel_weight"),
  ),
  "berhu": (losses.berhu, ("inverse_depth_prediction", "inverse_depth_target")),
}


def losses_file(path: Path) -> Iterator[Measure]:
  """Losses with their gradients, scores, and upsampling."""
  z = np.load(path)
  for name, (function, arguments) in _LOSSES.items():
    inputs = [jnp.asarray(z[argument]) for argument in arguments]
    value, gradient = jax.jit(jax.value_and_grad(function))(*inputs)
    yield Measure(name, relative(value, z[name]), ARITHMETIC, 1)
    expected = z[f"{name}_grad"]
    yield Measure(f"{name}_grad", relative(gradient, expected), ARITHMETIC, expected.size)
  classes = len(z["confusion_matrix"])
  count = jax.jit(metrics.confusion_matrix, static_argnums=2)
  confusion = np.asarray(count(z["metric_label"][None], z["metric_prediction"][None], classes))[0]
  exact = np.finfo(np.float64).tiny
  yield Measure(
    "confusion_matrix", relative(confusion, z["confusion_matrix"]), exact, confusion.size
  )
  iou = metrics.intersection_over_union(confusion)
  yield Measure("iou_per_class", relative(iou, z["iou_per_class"]), ARITHMETIC, iou.size)
  mean = relative(metrics.mean_iou(confusion), z["mean_iou_19"])
  yield Measure("mean_iou_19", mean, ARITHMETIC, 1)
  for name in (n for n in z if n.startswith("upsample_") and n != "upsample_input"):
    shape = tuple(int(n) for n in name.removeprefix("upsample_").split("x"))
    got = jax.jit(resize_aligned, static_argnums=1)(jnp.asarray(z["upsample_input"]), shape)
    yield Measure(name, relative(got, z[name]), ARITHMETIC, z[name].size)


def augment_file(path: Path) -> Iterator[Measure]:
  """Colour jitter and blur with given factors."""
  z = np.load(path)
  for case in sorted({name.split("/")[0] for name in z}):
    image, expected = jnp.asarray(z[f"{case}/image"], jnp.float64), z[f"{case}/output"]
    if case.startswith("jitter"):
      names = ("brightness", "contrast", "saturation", "hue")
      draws = {name: jnp.asarray(z[f"{case}/{name}_factor"]) for name in names}
      draws["order"] = jnp.tile(jnp.asarray(z[f"{case}/order"]), (len(image), 1))
      got, bound = jax.jit(color_jitter)(image, draws), STORED
    else:
      sizes = [color_augmentation.blur_kernel_size(n) for n in image.shape[1:3]]
      desired = list(z[f"{case}/kernel_size"])
      error = 0.0 if sizes == desired else np.inf
      yield Measure(f"{case}/kernel_size", error, np.finfo(np.float64).tiny, 2)
      sigma = jnp.broadcast_to(jnp.asarray(z[f"{case}/sigma"]), (len(image),))
      got, bound = jax.jit(color_augmentation.gaussian_blur)(image, sigma), KERNEL
    yield Measure(f"{case}/output", relative(got, expected), bound, expected.size)
