"""Runs the training steps of DAFormer, HRDA and MIC of one file, in float64.

`daformer/step_*`: shapes, seeds, sizes and switches are read from the file.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from configs import gta2cs_daformer, gta2cs_hrda, gta2cs_mic, gta2cs_mic_daformer
from corda_jax.adaptation.passes import forward
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.adaptation.terms.base import Found, Term
from corda_jax.configuration import settings
from corda_jax.labels import NAMES
from corda_jax.models.encoders.mix_transformer import mix_transformer
from corda_jax.pretrained.names.networks import table_of
from corda_jax.training.sharding import make_mesh
from corda_jax.training.state import TermState, TrainState
from tests.golden import golden_daformer
from tests.golden.decoders import statistics
from tests.golden.encoders import GRADIENT, NOISE, STORED, gradients, mit_kept
from tests.golden.hrda import start
from tests.golden.released_run import CHANGES, Measure, relative, worst

# What the file calls losses → what they are called here.
_LOSSES = {
  "decode.loss_seg": "ce_src",
  "src.loss_imnet_feat_dist": "feature_distance",
  "mix.decode.loss_seg": "ce_mix",
  "masked.decode.loss_seg": "ce_masked",
}
# Whether there are two resolutions, and masked images → the recipe.
_RECIPES = {
  (False, False): gta2cs_daformer,
  (True, False): gta2cs_hrda,
  (False, True): gta2cs_mic_daformer,
  (True, True): gta2cs_mic,
}


class _Scaled:
  """A term whose losses weigh `share` times as much."""

  def __init__(self, term: Term, share: jax.Array):
    self._term, self._share = term, share

  def __getattr__(self, name: str) -> Any:
    return getattr(self._term, name)

  def losses(self, passes: Any, context: Any) -> Found:
    found = self._term.losses(passes, context)
    scaled = {n: x._replace(weight=x.weight * self._share) for n, x in found.losses.items()}
    return found._replace(losses=scaled)


def _keeping(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
  """The same optimiser, whose state is (its own, the last gradients)."""

  def update(gradients, state, params):
    updates, own = optimizer.update(gradients, state[0], params)
    return updates, (own, gradients)

  return optax.GradientTransformation(lambda params: (optimizer.init(params), params), update)


def _configuration(meta: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """The recipe's configuration with the sizes and settings of a file."""
  high, masked = meta["hr_crop_size"] is not None, meta["mask_ratio"] is not None
  config = _RECIPES[high, masked].get_config()
  network = config.model.network if high else config.model
  encoder = mix_transformer(meta["encoder"].removeprefix("mit_").upper())
  network.encoder = settings(encoder.clone(drop_path=meta["drop_path_rate"]))
  margins = meta["valid_margins"] or (meta["ignore_top"], meta["ignore_bottom"], 0, 0)
  values = {
    "num_steps": meta["max_iters"],
    "model.dtype": "float64",
    "model.param_dtype": "float64",
    "optimizer.learning_rate": meta["learning_rate"],
    "optimizer.weight_decay": meta["weight_decay"],
    "optimizer.warmup.steps": meta["warmup_iters"],
    "optimizer.warmup.start": meta["warmup_ratio"],
    "teacher.decay": meta["alpha"],
    "teacher.confidence_threshold": meta["threshold"],
    "teacher.untrusted_margins": tuple(margins),
    "terms.feature_distance.weight": meta["feature_distance_weight"],
    "terms.feature_distance.classes": tuple(
      NAMES[number] for number in meta["feature_distance_classes"]
    ),
    "terms.feature_distance.min_share": meta["feature_distance_min_ratio"],
  }
  if masked:
    values |= {"terms.masked.block": meta["mask_block"], "terms.masked.ratio": meta["mask_ratio"]}
  if high:
    height, width = meta["hr_crop_size"]
    values |= {"model.detail.height": height, "model.detail.width": width}
    values["model.detail.loss_weight"] = meta["hr_loss_weight"]
    for side in ("embed_width", "width"):
      values[f"model.attention.{side}"] = meta["attention_embed_dim"]
    values["model.attention.dropout"] = meta["dropout_ratio"]
  config.update_from_flattened_dict(values)
  network.decoder.embed_width, network.decoder.width = meta["embed_dims"], meta["channels"]
  network.decoder.dropout = meta["dropout_ratio"]
  return config


