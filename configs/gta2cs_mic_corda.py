r"""GTA5 → Cityscapes, MIC on HRDA with CorDA's depth: all that this project has, in one recipe.

MIC: Hoyer et al., CVPR 2023 (arXiv 2212.01322); CorDA: Wang et al., ICCV 2021 (arXiv 2104.13613).

    python -m corda_jax.main --config=configs/gta2cs_mic_corda.py --workdir=runs/gta2cs_mic_corda \
      --config.initial_weights=weights/mit_b5.pth

Depth and semantics refine each other at both resolutions; the depth heads learn from depth files on
the context, and where they disagree the mixed image's pixels weigh less.

Nobody has published this combination. For comparison, over 19 classes: MIC 75.9 mIoU without depth,
CorDA 56.6 with ResNet-101. Not run here on the real data.
"""

import ml_collections

from configs import default, gta2cs_daformer, gta2cs_hrda, gta2cs_mic
from corda_jax.adaptation.terms.depth_files import DepthFiles
from corda_jax.configuration import settings


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from MIC: depth decoder and heads, correlation, depth files, pixel weights.

  Args:
    preset: "as_released" or "as_published"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = gta2cs_mic.get_config()
  network = gta2cs_daformer.NETWORK.clone(
    depth=True, correlation=True, initial_semantics_from="decoder"
  )
  gta2cs_hrda.at_two_resolutions(config, network)
  config.data.source.depth, config.data.target.depth = "disparity", "stereo"
  config.terms.depth_files = settings(DepthFiles)
  config.terms.mixed.depth_weight.enabled = True
  published = gta2cs_hrda.AS_PUBLISHED | {"terms.mixed.depth_weight.share_across_batch": False}
  return default.apply_preset(config, preset, published=published)
