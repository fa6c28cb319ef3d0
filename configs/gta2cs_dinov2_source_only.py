r"""GTA5 alone, DINOv2-B and VFM-UDA's decoder, measured on Cityscapes.

Englert et al., "Exploring the Benefits of Vision Foundation Models for Unsupervised Domain
Adaptation", CVPR workshops 2024 (arXiv 2406.09896); DINOv2: Oquab et al., 2023.

    python -m corda_jax.main --config=configs/gta2cs_dinov2_source_only.py \
      --workdir=runs/gta2cs_dinov2_source_only \
      --config.initial_weights=weights/dinov2_vitb14_pretrain.pth

Not run here on the real data; no figure for the source alone is at hand. With self-training and
masked consistency, which are not in this recipe, the authors' released network reaches 77.1 mIoU
over 19 classes, from crops of 1024 pixels.
"""

import ml_collections

from configs import default
from corda_jax.configuration import settings
from corda_jax.models.build import model_settings
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.lightweight import LightweightDecoder
from corda_jax.models.encoders.vision_transformer import dinov2
from corda_jax.models.normalization import IMAGENET
from corda_jax.training.optimizer import AdamW, Warmup


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """DINOv2-B at 560 pixels for crops of 512, AdamW, 40,000 steps of 2 crops.

  Args:
    preset: "as_released"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = default.get_config()
  encoder = dinov2("B").clone(image_scale=1.1, levels=(11,))
  config.model = model_settings(settings(Corda(encoder=encoder, decoder=LightweightDecoder())))
  config.model.normalization = settings(IMAGENET)
  config.model.resize_outputs = "centered"
  default.without_depth(config)
  del config.terms.mixed
  config.optimizer = settings(
    AdamW,
    learning_rate=5e-6 * 2**0.5,  # 5e-5 times the root of the batch for the decoder
    schedule_power=1.0,
    weight_decay=0.01,
    warmup=Warmup(steps=1_500, start=1e-3, with_decay=False),
  )
  config.num_steps = 40_000
  config.evaluate_every = config.checkpoint_every = config.draw_every = 4_000
  # Patches of resized images do not join where tiles do.
  config.prediction.tile_height = config.prediction.tile_width = 0
  return default.apply_preset(config, preset, ("as_released",))
