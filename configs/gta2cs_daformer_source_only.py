r"""GTA5 alone, DAFormer's network: MiT-B5 and its decoder, measured on Cityscapes.

Hoyer, Dai and Van Gool, "DAFormer: Improving Network Architectures and Training Strategies for
Domain-Adaptive Semantic Segmentation", CVPR 2022 (arXiv 2111.14887).

    python -m corda_jax.main --config=configs/gta2cs_daformer_source_only.py \
      --workdir=runs/gta2cs_daformer_source_only --config.initial_weights=weights/mit_b5.pth

Not run here on the real data; no figure for the source alone is at hand. With self-training, rare
class sampling and a feature distance (gta2cs_daformer.py), the publication adapts this network to
68.3 mIoU over 19 classes.
"""

import ml_collections

from configs import default, gta2cs_daformer


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """What differs from DAFormer: no term learns from the target, or of rare classes.

  Args:
    preset: "as_released"; "batch=16" for larger batches: `default.apply_preset`.
  """
  config = gta2cs_daformer.get_config()
  default.source_alone(config)
  return default.apply_preset(config, preset, ("as_released",))
