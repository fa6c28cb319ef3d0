"""Measures functions of DAFormer, HRDA and MIC, in float64.

`daformer/functions*` and `daformer/augment*`; rare classes are those of the data side's tests.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.adaptation.color_augmentation import ColorAugmentation
from corda_jax.adaptation.teacher import Teacher
from corda_jax.adaptation.terms.feature_distance import feature_distance, feature_label
from corda_jax.adaptation.terms.masked import hide_blocks
from corda_jax.losses import cross_entropy
from corda_jax.metrics import confusion_matrix, intersection_over_union, mean_iou
from corda_jax.models.normalization import IMAGENET
from corda_jax.resize import resize_centered, scale_centered
from corda_jax.training.optimizer import AdamW, Warmup
from corda_jax.training.state import update_teacher
from tests.golden import golden_daformer
from tests.golden.encoders import STORED
from tests.golden.released_run import Measure, relative

_ARITHMETIC = 1e-12
_EQUAL = np.finfo(np.float64).tiny
_CLASSES = 19


def functions_file(path: Path) -> Iterator[Measure]:
  """Each function of the file."""
  z = np.load(path)
  meta = json.loads(str(z["meta"]))
  seed, shape = meta["seed"], tuple(meta["shape"])
  label = jnp.asarray(golden_daformer.step_batch(seed, shape, 12)["source_label"])
  yield from _cross_entropy(z, meta, label)
  yield from _features(z, seed, label)
  yield from _pseudo_labels(z, meta)
  yield from _resizing(z, (shape[0], 9, 13, 2), seed)
  for name in (n for n in z.files if n.startswith("mask/")):
    block = int(name.split("/")[1])
    seen = golden_daformer.block_uniform(seed, shape, block) > 0.7
    got = hide_blocks(jnp.ones((*shape, 1)), jnp.asarray(seen))[..., 0]
    expected = np.unpackbits(z[name], axis=-1)[..., : shape[2]]
    yield Measure(name, relative(got, expected.astype(np.float64)), _EQUAL, got.size)
  # As in the recipe: 40,000 steps, the first 1,500 of them a warm-up.
  adamw = AdamW(learning_rate=6e-5, schedule_power=1.0, warmup=Warmup(steps=1_500))
  steps = jnp.asarray(z["schedule/iterations"])
  rates = jax.vmap(adamw.schedule(40_000))(steps.astype(jnp.float64))
  yield Measure("schedule/rate", relative(rates, z["schedule/rate"]), _ARITHMETIC, rates.size)
  keeps = jax.vmap(lambda t: update_teacher(jnp.ones(()), jnp.zeros(()), t, 0.999))(steps)
  yield Measure("teacher/alpha", relative(keeps, z["teacher/alpha"]), _ARITHMETIC, keeps.size)
  counts = confusion_matrix(z["metrics/label"], z["metrics/prediction"], _CLASSES).sum(0)
  iou = intersection_over_union(np.asarray(counts))
  yield Measure("metrics/iou", relative(iou, z["metrics/iou"]), _ARITHMETIC, iou.size)
  error = relative(mean_iou(np.asarray(counts)), z["metrics/miou"])
  yield Measure("metrics/miou", error, _ARITHMETIC, 1)


def _cross_entropy(z: Any, meta: Any, label: jax.Array) -> Iterator[Measure]:
  seed, shape = meta["seed"], label.shape
  logits_shape = tuple(meta["logits_shape"])
  logits = jnp.asarray(3 * golden_daformer.standard_normal(f"logits:{seed}", logits_shape))
  drawn = np.abs(golden_daformer.standard_normal(f"seg_weight:{seed}", shape))
  weights = {"unweighted": None, "weighted": jnp.asarray(drawn), "zero": jnp.zeros(shape)}
  for name, weight in weights.items():

    def loss(logits, weight=weight):
      large = resize_centered(logits, shape[1:])
      return cross_entropy(large, label, weight, mean_over="all")

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    found = {
      "": value,
      "_gradient_norm": np.linalg.norm(gradient),
      "_gradient_probe": golden_daformer.probe("logits", gradient),
    }
    for suffix, got in found.items():
      entry = f"cross_entropy/{name}{suffix}"
      yield Measure(entry, _error(got, z[entry]), _ARITHMETIC, 1)


def _error(got: Any, expected: Any) -> float:
  """Relative error of a number; of what must be 0 the number itself."""
  return float(abs(got - expected) / (abs(expected) or 1))


def _features(z: Any, seed: int, label: jax.Array) -> Iterator[Measure]:
  for name in (n for n in z.files if n.startswith("feature_label/")):
    if "tie" in name:
      continue
    stride, share = name.split("/")[1].split("_")
    got = feature_label(label, int(stride), num_classes=_CLASSES, min_share=float(share))
    yield Measure(name, relative(got, z[name].astype(np.float64)), _EQUAL, got.size)
  tie = jnp.asarray(z["feature_label/tie_input"])[None]
  expected = z["feature_label/tie"].astype(np.float64)
  got = feature_label(tie, tie.shape[2] // expected.shape[2], num_classes=_CLASSES, min_share=0.5)
  yield Measure("feature_label/tie", relative(got, expected), _EQUAL, got.size)

  shape = (label.shape[0], 6, 3, 4)
  first, second = (
    jnp.asarray(golden_daformer.standard_normal(f"{name}:{seed}", shape).transpose(0, 2, 3, 1))
    for name in ("f1", "f2")
  )
  run = jax.jit(jax.value_and_grad(feature_distance))
  for name in ("all", "some", "none"):
    entry = f"feature_distance/{name}"
    mask = z[f"{entry}_mask"] if f"{entry}_mask" in z else np.ones((shape[0], 3, 4), bool)
    value, gradient = run(first, second, jnp.asarray(mask))
    expected = z[entry]  # NaN without positions: here 0
    yield Measure(entry, _error(value, np.nan_to_num(expected)), _ARITHMETIC, 1)
    error = np.abs(np.asarray(gradient) - z[f"{entry}_gradient"]).max()
    yield Measure(f"{entry}_gradient", float(error), STORED, gradient.size)
  _, gradient = run(first, first, jnp.ones(first.shape[:3], bool))
  entry = "feature_distance/equal_gradient_max"
  yield Measure(entry, _error(jnp.abs(gradient).max(), z[entry]), _EQUAL, gradient.size)


def _pseudo_labels(z: Any, meta: Any) -> Iterator[Measure]:
  shape = tuple(meta["logits_shape"])
  logits = 9 * golden_daformer.standard_normal(f"logits:{meta['seed']}", shape)
  margins = (3, 5, 2, 4)
  halves = [[m - m * (i + 1) // 2 for m in margins] for i in range(shape[0])]
  kinds = {
    "cropped": Teacher(untrusted_margins=(3, 5, 0, 0), margins_of="crop", initial_label_steps=0),
    "valid": Teacher(untrusted_margins=margins, initial_label_steps=0),
  }
  inputs = {"source_label": jnp.zeros(shape[:3]), "target_border": jnp.array(halves, jnp.int32)}
  for kind, teacher in kinds.items():
    found = teacher.label({"S": jnp.asarray(logits)}, jnp.int32(0), inputs, "centered")
    entry = f"pseudo/weight_{kind}"
    yield Measure(entry, relative(found.weight, z[entry]), _ARITHMETIC, z[entry].size)
  error = relative(found.label, z["pseudo/label"].astype(np.float64))
  yield Measure("pseudo/label", error, _EQUAL, found.label.size)
  error = relative(found.fraction[0, 0, 0], z["pseudo/fraction"])
  yield Measure("pseudo/fraction", error, _ARITHMETIC, 1)


def _resizing(z: Any, shape: tuple[int, ...], seed: int) -> Iterator[Measure]:
  x = jnp.asarray(golden_daformer.standard_normal(f"resize:{seed}", shape))
  for name in (n for n in z.files if n.startswith("resize/")):
    kind, *numbers = name.split("/")[1].split("_")
    if kind == "size":
      got = resize_centered(x, tuple(map(int, numbers)))
    else:
      got = scale_centered(x, 0.5 if numbers == ["half"] else float(numbers[0]))
    yield Measure(name, relative(got, z[name]), STORED, z[name].size)


def augment_file(path: Path) -> Iterator[Measure]:
  """Jitter and blur with given factors, alone and together, of normalised images."""
  z = np.load(path)
  part = ColorAugmentation(hsv_epsilon=1e-6)
  image = jnp.asarray(z["image"], jnp.float64)
  run = jax.jit(lambda x, draws: part.augment(x, draws, IMAGENET))
  names = ("brightness", "contrast", "saturation", "hue")
  for case in sorted({name.split("/")[0] for name in z.files if "/" in name}):
    jitter = dict(zip(names, map(jnp.asarray, z[f"{case}/factors"]), strict=True))
    order = jnp.asarray(z[f"{case}/order"])
    jitter["order"] = jnp.broadcast_to(order, (len(image), 4))
    sigma = jnp.broadcast_to(jnp.asarray(z[f"{case}/sigma"]), len(image))
    for kind in ("jitter", "blur", "both"):
      draws = {"use_jitter": jnp.array(kind != "blur"), "use_blur": jnp.array(kind != "jitter")}
      got = run(image, draws | {"jitter": jitter, "blur_sigma": sigma})
      entry = f"{case}/{kind}"
      yield Measure(entry, relative(got, z[entry]), STORED, got.size)
