"""Measures the transformer encoders against `daformer/mit_*.npz` and `foundation/dinov*.npz`.

Everything is float64. Shapes, seeds and sizes are read from the files.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.models.encoders.mix_transformer import MixTransformer, mix_transformer
from corda_jax.models.encoders.positions import resample_positions
from corda_jax.models.encoders.vision_transformer import VisionTransformer
from corda_jax.models.transformer import drop_rates
from corda_jax.pretrained.matching import match
from corda_jax.pretrained.names import mix_transformer as mit_names
from corda_jax.pretrained.names import vision_transformer as vit_names
from corda_jax.pretrained.names.renaming import to_original
from corda_jax.pretrained.names.tables import NameTable, prefixed
from corda_jax.resize import resize_aligned, resize_centered, resize_cubic
from tests.golden import golden_daformer, golden_foundation
from tests.golden.released_run import Measure, relative, worst

STORED = 2e-7  # relative error of arrays that are stored as float32
GRADIENT = 1e-9
NOISE = 1e-9  # relative to the largest: gradients that are zero but for rounding

MIT = NameTable("mit", prefixed("backbone.", mit_names.MODULES))
DINOV2 = NameTable("dinov2", vit_names.MODULES, vit_names.DINOV2)
DINOV3 = NameTable("dinov3", vit_names.MODULES, vit_names.DINOV3)


class Alone:
  """An encoder as a network of its own, whose variables are below "encoder".

  Args:
    encoder: the encoder.
    tensors: its tensors by the names of `table`.
    table: names of the encoder's tensors.
  """

  def __init__(self, encoder: Any, tensors: Mapping[str, np.ndarray], table: NameTable):
    """Converts the tensors, of which the encoder takes all."""
    self.encoder = encoder.clone(param_dtype=jnp.float64)
    shapes = jax.eval_shape(
      lambda x: self.encoder.init(jax.random.key(0), x, train=False, method="features"),
      jax.ShapeDtypeStruct((1, 56, 70, 3), jnp.float64),
    )
    template = {"params": {"encoder": shapes["params"]}}
    variables, report = match(tensors, template, table)
    assert not report.missing, report.missing
    assert not report.left, report.left
    self.params = jax.tree.map(jnp.asarray, variables["params"]["encoder"])

  @functools.cached_property
  def features(self):
    """The compiled features(params, x, kept)."""
    return jax.jit(
      lambda params, x, kept: self.encoder.apply(
        {"params": params}, x, train=True, kept=kept, method="features"
      )
    )


def mit_encoder(meta: Mapping[str, Any], names: list[str]) -> Alone:
  """The encoder of a file; its tensors are `names` with "backbone." before them."""
  encoder = mix_transformer(meta["encoder"].removeprefix("mit_").upper())
  encoder = encoder.clone(drop_path=meta["drop_path_rate"])
  shapes = golden_foundation.mit_shapes(encoder.widths, encoder.depths)
  shapes = {f"backbone.{name}": shape for name, shape in shapes.items()}
  assert shapes.keys() == {name for name in names if name.startswith("backbone.")}
  tensors = {name: golden_daformer.parameter(name, shape) for name, shape in shapes.items()}
  return Alone(encoder, tensors, MIT)


def mit_kept(encoder: MixTransformer, batch: int) -> dict[str, jax.Array]:
  """What the reference's stochastic depth keeps, for `features`."""
  blocks = [(s, b) for s, depth in enumerate(encoder.depths) for b in range(depth)]
  rates = drop_rates(encoder.drop_path, len(blocks))
  kept = [
    [
      golden_daformer.keep_path(f"backbone.block{s + 1}.{b}", branch, batch, rate)
      for branch in ("attn", "mlp")
    ]
    for (s, b), rate in zip(blocks, rates, strict=True)
  ]
  return {"branches": jnp.asarray(np.array(kept).transpose(2, 0, 1))}


def mit_file(path: Path) -> Iterator[Measure]:
  """Features with and without stochastic depth, and their gradients."""
  z = np.load(path)
  meta = json.loads(str(z["meta"]))
  alone = mit_encoder(meta, list(map(str, z["param_names"])))
  x = jnp.asarray(golden_daformer.forward_image(meta["seed"], meta["shape"]))
  rates = drop_rates(alone.encoder.drop_path, len(z["drop_path_rates"]))
  yield Measure("drop_path_rates", relative(rates, z["drop_path_rates"]), 1e-15, len(rates))
  kept = mit_kept(alone.encoder, meta["shape"][0])
  for mode, kept_of_mode in (("eval", None), ("droppath", kept)):
    for level, got in enumerate(alone.features(alone.params, x, kept_of_mode)):
      name = f"{mode}/feature{level}"
      yield Measure(name, relative(got, z[name]), STORED, got.size)
  if "grad/loss" not in z:
    return

  def loss(params, x):
    features = alone.features(params, x, None)
    probes = [
      golden_daformer.standard_normal(f"probe:feature{i}", f.shape) for i, f in enumerate(features)
    ]
    return sum((f * p).sum() for f, p in zip(features, probes, strict=True))

  value, (of_params, of_image) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(alone.params, x)
  yield Measure("grad/loss", relative(value, z["grad/loss"]), GRADIENT, 1)
  yield Measure("grad/image", relative(of_image, z["grad/image"]), STORED, of_image.size)
  yield from gradients(
    z, {"params": {"encoder": of_params}}, MIT, norm="grad/param_norm", probe="grad/param_probe"
  )


