"""Measures HRDA, and predictions of whole images and of windows, in float64.

`daformer/hrda*` and `daformer/inference*`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.adaptation.settings import AdaptationEvaluation
from corda_jax.inference.views import as_evaluated, class_map
from corda_jax.losses import cross_entropy
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.daformer import FusionDecoder
from corda_jax.models.encoders.mix_transformer import mix_transformer
from corda_jax.models.hrda import DetailCrop, Hrda
from corda_jax.pretrained.matching import match
from corda_jax.pretrained.names.networks import table_of
from corda_jax.resize import resize_centered
from tests.golden import golden_daformer
from tests.golden.decoders import statistics, zeros
from tests.golden.encoders import STORED, gradients
from tests.golden.released_run import Measure, relative

_CLASSES = 19


def daformer_network(meta: Mapping[str, Any], **encoder: Any) -> Corda:
  """DAFormer's network of a file, without dropout."""
  types = {"param_dtype": jnp.float64}
  sizes = (meta["embed_dims"], meta["channels"])
  return Corda(
    encoder=mix_transformer("B0").clone(**encoder, **types),
    decoder=FusionDecoder(*sizes, dropout=meta.get("dropout_ratio", 0.0), **types),
    initial_semantics_from="none",
    depth=False,
    correlation=False,
    resize_outputs="centered",
    num_classes=_CLASSES,
    **types,
  )


def hrda_network(meta: Mapping[str, Any], **encoder: Any) -> Hrda:
  """HRDA's network of a file, without dropout."""
  width = meta["attention_embed_dim"]
  types = {"param_dtype": jnp.float64}
  return Hrda(
    daformer_network(meta, **encoder),
    FusionDecoder(width, width, "convolution", dropout=0.0, **types),
    DetailCrop(*meta["hr_crop_size"], loss_weight=meta.get("hr_loss_weight") or 0.1),
    num_classes=_CLASSES,
    **types,
  )


def start(network: Corda | Hrda, shape: tuple[int, ...], prefix: str = "") -> Any:
  """Variables of a network, drawn by the names of its tensors."""
  shapes = jax.eval_shape(
    lambda: network.init(jax.random.key(0), jnp.zeros((*shape, 3), jnp.float64), train=False)
  )
  template = {kind: shapes[kind] for kind in ("params", "batch_stats")}
  table = table_of(network)
  sizes = {n: table.tensor(zeros(template), n).shape for n in table.names(template)}
  tensors = {n: golden_daformer.parameter(prefix + n, size) for n, size in sizes.items()}
  variables, report = match(tensors, template, table)
  assert not report.missing
  assert not report.left
  return jax.tree.map(jnp.asarray, variables)


def hrda_file(path: Path) -> Iterator[Measure]:
  """Overlapping windows; one detail crop, its losses, their gradients, and statistics."""
  z = np.load(path)
  meta = json.loads(str(z["meta"]))
  shape = tuple(meta["shape"])
  network = hrda_network(meta)
  variables, table = start(network, shape), table_of(network)
  x = jnp.asarray(golden_daformer.forward_image(meta["seed"], shape))
  label = jnp.asarray(
    golden_daformer.step_batch(meta["seed"], shape, meta["label_block"])["source_label"]
  )
  weight = jnp.asarray(np.abs(golden_daformer.standard_normal(f"seg_weight:{meta['seed']}", shape)))

  @jax.jit
  def predicted(variables):
    outputs, kept = network.apply(variables, x, train=False, mutable=["intermediates"])
    return outputs, kept["intermediates"]["fused_S"][0]

  outputs, fused = predicted(variables)
  yield from _of_fusion(z, "eval", outputs["S"], fused, fused.detail)

  top, bottom, left, right = meta["crop_box"]
  draws = {"context": {}, "detail": {}, "corner": jnp.array([top, left])}

  def loss(params):
    outputs, updated = network.apply(
      {**variables, "params": params},
      x,
      train=True,
      draws=draws,
      mutable=["batch_stats", "intermediates"],
    )
    logits = resize_centered(outputs["S"], shape[1:])
    detail = resize_centered(outputs["detail_S"], (bottom - top, right - left))
    window = np.s_[:, top:bottom, left:right]
    share = network.detail.loss_weight
    losses = (
      (1 - share) * cross_entropy(logits, label, weight, mean_over="all"),
      share * cross_entropy(detail, label[window], weight[window], mean_over="all"),
    )
    return sum(losses), (losses, outputs, updated, logits)

  (_, (losses, outputs, updated, logits)), of_params = jax.jit(
    jax.value_and_grad(loss, has_aux=True)
  )(variables["params"])
  fused = updated["intermediates"]["fused_S"][0]
  yield from _of_fusion(z, "train", outputs["S"], fused, outputs["detail_S"])
  for name, value in zip(("loss", "loss_high"), losses, strict=True):
    yield Measure(f"train/{name}", relative(value, z[f"train/{name}"]), 1e-12, 1)
  accuracy = 100 * (logits.argmax(-1) == label).mean()
  yield Measure("train/accuracy", relative(accuracy, z["train/accuracy"]), 1e-12, 1)
  yield from gradients(
    z, {"params": of_params}, table, norm="train/grad_norm", probe="train/grad_probe"
  )
  yield from statistics(z, updated, table)


def _of_fusion(z: Any, mode: str, fused: Any, parts: Any, detail: Any) -> Iterator[Measure]:
  found = {"fused": fused, "high": detail, "weighted_low": parts.context}
  found |= {"attention": parts.attention} if f"{mode}/attention" in z else {}
  for name, value in found.items():
    entry = f"{mode}/{name}"
    yield Measure(entry, relative(value, z[entry]), STORED, value.size)


def inference_file(path: Path) -> Iterator[Measure]:
  """Classes and probabilities of DAFormer and HRDA, of whole images and of windows."""
  z = np.load(path)
  meta = json.loads(str(z["meta"]))
  shape, size = tuple(meta["shape"]), tuple(meta["label_size"])
  x = jnp.asarray(golden_daformer.forward_image(meta["seed"], shape))
  windows = {"window": tuple(meta["crop"]), "window_stride": tuple(meta["stride"])}
  for name, make in (("daformer", daformer_network), ("hrda", hrda_network)):
    network = make(meta)
    variables = start(network, shape)
    for kind, fields in (("", windows), ("whole_", {"resize_via_input": True})):
      evaluation = AdaptationEvaluation(**fields)

      @jax.jit
      def run(variables, network=network, evaluation=evaluation):
        predict = as_evaluated(
          lambda x: network.apply(variables, x, train=False), evaluation, method="centered"
        )
        logits = predict(x)["S"]
        label = class_map([(logits,)], size, method="centered")
        step = meta["probability_step"]
        return label, jax.nn.softmax(resize_centered(logits, size))[:, ::step, ::step]

      label, probability = run(variables)
      entry = f"{name}/{kind}"
      error = relative(label, z[f"{entry}label"].astype(np.float64))
      yield Measure(f"{entry}label", error, np.finfo(np.float64).tiny, label.size)
      error = relative(probability, z[f"{entry}probability"])
      yield Measure(f"{entry}probability", error, STORED, probability.size)
