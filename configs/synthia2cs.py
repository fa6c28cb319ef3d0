r"""SYNTHIA → Cityscapes, CorDA as released, with stereo depth on the target.

Wang et al., "Domain Adaptive Semantic Segmentation with Self-Supervised Depth Estimation", ICCV
2021 (arXiv 2104.13613).

    python -m corda_jax.main --config=configs/synthia2cs.py --workdir=runs/synthia2cs \
      --config.initial_weights=weights/resnet101COCO-41f33a49.pth
    python -m corda_jax.main --config=configs/synthia2cs.py:as_published \
      --workdir=runs/synthia2cs_published

Expected: 55.0 mIoU over 16 classes and 62.8 over 13, means of 5 runs (the publication); 56.3 over
16 by the checkpoint that its authors released (their README). Both start from a ResNet-101 trained
on COCO. Not run here on the real data.
"""

import ml_collections

from configs import default


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from GTA5 → Cityscapes.

  Args:
    preset: "as_released" or "as_published"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = default.get_config()
  config.data.source.dataset = "synthia"
  config.data.source.root = "data/RAND_CITYSCAPES"
  config.data.source.depth = "simulator"
  config.model.initial_semantics_from = "decoder"
  config.teacher.initial_label_steps = 0  # always from the final prediction
  config.evaluation.classes = "synthia_16"
  return default.apply_preset(config, preset)
