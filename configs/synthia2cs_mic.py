r"""SYNTHIA → Cityscapes, MIC on HRDA as released.

Hoyer, Dai, Wang and Van Gool, "MIC: Masked Image Consistency for Context-Enhanced Domain
Adaptation", CVPR 2023 (arXiv 2212.01322).

    python -m corda_jax.main --config=configs/synthia2cs_mic.py --workdir=runs/synthia2cs_mic \
      --config.initial_weights=weights/mit_b5.pth

Expected: 67.3 mIoU over 16 classes (the publication, quoted from memory); HRDA without the masked
term has 65.8. Not run here on the real data.
"""

import ml_collections

from configs import gta2cs_mic, synthia2cs_daformer


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from GTA5 → Cityscapes.

  Args:
    preset: "as_released" or "as_published"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = gta2cs_mic.get_config(preset)
  synthia2cs_daformer.from_synthia(config, scale=2)
  return config
