"""The released GTA5 → Cityscapes recipe, assembled from the parts' own defaults.

Recipes import `get_config` and override what differs. Any value can also be set on the command
line: `--config.optimizer.learning_rate=1e-3`. The docstring of each part documents its fields:
`python -m pydoc corda_jax.adaptation.teacher`, and so on.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import ml_collections

from corda_jax.adaptation.mixing import Mixing
from corda_jax.adaptation.settings import AdaptationCompute, AdaptationEvaluation
from corda_jax.adaptation.teacher import Teacher
from corda_jax.adaptation.terms.depth_files import DepthFiles
from corda_jax.adaptation.terms.mixed import MixedSelfTraining
from corda_jax.adaptation.terms.photometric import Photometric
from corda_jax.adaptation.terms.source import SourceSupervision
from corda_jax.configuration import settings
from corda_jax.inference.settings import Prediction
from corda_jax.models.build import build_network, model_settings
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.depth_guided import DepthGuided
from corda_jax.models.hrda import Hrda
from corda_jax.models.normalization import IMAGENET
from corda_jax.training.optimizer import SGD, AdamW
from corda_jax.training.settings import Running
from data_pipelines.settings import Data

# Published values where the release differs; docs/paper_and_release.md explains each.
_AS_PUBLISHED = {
  "model.decoder.dilations": (6, 12, 18, 24),
  "terms.mixed.depth_weight.share_across_batch": False,
  "optimizer.encoder_updates_per_step.residual": 1,
  "optimizer.encoder_updates_per_step.projection": 1,
}


def get_config() -> ml_collections.ConfigDict:
  """ResNet-101, 250,000 steps of 2 + 2 crops."""
  config = running()
  config.data = settings(Data)
  config.model = model_settings(settings(Corda))
  config.teacher = settings(Teacher)
  config.mixing = settings(Mixing)
  config.terms = ml_collections.ConfigDict(
    {
      "source": settings(SourceSupervision),
      "mixed": settings(MixedSelfTraining),
      "depth_files": settings(DepthFiles),
      "photometric": settings(Photometric),  # off until domains are named
    }
  )
  config.optimizer = settings(SGD)
  config.compute = settings(AdaptationCompute)
  config.evaluation = settings(AdaptationEvaluation)
  config.prediction = settings(Prediction)
  return config


def of_transformer(network: Corda | Hrda, optimizer: AdamW) -> ml_collections.ConfigDict:
  """The same with another network, whose encoder is pretrained on ImageNet, for 40,000 steps."""
  config = get_config()
  config.model = model_settings(settings(network))
  config.model.normalization = settings(IMAGENET)
  config.optimizer = settings(optimizer)
  config.num_steps = 40_000
  config.evaluate_every = config.checkpoint_every = config.draw_every = 4_000
  config.teacher.initial_label_steps = 0
  return config


def running(**values) -> ml_collections.ConfigDict:
  """The top-level fields, with `values` in place of the defaults."""
  config = settings(Running, **values)
  del config.part
  return config


def without_depth(config: ml_collections.ConfigDict) -> None:
  """Removes depth heads, depth losses and depth files, in place.

  What remains of CorDA is DACS's network, whose classifier reads the encoder itself.
  """
  config.model.initial_semantics_from = "none"
  config.model.depth = config.model.correlation = False
  deeplab = settings(DeepLabDecoder).part
  if config.model.decoder.get("part", deeplab) == deeplab:
    config.model.decoder.width = 0
  del config.terms.depth_files, config.terms.photometric
  config.data.source.depth = config.data.target.depth = "none"


def depth_as_input(config: ml_collections.ConfigDict, encoder: Any, **values: Any) -> None:
  """Adds depth as an input of the network, in place.

  Args:
    config: configuration whose data sets have depth files, also in validation.
    encoder: of the depth; its levels have the strides of those of the image's.
    **values: fields of `DepthGuided`.
  """
  network = config.model.network if "network" in config.model else config.model
  own = settings(DepthGuided, **values)
  for name in set(own) - {field.name for field in dataclasses.fields(Corda)}:
    network[name] = own[name]
  network.part, network.depth_encoder = own.part, settings(encoder)


def source_alone(config: ml_collections.ConfigDict) -> None:
  """Removes all terms but the source's labels, and the sampling of rare classes, in place."""
  for name in [name for name in config.terms if name != "source"]:
    del config.terms[name]
  config.data.source.rare_classes.enabled = False


def apply_preset(
  config: ml_collections.ConfigDict,
  preset: str,
  known: Sequence[str] = ("as_released", "as_published"),
  published: Mapping[str, Any] = MappingProxyType(_AS_PUBLISHED),
) -> ml_collections.ConfigDict:
  """Switches between release and publication, and scales the batch.

  Args:
    config: configuration as released; changed in place.
    preset: "as_released" changes nothing; "as_published" follows the publication; either may be
      followed, or replaced, by a batch: "as_published,batch=16", "batch=16"; see `scale_batch`.
    known: names of the presets that the configuration has.
    published: field → value, which "as_published" sets.

  Raises:
    ValueError: the preset is unknown, or the batch is invalid.
  """
  name, _, batch = preset.partition("batch=")
  if batch:
    name = name.removesuffix(",") or known[0]
  if name not in known:
    raise ValueError(
      f"preset {preset!r} is unknown, expected {' or '.join(map(repr, known))}, optionally "
      f"with a batch, as in '{known[0]},batch=16'"
    )
  if name == "as_published":
    config.update_from_flattened_dict(dict(published))
  return scale_batch(config, batch) if batch else config


def scale_batch(config: ml_collections.ConfigDict, batch: str) -> ml_collections.ConfigDict:
  """Scales a configuration to a larger batch: as many pairs in fewer steps (docs/scaling.md).

  With K times as many pairs per step, all step counts are divided by K, that of the warm-up, too;
  SGD's learning rate is multiplied by K, AdamW's is unchanged; the teacher's decay is raised to the
  K-th power; and batch normalisation groups keep their size, in networks that have such.

  Args:
    config: configuration; changed in place.
    batch: pairs per step, a multiple of the configuration's.

  Raises:
    ValueError: the batch is not such a multiple.
  """
  old = config.data.batch_size
  if not batch.isdecimal() or not int(batch) or int(batch) % old:
    raise ValueError(f"batch={batch} is invalid, expected a multiple of {old} pairs")
  factor = int(batch) // old
  config.data.batch_size = int(batch)
  if _normalizes_by_groups(config.model):
    config.model.batch_norm_group = config.model.batch_norm_group or old
  for name in ("num_steps", "evaluate_every", "checkpoint_every", "draw_every"):
    config[name] = -(-config[name] // factor)
  warmup = config.optimizer.warmup
  warmup.steps = -(-warmup.steps // factor)
  teacher = config.teacher
  teacher.initial_label_steps = -(-teacher.initial_label_steps // factor)
  teacher.decay = teacher.decay**factor
  if config.optimizer.part == settings(SGD).part:
    config.optimizer.learning_rate *= factor
  return config


def _normalizes_by_groups(model: ml_collections.ConfigDict) -> bool:
  network = build_network(model, 19)
  parts = (network.encoder, network.decoder)
  return not isinstance(network, Hrda) and any(hasattr(x, "batch_norm_group") for x in parts)
