r"""GTA5 alone, DAFormer's network: MiT-B5 and its decoder, measured on Cityscapes.

Hoyer, Dai and Van Gool, "DAFormer: Improving Network Architectures and Training Strategies for
Domain-Adaptive Semantic Segmentation", CVPR 2022 (arXiv 2111.14887).

    python -m corda_jax.main --config=configs/gta2cs_daformer_source_only.py \
      --workdir=runs/gta2cs_daformer_source_only --config.initial_weights=weights/mit_b5.pth

Not run here on the real data; no figure for the source alone is at hand. With self-training, rare
class sampling and a feature distance, which are not in this recipe, the publication adapts this
network to 68.3 mIoU over 19 classes.
"""

import ml_collections

from configs import default, gta2cs_corda_mit


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from CorDA on the same network: no depth, and no term learns from the target.

  Args:
    preset: "as_released"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = gta2cs_corda_mit.get_config(preset)
  default.without_depth(config)
  del config.terms.mixed
  config.model.resize_outputs = "centered"
  return config
