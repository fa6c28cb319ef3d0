r"""GTA5 → Cityscapes, MIC on HRDA with depth as an input, after MICDrop (Yang et al., ECCV 2024).

MIC: Hoyer et al., CVPR 2023 (arXiv 2212.01322); MICDrop: arXiv 2408.16478.

    python -m corda_jax.main --config=configs/gta2cs_mic_depth_input.py \
      --workdir=runs/gta2cs_mic_depth_input --config.initial_weights=weights/mit_b5.pth

Both domains need depth files that were made in the same way, also for validation: label them with
configs/depth_anything.py (docs/depth.md) at the size of the frames here, data.target.height=1024
and width=2048 for Cityscapes, 1407 and 2560 for GTA5, and set data.source.depth_root and
data.target.depth_root as that says. Not run here on the real data, and MICDrop's details are not
public.
"""

import ml_collections

from configs import default, gta2cs_mic
from corda_jax.models.encoders.mix_transformer import mix_transformer


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from MIC: the depth files, a second encoder, fusion, complementary dropout.

  Args:
    preset: "as_released" or "as_published", of MIC; "batch=16" for larger batches:
      `default.apply_preset`.
  """
  config = gta2cs_mic.get_config(preset)
  default.depth_as_input(config, mix_transformer("B0"))
  config.data.source.depth, config.data.target.depth = "disparity", "mono"
  return config
