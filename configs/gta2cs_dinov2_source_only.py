r"""GTA5 alone, DINOv2-B and VFM-UDA's decoder, measured on Cityscapes.

Englert et al., "Exploring the Benefits of Vision Foundation Models for Unsupervised Domain
Adaptation", CVPR workshops 2024 (arXiv 2406.09896); DINOv2: Oquab et al., 2023.

    python -m corda_jax.main --config=configs/gta2cs_dinov2_source_only.py \
      --workdir=runs/gta2cs_dinov2_source_only \
      --config.initial_weights=weights/dinov2_vitb14_pretrain.pth

Not run here on the real data; no figure for the source alone is at hand. With self-training and
masked consistency (gta2cs_vfm_uda.py), the authors' released network reaches 77.1 mIoU over 19
classes.
"""

import ml_collections

from configs import default, gta2cs_vfm_uda


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from VFM-UDA: no term learns from the target, or of rare classes.

  Args:
    preset: "as_released"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = gta2cs_vfm_uda.get_config(preset)
  default.source_alone(config)
  return config
