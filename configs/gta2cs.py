"""GTA5 → Cityscapes, CorDA as released.

Wang et al., "Domain Adaptive Semantic Segmentation with Self-Supervised Depth Estimation", ICCV
2021 (arXiv 2104.13613).

    python -m corda_jax.main --config=configs/gta2cs.py --workdir=runs/gta2cs

Published: 56.6 mIoU over 19 classes, mean of 5 runs; the released checkpoint has 57.7. Not run here
on the real data. The release starts from a ResNet-101 trained on COCO; this configuration starts
from random weights.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  """The default configuration is this recipe."""
  return default.get_config()
