"""Depth of Cityscapes from stereo pairs, video or both, for `data.target.depth = "mono"`.

    python -m corda_jax.main --config=configs/depth_cityscapes.py --workdir=runs/depth_cityscapes \
      --config.initial_weights.depth=weights/resnet101.pth
    python -m corda_jax.main --config=configs/depth_cityscapes.py --workdir=runs/depth_cityscapes \
      --mode=label_depth --config.label_depth.folder=data/CityScapes_depth

Needs leftImg8bit; rightImg8bit and camera for stereo; leftImg8bit_sequence (324 GB) and camera for
video; and disparity, the data set's own, for validation. `:stereo`, `:video` or `:both` after the
file name selects what depth is learned from. Not run here on the real data.
"""

import ml_collections

from configs import depth


def get_config(views: str = "stereo") -> ml_collections.ConfigDict:
  """The default configuration of the depth stage, with these views.

  Args:
    views: "stereo", "video" or "both".

  Raises:
    ValueError: `views` is none of these.
  """
  config = depth.get_config()
  config.data.target.views = depth.views_of(views)
  config.data.target.depth = "official"
  return config
