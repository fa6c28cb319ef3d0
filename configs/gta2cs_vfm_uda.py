r"""GTA5 → Cityscapes, VFM-UDA: DINOv2-B, self-training and masked patches.

Englert et al., "Exploring the Benefits of Vision Foundation Models for Unsupervised Domain
Adaptation", CVPR workshops 2024 (arXiv 2406.09896); DINOv2: Oquab et al., 2023.

    python -m corda_jax.main --config=configs/gta2cs_vfm_uda.py --workdir=runs/gta2cs_vfm_uda \
      --config.initial_weights=weights/dinov2_vitb14_pretrain.pth

Expected: 77.1 mIoU over 19 classes by the network that its authors released (their README). Not run
here on the real data. What differs from their code:

- They resize frames by a random factor of 0.9 to 1.1 before they crop; frames have one size here.
- They resize by a bilinear filter; GTA5's frames are resized by a bicubic one here.
- They sample a crop again, up to 20 times, until it satisfies both rules, of rare classes and of
  the largest class; these are two loops here, as in DAFormer.
- They sample target frames with replacement; here each is seen once an epoch.
- They mirror images and labels, but not the mask of the untrusted margins; here it is mirrored.
"""

import ml_collections

from configs import default
from corda_jax.adaptation.color_augmentation import ColorAugmentation
from corda_jax.adaptation.terms.masked import MaskedConsistency
from corda_jax.configuration import settings
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.lightweight import LightweightDecoder
from corda_jax.models.encoders.vision_transformer import dinov2
from corda_jax.training.optimizer import AdamW, Warmup

_BATCH = 8
_RATE = 5e-6  # of the encoder, times the root of the batch
# Of patches, the last block's; images of 1024 pixels become 1120.
NETWORK = Corda(
  encoder=dinov2("B").clone(image_scale=1.1, levels=(11,)),
  decoder=LightweightDecoder(),
  initial_semantics_from="none",
  depth=False,
  correlation=False,
  resize_outputs="centered",
)


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """DINOv2-B, AdamW, 40,000 steps of 8 + 8 crops of 1024 pixels.

  Args:
    preset: "as_released"; "batch=16" for larger batches: `default.apply_preset`.
  """
  warmup = Warmup(steps=1_500, start=1e-3, with_decay=False)
  config = default.of_transformer(
    NETWORK, AdamW(schedule_power=1.0, weight_decay=0.01, warmup=warmup)
  )
  default.without_depth(config)
  _set_data(config.data)
  config.teacher.updates_before = 1
  config.teacher.mirror = True
  config.teacher.untrusted_margins = (30, 256, 61, 61)  # 3, 25, 3 and 3 % of a frame
  config.mixing.classes_from = "batch"
  strong = ColorAugmentation(
    decide_for="image", jitter_strength=0.2, brightness="multiply", blend_with_grey=True
  )
  config.mixing.augmentation = settings(strong)
  config.mixing.weak = settings(
    strong,
    jitter_probability=0.9,
    jitter_strength=(32 / 255, 0.5, 0.5, 0.05),
    blur_probability=0.0,
  )
  config.terms.mixed.depth_weight.enabled = False
  config.terms.masked = settings(MaskedConsistency, hidden="patches", augmentation=strong)
  config.evaluation.window = (1024, 1024)
  config.evaluation.window_mean = "probabilities"
  default.apply_preset(config, preset, ("as_released",))
  config.optimizer.learning_rate = _RATE * config.data.batch_size**0.5
  return config


def _set_data(data: ml_collections.ConfigDict) -> None:
  """Frames of 1440 and 1024 rows, crops of 1024."""
  data.batch_size = _BATCH
  data.source.height, data.source.width = 1440, 2620
  data.target.height, data.target.width = 1024, 2048
  data.crop_height = data.crop_width = 1024
  data.source.flip = data.target.flip = True
  data.source.max_class_share = 0.75
  rare = data.source.rare_classes
  rare.enabled, rare.temperature, rare.min_crop_ratio, rare.tries = True, 0.05, 2.0, 20
