r"""GTA5 → Cityscapes, HRDA as released.

Hoyer, Dai and Van Gool, "HRDA: Context-Aware High-Resolution Domain-Adaptive Semantic
Segmentation", ECCV 2022 (arXiv 2204.13132).

    python -m corda_jax.main --config=configs/gta2cs_hrda.py --workdir=runs/gta2cs_hrda \
      --config.initial_weights=weights/mit_b5.pth

The network that the authors released is measured as DAFormer's is: see gta2cs_daformer.py.

Expected: 73.8 mIoU over 19 classes, mean of 3 runs (the publication); 73.79 by the network that its
authors released (their README). Not run here on the real data.
"""

import ml_collections

from configs import default, gta2cs_daformer
from corda_jax.configuration import settings
from corda_jax.models.build import model_settings
from corda_jax.models.corda import Corda
from corda_jax.models.hrda import Hrda
from corda_jax.models.normalization import IMAGENET

AS_PUBLISHED = gta2cs_daformer.AS_PUBLISHED | {
  "data.source.height": 1440,
  "model.detail.last_position": True,
}


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from DAFormer: twice the resolution, at two of which the network works.

  Args:
    preset: "as_released" or "as_published"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = gta2cs_daformer.get_config()
  at_two_resolutions(config, gta2cs_daformer.NETWORK)
  return default.apply_preset(config, preset, published=AS_PUBLISHED)


def at_two_resolutions(config: ml_collections.ConfigDict, network: Corda) -> None:
  """Brings DAFormer's recipe to twice the resolution, with a network of HRDA, in place."""
  config.model = model_settings(settings(Hrda(network)))
  config.model.normalization = settings(IMAGENET)
  data = config.data
  data.source.height, data.source.width = 1407, 2560
  data.target.height, data.target.width = 1024, 2048
  data.crop_height = data.crop_width = 1024
  data.source.rare_classes.min_crop_ratio = 2.0
  config.teacher.untrusted_margins = (30, 240, 30, 30)
  config.teacher.margins_of = "frame"
  config.evaluation.window = (1024, 1024)
  config.evaluation.window_stride = (512, 512)
