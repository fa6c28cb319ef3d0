"""Measures decoders, alone and over Mix Transformers, in float64.

`daformer/heads*`, `daformer/daformer_*`, `foundation/segformer*`, `foundation/lightweight_head*`.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from corda_jax.losses import cross_entropy
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.base import Decoder
from corda_jax.models.decoders.daformer import FusionDecoder
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.decoders.lightweight import LightweightDecoder
from corda_jax.models.encoders.mix_transformer import MixTransformer, mix_transformer
from corda_jax.pretrained.matching import match
from corda_jax.pretrained.names import decode_heads
from corda_jax.pretrained.names import mix_transformer as mit_names
from corda_jax.pretrained.names.renaming import to_original
from corda_jax.pretrained.names.tables import NameTable, prefixed
from corda_jax.resize import resize_centered
from tests.golden import golden_daformer, golden_foundation
from tests.golden.encoders import GRADIENT, STORED, gradients, mit_kept
from tests.golden.released_run import Measure, relative, worst

_STRIDES, _WIDTHS = (4, 8, 16, 32), (32, 64, 160, 256)
_CLASSES = 19
_MODULES = prefixed("backbone.", mit_names.MODULES)
DAFORMER = NameTable("daformer", (*_MODULES, *decode_heads.FUSION))
_DEEPLAB = NameTable("deeplab", _MODULES, decode_heads.DEEPLAB)
_LIGHTWEIGHT = NameTable("lightweight", decode_heads.LIGHTWEIGHT, decode_heads.LIGHTWEIGHT_TENSORS)


class _Features(nn.Module):
  """An encoder whose features are its input."""

  level_strides: tuple[int, ...] = _STRIDES

  def features(self, x, *, train):
    return x


def _network(decoder: Decoder, encoder: Any, classes: int = _CLASSES) -> Corda:
  return Corda(
    encoder=encoder,
    decoder=decoder,
    initial_semantics_from="none",
    depth=False,
    correlation=False,
    num_classes=classes,
    param_dtype=jnp.float64,
  )


def _template(network: Corda, x: Any) -> Any:
  shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), x)
  return {"batch_stats": {}, **shapes}


def heads_file(path: Path) -> Iterator[Measure]:
  """Each decoder in evaluation and in training mode."""
  z = np.load(path)
  meta = json.loads(str(z["meta"]))
  batch, height, width = meta["shape"]
  levels = [
    jnp.asarray(
      golden_daformer.standard_normal(
        f"feature{i}:{meta['seed']}", (batch, -(-height // s), -(-width // s), c)
      )
    )
    for i, (s, c) in enumerate(zip(_STRIDES, _WIDTHS, strict=True))
  ]
  sizes = {"embed_width": meta["embed_dims"], "width": meta["channels"]}
  fusions = {"sepaspp": "separable_aspp", "conv1": "convolution"}
  for name in sorted({entry.split("/")[0] for entry in z.files if "/" in entry}):
    if name.startswith("dlv2"):
      branches = (6, 12) if name == "dlv2red" else (6, 12, 18, 24)
      decoder = DeepLabDecoder(width=0, dilations=branches, param_dtype=jnp.float64)
      table, seen = _DEEPLAB, levels[-1:]
    else:
      fusion = fusions.get(name, name)
      decoder = FusionDecoder(**sizes, fusion=fusion, param_dtype=jnp.float64)
      table, seen = DAFORMER, levels
    network = _network(decoder, _Features())
    template = _template(network, seen)
    shapes = {n: table.tensor(zeros(template), n).shape for n in map(str, z[f"{name}/names"])}
    tensors = {n: golden_daformer.parameter(n, shape) for n, shape in shapes.items()}
    variables = _decoder_variables(tensors, template, table)
    for mode in ("eval", "train"):
      got, _ = jax.jit(network.apply, static_argnames=("train", "mutable"))(
        variables, seen, train=mode == "train", mutable=("batch_stats",)
      )
      entry = f"{name}/{mode}"
      yield Measure(entry, relative(got["S"], z[entry]), STORED, got["S"].size)


def zeros(template: Any) -> Any:
  """Zeros of the shapes of a tree."""
  return jax.tree.map(lambda x: np.zeros(x.shape), template)


def _decoder_variables(tensors: Mapping[str, np.ndarray], template: Any, table: NameTable) -> Any:
  """Variables of a network without encoder, of which `match` would refuse a file."""
  places = table.names(template)
  assert places.keys() == tensors.keys()
  # With the kernel of an encoder that nothing reads.
  encoder = {"encoder": {"none": {"kernel": np.zeros((1, 1))}}}
  template = {**template, "params": template["params"] | encoder}
  table = NameTable(table.network, (*table.modules, ("none", "encoder/none")), table.tensors)
  variables, report = match({**tensors, "none.weight": np.zeros((1, 1))}, template, table)
  assert not report.missing
  del variables["params"]["encoder"]
  return jax.tree.map(jnp.asarray, variables)


def daformer_file(path: Path) -> Iterator[Measure]:
  """Logits, and of B0 the loss, its gradients, statistics, and what is dropped."""
  z = np.load(path)
  meta = json.loads(str(z["meta"]))
  encoder = mix_transformer(meta["encoder"].removeprefix("mit_").upper())
  encoder = encoder.clone(drop_path=meta["drop_path_rate"], param_dtype=jnp.float64)
  decoder = FusionDecoder(dropout=meta["dropout_ratio"], param_dtype=jnp.float64)
  network = _network(decoder, encoder)
  x = jnp.asarray(golden_daformer.forward_image(meta["seed"], meta["shape"]))
  template = _template(network, x)
  shapes = {n: DAFORMER.tensor(zeros(template), n).shape for n in DAFORMER.names(template)}
  tensors = {n: golden_daformer.parameter(n, shape) for n, shape in shapes.items()}
  variables, report = match(tensors, template, DAFORMER)
  assert not report.missing
  del tensors  # of MiT-B5 650 MB, as the variables
  variables = jax.tree.map(jnp.asarray, variables)
  apply = jax.jit(network.apply, static_argnames=("train", "mutable"))
  got = apply(variables, x, train=False)["S"]
  yield Measure("eval/logits", relative(got, z["eval/logits"]), STORED, got.size)
  if "train/loss" not in z:
    return
  shape, block = tuple(meta["shape"]), meta["label_block"]
  label = jnp.asarray(golden_daformer.step_batch(meta["seed"], shape, block)["source_label"])
  weight = np.abs(golden_daformer.standard_normal(f"seg_weight:{meta['seed']}", shape))

  def loss(params):
    outputs, updated = network.apply(
      {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
    )
    logits = resize_centered(outputs["S"], shape[1:])
    return cross_entropy(logits, label, jnp.asarray(weight), mean_over="all"), (
      outputs["S"],
      updated,
      logits,
    )

  (value, (logits, updated, large)), of_params = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    variables["params"]
  )
  yield Measure("train/logits", relative(logits, z["train/logits"]), STORED, logits.size)
  yield Measure("train/loss", relative(value, z["train/loss"]), 1e-12, 1)
  accuracy = 100 * (large.argmax(-1) == label).mean()
  yield Measure("train/accuracy", relative(accuracy, z["train/accuracy"]), 1e-12, 1)
  yield from gradients(
    z, {"params": of_params}, DAFORMER, norm="train/grad_norm", probe="train/grad_probe"
  )
  yield from statistics(z, updated, DAFORMER)
  kept = {
    "encoder": mit_kept(encoder, shape[0]),
    "channels": jnp.asarray(
      golden_daformer.keep_channel("decode_head", shape[0], decoder.width, decoder.dropout)
    ),
  }
  got, _ = apply(variables, x, train=True, draws=kept, mutable=("batch_stats",))
  entry = "dropped/logits"
  yield Measure(entry, relative(got["S"], z[entry]), STORED, got["S"].size)


def statistics(z: Any, tree: Any, table: NameTable, *, prefix: str = "") -> Iterator[Measure]:
  """Norms and probes of running statistics."""
  names = list(map(str, z["stat_names"]))
  stats = [table.tensor(tree, name) for name in names]
  norms, probes = (z[f"{prefix}stat_{kind}"] for kind in ("norm", "probe"))
  errors = [abs(np.linalg.norm(s) - n) / n for s, n in zip(stats, norms, strict=True)]
  yield worst(f"{prefix}stat_norm", errors, GRADIENT)
  errors = [
    abs(golden_daformer.probe(name, s) - p) / n
    for name, s, p, n in zip(names, stats, probes, norms, strict=True)
  ]
  yield worst(f"{prefix}stat_probe", errors, GRADIENT)


def segformer_file(path: Path) -> Iterator[Measure]:
  """Features and logits, with both epsilons; the decoder has the Hub's names."""
  z = np.load(path)
  config = json.loads(str(z["config"]))
  sizes = config["architecture"]
  shapes = golden_foundation.mit_shapes(sizes["widths"], sizes["depths"])
  shapes |= golden_foundation.segformer_head_shapes(
    sizes["widths"], sizes["width"], sizes["classes"]
  )
  drawn = golden_foundation.tensors(shapes, config["prefix"])
  hub = {n: x for n, x in drawn.items() if n.startswith("decode_head.")}
  tensors = {f"backbone.{n}": x for n, x in drawn.items() if n not in hub}
  tensors |= to_original(hub, decode_heads.HUB_SEGFORMER)
  decoder = FusionDecoder(
    sizes["width"], sizes["width"], "convolution", coarsest_first=True, param_dtype=jnp.float64
  )
  for version, epsilon in (("released", 1e-6), ("huggingface", 1e-5)):
    encoder = MixTransformer(
      widths=tuple(sizes["widths"]),
      depths=tuple(sizes["depths"]),
      heads=tuple(sizes["heads"]),
      norm_epsilon=epsilon,
      param_dtype=jnp.float64,
    )
    network = _network(decoder, encoder, sizes["classes"])
    apply = jax.jit(functools.partial(network.apply, train=False, mutable=["intermediates"]))
    for i, shape in enumerate(config["shapes"]):
      x = jnp.asarray(golden_foundation.image(config["seed"] + i, tuple(shape)))
      variables, report = match(tensors, _template(network, x), DAFORMER)
      assert not report.missing
      got, kept = apply(jax.tree.map(jnp.asarray, variables), x)
      found = dict(enumerate(kept["intermediates"]["levels"][0], 1))
      found = {f"{i}/{version}/stage{level}": value for level, value in found.items()}
      for entry, value in (found | {f"{i}/{version}/logits": got["S"]}).items():
        yield Measure(entry, relative(value, z[entry]), STORED, value.size)


def lightweight_file(path: Path) -> Iterator[Measure]:
  """Logits of features."""
  z = np.load(path)
  config = json.loads(str(z["config"]))
  shapes = golden_foundation.lightweight_head_shapes(config["width"], config["classes"])
  tensors = golden_foundation.tensors(shapes, config["prefix"])
  tensors = {f"decode_head.{name}": x for name, x in tensors.items()}
  network = _network(LightweightDecoder(param_dtype=jnp.float64), _Features(), config["classes"])
  for i, (batch, height, width) in enumerate(config["shapes"]):
    shape = (batch, height, width, config["width"])
    x = [jnp.asarray(golden_foundation.features(config["seed"] + i, shape))]
    variables = _decoder_variables(tensors, _template(network, x), _LIGHTWEIGHT)
    got = jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, x)["S"]
    yield Measure(f"{i}/logits", relative(got, z[f"{i}/logits"]), STORED, got.size)
