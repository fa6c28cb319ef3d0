r"""GTA5 → Cityscapes without adaptation: trained on the source, measured on the target.

The lower bound of every adaptation method, with the network and the optimiser of `gta2cs_dacs`.

    python -m corda_jax.main --config=configs/gta2cs_source_only.py \
      --workdir=runs/gta2cs_source_only \
      --config.initial_weights=weights/resnet101COCO-41f33a49.pth

Expected: 36.6 mIoU over 19 classes is the figure of Tsai et al. (AdaptSegNet, CVPR 2018) for this
network from ImageNet weights under another recipe; there is none for this one. Not run here on the
real data.
"""

import ml_collections

from configs import gta2cs_dacs


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from DACS: no term learns from the target.

  Args:
    preset: "as_released" or "as_published"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = gta2cs_dacs.get_config(preset)
  del config.terms.mixed
  return config