def gradients(
  z: Any, tree: Mapping[str, Any], table: NameTable, *, norm: str, probe: str = ""
) -> Iterator[Measure]:
  """Norms and probes of the gradient of each parameter, where it is no rounding noise."""
  names = list(map(str, z["param_names"]))
  norms = z[norm]
  got = [table.tensor(tree, name) for name in names]
  large = norms > NOISE * norms.max()
  assert large.sum() > 0.8 * len(names) or not probe
  errors = [abs(np.linalg.norm(g) - n) / n for g, n in zip(got, norms, strict=True) if n > 0]
  yield worst(norm, [e for e, n in zip(errors, large[norms > 0], strict=True) if n], GRADIENT)
  if not probe:
    return
  errors = [
    abs(golden_daformer.probe(name, g) - p) / n
    for name, g, p, n in zip(names, got, z[probe], norms, strict=True)
    if n > NOISE * norms.max()
  ]
  yield worst(probe, errors, GRADIENT)


def dinov2_file(path: Path) -> Iterator[Measure]:
  """Tokens after every block, the last ones, maps, and those of masked patches."""
  z = np.load(path)
  config = json.loads(str(z["config"]))
  sizes = dict(config["architecture"])
  heads = sizes.pop("heads")
  shapes = golden_foundation.dinov2_shapes(**sizes)
  tensors = golden_foundation.tensors(shapes, config["prefix"])
  depth, registers = sizes["depth"], sizes.get("registers", 0)
  for rule in sorted({name.split("/")[1] for name in z.files if "/" in name}):
    encoder = VisionTransformer(
      width=sizes["width"],
      depth=depth,
      heads=heads,
      mlp="swiglu" if sizes.get("swiglu") else "gelu",
      registers=registers,
      positions=rule,
      position_grid=sizes["grid"],
      levels=tuple(config["blocks"]),
    )
    alone = Alone(encoder, tensors, DINOV2)
    for i, shape in enumerate(config["shapes"]):
      x = jnp.asarray(golden_foundation.image(config["seed"] + i, tuple(shape)))
      found = _tokens(alone, x, depth)
      entry = f"{i}/{rule}"
      if f"{entry}/tokens" in z:
        got = np.stack([found.embedded, *found.blocks])
        yield Measure(f"{entry}/tokens", relative(got, z[f"{entry}/tokens"]), STORED, got.size)
      yield Measure(f"{entry}/last", relative(found.normalized[-1], z[f"{entry}/last"]), STORED, 1)
      maps = alone.features(alone.params, x, None)
      for block, got in zip(config["blocks"], maps, strict=True):
        name = f"{entry}/map{block}"
        yield Measure(name, relative(got, z[name]), STORED, got.size)
      if f"{entry}/masked_last" in z:
        seen = jnp.asarray(~z["mask"].astype(bool)).reshape(maps[0].shape[:3])
        got = _tokens(alone, x, depth, {"patches": seen}).normalized[-1]
        name = f"{entry}/masked_last"
        yield Measure(name, relative(got, z[name]), STORED, got.size)


def dinov3_file(path: Path) -> Iterator[Measure]:
  """Tokens after every block, and the last ones."""
  z = np.load(path)
  config = json.loads(str(z["config"]))
  sizes = config["architecture"]
  shapes = golden_foundation.dinov3_shapes(**sizes)
  tensors = golden_foundation.tensors(shapes, config["prefix"])
  encoder = VisionTransformer(
    width=sizes["width"],
    depth=sizes["depth"],
    heads=sizes["heads"],
    patch=16,
    mlp="swiglu" if sizes["swiglu"] else "gelu",
    registers=shapes["storage_tokens"][1],
    positions="rotary",
    key_bias=False,
    norm_epsilon=1e-5,
    levels=(sizes["depth"] - 1,),
  )
  alone = Alone(encoder, to_original(tensors, vit_names.SPLIT_DINOV3), DINOV3)
  for i, shape in enumerate(config["shapes"]):
    x = jnp.asarray(golden_foundation.image(config["seed"] + i, tuple(shape)))
    found = _tokens(alone, x, sizes["depth"])
    # Of the last block the file has the tokens after the last normalisation.
    got = np.stack([found.embedded, *found.blocks[:-1], found.normalized[-1]])
    yield Measure(f"{i}/tokens", relative(got, z[f"{i}/tokens"]), STORED, got.size)
    yield Measure(f"{i}/last", relative(found.normalized[-1], z[f"{i}/last"]), STORED, 1)


def _tokens(alone: Alone, x: jax.Array, depth: int, kept: Any = None) -> Any:
  return jax.jit(alone.encoder.apply, static_argnames=("method", "blocks"))(
    {"params": alone.params}, x, blocks=tuple(range(depth)), kept=kept, method="tokens"
  )


def resampling_file(path: Path) -> Iterator[Measure]:
  """Tables of positions by each rule, and images."""
  z = np.load(path)
  config = json.loads(str(z["config"]))
  table, image = jnp.asarray(z["table"], jnp.float64), jnp.asarray(z["image"], jnp.float64)
  for name in z.files:
    kind, *rest = name.split("/")
    size = tuple(map(int, rest[-1].split("x"))) if rest else ()
    if kind == "positions":
      got = resample_positions(table, size, rest[0])
    elif kind == "cubic":
      got = resize_cubic(image / 255, size)
    elif kind in ("bilinear", "bilinear_aligned"):
      got = (resize_centered if kind == "bilinear" else resize_aligned)(image / 255, size)
    else:
      continue
    yield Measure(name, relative(got, z[name]), STORED, got.size)
  assert config["side"] ** 2 + 1 == table.shape[1]
