r"""SYNTHIA → Cityscapes, DAFormer as released.

Hoyer, Dai and Van Gool, "DAFormer: Improving Network Architectures and Training Strategies for
Domain-Adaptive Semantic Segmentation", CVPR 2022 (arXiv 2111.14887).

    python -m corda_jax.main --config=configs/synthia2cs_daformer.py \
      --workdir=runs/synthia2cs_daformer --config.initial_weights=weights/mit_b5.pth

Expected: 60.9 mIoU over 16 classes, mean of 3 runs (the publication). Not run here on the real
data.
"""

import ml_collections

from configs import gta2cs_daformer


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from GTA5 → Cityscapes.

  Args:
    preset: "as_released" or "as_published"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = gta2cs_daformer.get_config(preset)
  from_synthia(config)
  return config


def from_synthia(config: ml_collections.ConfigDict, *, scale: int = 1) -> None:
  """Takes SYNTHIA as the source, at `scale` times its 1280x760 pixels, in place."""
  config.data.source.dataset = "synthia"
  config.data.source.root = "data/RAND_CITYSCAPES"
  config.data.source.height, config.data.source.width = 760 * scale, 1280 * scale
  config.evaluation.classes = "synthia_16"