class Steps:
  """One file.

  Args:
    path: of the file.
  """

  def __init__(self, path: Path):
    """Builds the step and its first state."""
    self.z = np.load(path)
    self.meta = json.loads(str(self.z["meta"]))
    meta = self.meta
    self.shape = tuple(meta["shape"])
    self.seed = meta["seed"]
    self.high = meta["hr_crop_size"] is not None
    config = _configuration(meta)
    made = AdaptationTask.from_config(config, make_mesh(jax.devices()[:1])).step
    self.step = dataclasses.replace(made, gradient_sharding=None)
    self.model = made.model
    self.table = table_of(self.model)

  def start(self) -> TrainState:
    """The state before the first step."""
    student = start(self.model, self.shape)
    frozen = start(self.model, self.shape, "imnet_model.")["params"]["encoder"]
    teacher = jax.tree.map(jnp.zeros_like, student["params"])
    own = jax.tree_util.tree_map_with_path(
      lambda path, x: jnp.ones_like(x) if path[-1].key == "var" else jnp.zeros_like(x),
      student["batch_stats"],
    )
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=student["params"],
      batch_stats=student["batch_stats"],
      optimizer_state=_keeping(self.step.optimizer).init(student["params"]),
      teacher_params=teacher,
      teacher_batch_stats=own,
      terms={"feature_distance": TermState(frozen, {}, None)},
    )

  def batch(self, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and random choices of a step."""
    meta, shape = self.meta, self.shape
    seed = self.seed + index
    inputs = dict(golden_daformer.step_batch(seed, shape, meta["label_block"]))
    ones = np.ones(shape)
    inputs |= {"source_inverse_depth": ones, "target_inverse_depth": ones}
    if margins := meta["valid_margins"]:
      halves = [[m - m * (i + 1) // 2 for m in margins] for i in range(shape[0])]
      inputs["target_border"] = np.array(halves, np.int32)
    names = self.step.passes
    passes: dict[str, Any] = {name: self._kept() for name in names}
    if self.high:
      crop = tuple(meta["hr_crop_size"])
      boxes = golden_daformer.crop_boxes(seed, shape[1:], crop, 8, len(names))
      for name, (top, _, left, _) in zip(names, boxes, strict=True):
        passes[name] = {"context": {}, "detail": {}, "corner": np.array([top, left], np.int32)}
    draws = {"mix_mask": golden_daformer.mix_mask(seed, inputs["source_label"])}
    draws |= self._augmented(seed, shared=False)
    draws["terms"] = dict.fromkeys(self.step.terms)
    if meta["mask_ratio"] is not None:
      seen = golden_daformer.block_uniform(seed, shape, meta["mask_block"]) > meta["mask_ratio"]
      draws["terms"]["masked"] = {"seen": seen, **self._augmented(seed, shared=True)}
    return jax.tree.map(jnp.asarray, (inputs, draws | {"passes": passes}))

  def _kept(self) -> dict[str, Any]:
    batch, decoder, kept = self.shape[0], self.model.decoder, {}
    if self.model.encoder.drop_path:
      kept["encoder"] = mit_kept(self.model.encoder, batch)
    if decoder.dropout:
      kept["channels"] = golden_daformer.keep_channel(
        "decode_head", batch, decoder.width, decoder.dropout
      )
    return kept

  def _augmented(self, seed: int, *, shared: bool) -> dict[str, Any]:
    augmented = np.array(self.meta["augmented"])
    drawn = golden_daformer.jitter(seed, self.shape[0], shared)
    names = ("brightness", "contrast", "saturation", "hue")
    jitter = dict(zip(names, drawn["factors"], strict=True)) | {"order": drawn["order"]}
    return {
      "use_jitter": augmented,
      "jitter": jitter,
      "use_blur": augmented,
      "blur_sigma": drawn["sigma"],
    }

  def measures(self) -> Iterator[Measure]:
    """All that the file holds."""
    with jax.numpy_dtype_promotion("standard"):  # for optax.scale_by_adam
      adapt, state, every = jax.jit(self._adapt), self.start(), np.ones(len(self.step.terms))
      adapt = adapt.lower(every, state, *self.batch(0)).compile()
    for entry in (n for n in self.z.files if n.startswith("step0/grad_norm_")):
      alone = np.array([float(entry.endswith(f"_norm_{name}")) for name in self.step.terms])
      assert alone.sum() == 1, entry
      _, gradient = adapt(alone, state, *self.batch(0))[0].optimizer_state
      yield from gradients(self.z, {"params": gradient}, self.table, norm=entry)
    losses = []
    for index in range(self.meta["steps"]):
      inputs, draws = self.batch(index)
      after, metrics, maps = adapt(every, state, inputs, draws)
      if index == 0:
        yield from gradients(
          self.z,
          {"params": after.optimizer_state[1]},
          self.table,
          norm="step0/grad_norm",
          probe="step0/grad_probe",
        )
        yield from self.maps(maps)
        yield from self.logits(state, inputs, draws, maps)
      state = after
      losses += [*self.losses(metrics, self.z["losses"][index])]
    yield worst("losses", losses, GRADIENT)
    yield from self.changes(state.params, "")
    yield from self.changes(state.teacher_params, "ema_")
    yield from statistics(self.z, {"batch_stats": state.batch_stats}, self.table)
    teacher = {"batch_stats": state.teacher_batch_stats}
    yield from statistics(self.z, teacher, self.table, prefix="teacher_")
    x = jnp.asarray(golden_daformer.forward_image(self.seed, self.shape))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    got = jax.jit(lambda v, x: self.model.apply(v, x, train=False)["S"])(variables, x)
    yield self._stored("final_eval/logits", got)

  def _adapt(self, shares: Any, state: TrainState, inputs: Any, draws: Any) -> Any:
    """The step in which each term's losses weigh so much; the optimiser keeps the gradients.

    The shares are an argument, so that one program gives the gradient of each term and of all.
    """
    terms = {
      name: _Scaled(term, share)
      for (name, term), share in zip(self.step.terms.items(), shares, strict=True)
    }
    step = dataclasses.replace(self.step, terms=terms, optimizer=_keeping(self.step.optimizer))
    return step.adapt(state, inputs, draws)

  def losses(self, metrics: Mapping[str, Any], expected: np.ndarray) -> Iterator[float]:
    """Errors of the losses of a step; those of the file have their weights."""
    weights = {"feature_distance": self.meta["feature_distance_weight"]}
    share = self.meta["hr_loss_weight"]
    for name, value in zip(map(str, self.z["loss_names"]), expected, strict=True):
      if "acc_seg" in name:
        continue
      own = _LOSSES[name.replace(".hr.", ".")]
      if share is not None and own.startswith("ce_"):
        detail = ".hr." in name
        weights[own] = share if detail else 1 - share
        own_metric = own + "_detail" * detail
      else:
        own_metric = own
      got = weights.get(own, 1.0) * float(metrics[own_metric])
      if np.isnan(value):  # there is no thing: here the distance is 0
        assert own == "feature_distance"
        yield abs(got)
      else:
        yield abs(got / value - 1)

  def maps(self, maps: Mapping[str, Any]) -> Iterator[Measure]:
    """Maps of the first step."""
    weight = jnp.broadcast_to(maps["pixel_weight"], self.shape)
    found = {
      "teacher_logits": maps["teacher_outputs"]["S"],
      "confidence": maps["confidence"],
      "pseudo_label": maps["pseudo_label"],
      "confident_fraction": maps["confident_fraction"][0, 0, 0],
      "mixed_label": maps["label"],
      "mixed_weight": weight,
      "feature_label": maps["feature_label"],
      "mixed_image": maps["image"][:, ::2, ::2],
    }
    if "masked_image" in maps:
      found["masked_image"] = maps["masked_image"][:, ::2, ::2]
    for name, value in found.items():
      if f"step0/{name}" in self.z:
        yield self._stored(f"step0/{name}", value)

  def logits(
    self, state: TrainState, inputs: Mapping[str, Any], draws: Mapping[str, Any], maps: Any
  ) -> Iterator[Measure]:
    """What the student predicts in the first step's passes."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    seen = {"source": inputs["source_image"], "mixed": maps["image"]}
    seen |= {"masked": maps["masked_image"]} if "masked" in self.step.passes else {}
    run = jax.jit(lambda v, x, draws: forward(self.model, v, x, draws=draws)[0]["S"])
    for name, x in seen.items():
      yield self._stored(f"step0/logits_{name}", run(variables, x, draws["passes"][name]))

  def changes(self, params: Any, prefix: str) -> Iterator[Measure]:
    """How far parameters moved from their start, and where to."""
    names, norms, probes = list(map(str, self.z["param_names"])), [], []
    largest = self.z["step0/grad_norm"].max()
    for index, name in enumerate(names):
      # The keys' biases have no gradient but rounding, as what a normalisation follows: AdamW turns
      # that into full steps.
      if self.z["step0/grad_norm"][index] < NOISE * largest or name.endswith("attn.kv.bias"):
        continue
      value = self.table.tensor({"params": params}, name)
      change = value - golden_daformer.parameter(name, value.shape)
      norm = self.z[f"{prefix}delta_norm"][index]
      norms.append(abs(np.linalg.norm(change) - norm) / norm)
      probe = golden_daformer.probe(name, change)
      probes.append(abs(probe - self.z[f"{prefix}delta_probe"][index]) / norm)
    assert len(norms) > 0.8 * len(names)
    yield worst(f"{prefix}delta_norm", norms, CHANGES)
    yield worst(f"{prefix}delta_probe", probes, CHANGES)

  def _stored(self, entry: str, got: Any) -> Measure:
    """Of an array; classes must be equal."""
    expected = self.z[entry]
    bounds = {"f8": GRADIENT, "f4": STORED}
    bound = bounds.get(expected.dtype.str[1:], np.finfo(np.float64).tiny)
    return Measure(entry, relative(got, expected.astype(np.float64)), bound, expected.size)


def steps_file(path: Path) -> Iterator[Measure]:
  """All measures of one file."""
  return Steps(path).measures()
