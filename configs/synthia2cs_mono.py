r"""SYNTHIA → Cityscapes, CorDA as released, with monocular depth on the target.

Wang et al., "Domain Adaptive Semantic Segmentation with Self-Supervised Depth Estimation", ICCV
2021 (arXiv 2104.13613). The release has this recipe beside the stereo one.

    python -m corda_jax.main --config=configs/synthia2cs_mono.py --workdir=runs/synthia2cs_mono \
      --config.initial_weights=weights/resnet101COCO-41f33a49.pth

Expected: the release names no score for it; with stereo depth it is 55.0 mIoU over 16 classes and
62.8 over 13 (the publication, means of 5 runs). Not run here on the real data.
"""

import ml_collections

from configs import synthia2cs


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from stereo depth.

  Args:
    preset: "as_released" or "as_published"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = synthia2cs.get_config(preset)
  config.data.target.depth = "mono"
  return config
