"""SYNTHIA → Cityscapes, CorDA as released, with stereo depth on the target.

Wang et al., "Domain Adaptive Semantic Segmentation with Self-Supervised Depth Estimation", ICCV
2021 (arXiv 2104.13613).

    python -m corda_jax.main --config=configs/synthia2cs.py --workdir=runs/synthia2cs

Published: 55.0 mIoU over 16 classes and 62.8 over 13, mean of 5 runs; the released checkpoint has
56.3. Not run here on the real data. The release starts from a ResNet-101 trained on COCO; this
configuration starts from random weights.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  """What differs from GTA5 → Cityscapes."""
  config = default.get_config()
  config.data.source.dataset = "synthia"
  config.data.source.root = "data/RAND_CITYSCAPES"
  config.data.source.depth = "simulator"
  config.data.target.depth = "stereo"
  config.model.initial_semantics_from = "decoder"
  config.method.initial_pseudo_label_steps = 0  # always from the final prediction
  config.evaluation.classes = "synthia_16"
  return config
