"""The recipes of DAFormer, HRDA, MIC and VFM-UDA, small enough to compile in seconds."""

import importlib

import ml_collections
import numpy as np

from corda_jax.configuration import settings
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.encoders.resnet import ResNet

RECIPES = (
  "gta2cs_daformer",
  "gta2cs_hrda",
  "gta2cs_mic",
  "gta2cs_mic_daformer",
  "gta2cs_mic_corda",
  "gta2cs_vfm_uda",
)
SIDE = 64  # pixels of a crop
_MIT = {
  "widths": (4, 4, 10, 16),
  "depths": (1, 1, 1, 1),
  "heads": (1, 2, 5, 4),
  "mlp_ratio": 2,
}
# Compiles in half the time.
RESNET = ResNet(
  stage_sizes=(1, 1),
  strides=(1, 2),
  dilations=(1, 1),
  width=4,
  expansion=2,
  stem_kernel=3,
  stem_pool=False,
  trainable_affine=True,
)
_VIT = {"width": 8, "depth": 2, "heads": 2, "levels": (1,), "position_grid": 4}


def get_config(recipe: str, *, plain: bool = False, **overrides) -> ml_collections.ConfigDict:
  """The recipe's configuration for crops of 64 pixels; `plain`: with a ResNet and DeepLab."""
  config = importlib.import_module(f"configs.{recipe}").get_config()
  network = config.model.network if "network" in config.model else config.model
  vision = "position_grid" in network.encoder
  if plain:
    network.encoder = settings(RESNET)
    network.decoder = settings(DeepLabDecoder, width=4, dilations=(1, 2))
  elif vision:
    network.encoder.update(_VIT)
  else:
    network.encoder.update(_MIT)
    network.decoder.embed_width = network.decoder.width = 4
  values = {
    "num_steps": 4,
    "log_every": 1,
    "evaluate_every": 2,
    "checkpoint_every": 2,
    "draw_every": 0,
    "evaluation.pictures": 0,
    "optimizer.warmup.steps": 0,  # else the first updates are too small to be seen
    "data.batch_size": 4,
    "data.evaluation_batch_size": 2,
    "data.crop_height": SIDE,
    "data.crop_width": SIDE,
    "data.source.height": SIDE,
    "data.source.width": 2 * SIDE,
    "data.target.height": SIDE,
    "data.target.width": 2 * SIDE,
    "teacher.confidence_threshold": 0.055,
    "teacher.untrusted_margins": (2, 4, 0, 3),
  }
  if "network" in config.model:
    if plain:
      config.model.attention = settings(DeepLabDecoder, width=0, dilations=(1,))
    else:
      config.model.attention.embed_width = config.model.attention.width = 4
    values |= {
      "model.detail.height": SIDE // 2,
      "model.detail.width": SIDE // 2,
      "evaluation.window": (SIDE, SIDE),
      "evaluation.window_stride": (SIDE // 2, SIDE // 2),
    }
  elif any(config.evaluation.window):
    values |= {"evaluation.window": (SIDE, SIDE), "evaluation.window_stride": (SIDE, SIDE // 2)}
  if "masked" in config.terms:
    values["terms.masked.block"] = 16
  config.update_from_flattened_dict(values | overrides)
  return config


def get_batch(seed: int = 0, size: int = 4) -> dict[str, np.ndarray]:
  """A host batch of `size` pairs; labels are constant on squares that features see whole."""
  random = np.random.RandomState(seed)
  shape = (size, SIDE, SIDE)
  names = ("source", "target")
  batch = {f"{name}_image": random.randint(0, 256, (*shape, 3)).astype(np.uint8) for name in names}
  for name in names:
    label = random.randint(0, 20, (size, 2, 2)).repeat(SIDE // 2, 1).repeat(SIDE // 2, 2)
    batch[f"{name}_label"] = np.where(label == 19, 255, label).astype(np.uint8)
    batch[f"{name}_inverse_depth"] = random.uniform(1.5, 20, shape).astype(np.float32)
    batch[f"{name}_border"] = random.randint(0, 8, (size, 4)).astype(np.int32)
  return batch
