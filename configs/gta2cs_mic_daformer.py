r"""GTA5 → Cityscapes, MIC on DAFormer as released.

Hoyer, Dai, Wang and Van Gool, "MIC: Masked Image Consistency for Context-Enhanced Domain
Adaptation", CVPR 2023 (arXiv 2212.01322).

    python -m corda_jax.main --config=configs/gta2cs_mic_daformer.py \
      --workdir=runs/gta2cs_mic_daformer --config.initial_weights=weights/mit_b5.pth

Expected: 70.6 mIoU over 19 classes (the publication, quoted from memory); DAFormer without the
masked term has 68.3. Not run here on the real data.
"""

import ml_collections

from configs import default, gta2cs_daformer
from corda_jax.adaptation.terms.masked import MaskedConsistency
from corda_jax.configuration import settings


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from DAFormer: one more term, with smaller blocks than on HRDA.

  Args:
    preset: "as_released" or "as_published"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = gta2cs_daformer.get_config()
  config.terms.masked = settings(MaskedConsistency, block=32)
  return default.apply_preset(config, preset, published=gta2cs_daformer.AS_PUBLISHED)
