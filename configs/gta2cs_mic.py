r"""GTA5 → Cityscapes, MIC on HRDA as released.

Hoyer, Dai, Wang and Van Gool, "MIC: Masked Image Consistency for Context-Enhanced Domain
Adaptation", CVPR 2023 (arXiv 2212.01322).

    python -m corda_jax.main --config=configs/gta2cs_mic.py --workdir=runs/gta2cs_mic \
      --config.initial_weights=weights/mit_b5.pth

The network that the authors released is measured as DAFormer's is: see gta2cs_daformer.py.

Expected: 75.9 mIoU over 19 classes, mean of 3 runs (the publication). Not run here on the real
data.
"""

import ml_collections

from configs import default, gta2cs_hrda
from corda_jax.adaptation.terms.masked import MaskedConsistency
from corda_jax.configuration import settings


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from HRDA: one more term.

  Args:
    preset: "as_released" or "as_published"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = gta2cs_hrda.get_config()
  config.terms.masked = settings(MaskedConsistency)
  return default.apply_preset(config, preset, published=gta2cs_hrda.AS_PUBLISHED)
