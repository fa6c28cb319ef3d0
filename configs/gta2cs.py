r"""GTA5 → Cityscapes, CorDA as released, with monocular source and stereo target depth.

Wang et al., "Domain Adaptive Semantic Segmentation with Self-Supervised Depth Estimation", ICCV
2021 (arXiv 2104.13613).

    python -m corda_jax.main --config=configs/gta2cs.py --workdir=runs/gta2cs \
      --config.initial_weights=weights/resnet101COCO-41f33a49.pth
    python -m corda_jax.main --config=configs/gta2cs.py:as_published --workdir=runs/gta2cs_published

Expected: 56.6 mIoU over 19 classes, mean of 5 runs (the publication); 57.7 by the checkpoint that
its authors released (their README). Both start from a ResNet-101 trained on COCO. Not run here on
the real data.
"""

import ml_collections

from configs import default


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """The default configuration is this recipe.

  Args:
    preset: "as_released" or "as_published"; "batch=16" for larger batches: `default.apply_preset`.
  """
  return default.apply_preset(default.get_config(), preset)
