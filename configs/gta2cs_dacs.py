r"""GTA5 → Cityscapes by mixing alone, without depth: DACS, the baseline that CorDA is built on.

Tranheden et al., "DACS: Domain Adaptation via Cross-domain Mixed Sampling", WACV 2021 (arXiv
2007.08702).

    python -m corda_jax.main --config=configs/gta2cs_dacs.py --workdir=runs/gta2cs_dacs \
      --config.initial_weights=weights/resnet101COCO-41f33a49.pth

Expected: 52.1 mIoU over 19 classes (the figure that CorDA's publication compares with). Not run
here on the real data.
"""

import ml_collections

from configs import default, gta2cs


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from CorDA: encoder and classifier alone, no depth.

  Args:
    preset: "as_released" or "as_published"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = gta2cs.get_config(preset)
  default.without_depth(config)
  return config
