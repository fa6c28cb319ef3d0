r"""GTA5 → Cityscapes, CorDA over DAFormer's network: MiT-B5 and a fusing decoder for each task.

    python -m corda_jax.main --config=configs/gta2cs_corda_mit.py --workdir=runs/gta2cs_corda_mit \
      --config.initial_weights=weights/mit_b5.pth

CorDA: Wang et al., ICCV 2021; MiT: Xie et al., NeurIPS 2021; the decoder and the optimiser: Hoyer
et al., CVPR 2022. The two bottlenecks of each task are DAFormer's decoder, and the tasks' features,
which the correlation exchanges, have its 256 channels.

Nobody has published this combination. For comparison, over 19 classes: CorDA 56.6 mIoU with
ResNet-101, DAFormer 68.3 with this encoder and decoder. Not run here on the real data.
"""

import ml_collections

from configs import default, gta2cs_daformer
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.daformer import FusionDecoder
from corda_jax.models.encoders.mix_transformer import mix_transformer


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """CorDA's terms, MiT-B5, AdamW, 40,000 steps of 2 + 2 crops.

  Args:
    preset: "as_released"; "batch=16" for larger batches: `default.apply_preset`.
  """
  network = Corda(
    encoder=mix_transformer("B5"), decoder=FusionDecoder(), initial_semantics_from="decoder"
  )
  config = default.of_transformer(network, gta2cs_daformer.OPTIMIZER)
  return default.apply_preset(config, preset, ("as_released",))
