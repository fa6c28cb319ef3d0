"""Measures Depth Anything's network, the sizes of its input and DCF's filter, in float64."""

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.adaptation.depth_filter import DepthFilter, Domain
from corda_jax.models.depth_anything import DepthAnything, input_size
from corda_jax.models.encoders.vision_transformer import VisionTransformer
from corda_jax.pretrained.depth_anything_weights import fit_depth_anything
from tests.golden import golden_foundation
from tests.golden.released_run import STORED, Measure, relative

# Names of intermediate results → the modules that they leave.
_MODULES = {
  "reassembled1": "resize0",
  "reassembled2": "resize1",
  "reassembled3": "project2",
  "reassembled4": "resize3",
  **{f"fused{n}": f"fuse{n}_out" for n in range(1, 5)},
  "output_conv1": "head1",
  "before_activation": "head3",
}


def depth_anything_file(path: Path) -> Iterator[Measure]:
  """Depths by both rules of positions, and what comes before them."""
  z = np.load(path)
  config = json.loads(str(z["config"]))
  sizes = config["architecture"]
  shapes = golden_foundation.depth_anything_shapes(
    sizes["width"],
    sizes["depth"],
    sizes["grid"],
    features=sizes["features"],
    out_channels=sizes["out_channels"],
  )
  tensors = golden_foundation.tensors(shapes, config["prefix"])
  for rule in ("offset", "size"):
    encoder = VisionTransformer(
      width=sizes["width"],
      depth=sizes["depth"],
      heads=sizes["heads"],
      position_grid=sizes["grid"],
      positions=rule,
      levels=tuple(sizes["indices"]),
      param_dtype=jnp.float64,
    )
    network = DepthAnything(
      encoder,
      sizes["features"],
      tuple(sizes["out_channels"]),
      float(sizes.get("max_depth", 0)),
      param_dtype=jnp.float64,
    )
    params, _ = fit_depth_anything(tensors, network)
    run = jax.jit(lambda params, x, net=network: net.apply(params, x, capture_intermediates=True))
    for i, shape in enumerate(config["shapes"]):
      x = jnp.asarray(golden_foundation.image(config["seed"] + i, tuple(shape)))
      depth, found = run({"params": params}, x)
      yield _stored(z, f"{i}/{rule}/depth", depth)
      found = found["intermediates"]["depth_head"]
      for name, module in _MODULES.items():
        if f"{i}/{rule}/{name}" in z:
          got = found[module]["__call__"][0]
          yield _stored(z, f"{i}/{rule}/{name}", got.reshape(z[f"{i}/{rule}/{name}"].shape))


def _stored(z, name: str, got: jax.Array) -> Measure:
  return Measure(name, relative(got, z[name]), STORED, got.size)


def input_sizes_file(path: Path) -> Iterator[Measure]:
  """Sizes of inputs of all images."""
  rows = np.load(path)["rows"]
  got = [input_size((height, width), smallest, 14) for height, width, smallest, *_ in rows.tolist()]
  yield Measure("rows", float(np.abs(np.array(got) - rows[:, 3:]).max()), 0.5, len(rows))


def depth_filter_file(path: Path) -> Iterator[Measure]:
  """Classes that DCF's filter keeps, of single images."""
  z = np.load(path)
  config = json.loads(str(z["config"]))
  pixels = config["height"] * config["width"]
  options = DepthFilter(
    "released",
    pasted_share=10_000 / pixels,
    labelled_share=5_000 / pixels,
    rare_share=3_000 / pixels,
  )
  wrong = 0
  for case in range(config["cases"]):
    label, taught, inverse_depth = (
      jnp.asarray(np.kron(z[f"{case}/{name}"], np.ones((config["block"],) * 2)))[None]
      for name in ("label", "pseudo_label", "inverse_depth")
    )
    label, taught = label.astype(jnp.int32), taught.astype(jnp.int32)
    drawn = z[f"{case}/drawn"].tolist()
    source, target = Domain(label, inverse_depth), Domain(taught, inverse_depth)
    mask = jnp.isin(label, jnp.asarray(drawn, jnp.int32))
    kept = options.keep(mask, source, target, num_classes=19, step=jnp.zeros((), jnp.int32))
    wrong += set(np.unique(label[kept])) != set(z[f"{case}/kept"].tolist())
  yield Measure("cases", float(wrong), 0.5, config["cases"])
