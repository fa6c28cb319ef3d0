"""Depth of Cityscapes from stereo pairs, video or both, for `data.target.depth = "mono"`.

    python -m corda_jax.main --config=configs/depth_cityscapes.py --workdir=runs/depth_cityscapes \
      --config.initial_weights.depth=weights/resnet101.pth
    python -m corda_jax.main --config=configs/depth_cityscapes.py --workdir=runs/depth_cityscapes \
      --mode=label_depth --config.label_depth.folder=data/CityScapes_depth

Needs, beside leftImg8bit, rightImg8bit and camera (stereo) or leftImg8bit_sequence and camera
(video; 324 GB), and disparity, the data set's own, which validation is measured by. Behind a colon
stands what depth is learned from: `configs/depth_cityscapes.py:both`. Not run here on the real
data.
"""

import ml_collections

from configs import depth


def get_config(views: str = "stereo") -> ml_collections.ConfigDict:
  """The default configuration of the depth stage is this recipe.

  Args:
    views: "stereo", "video" or "both".

  Raises:
    ValueError: there are no such views.
  """
  config = depth.get_config()
  config.data.target.views = depth.views_of(views)
  config.data.target.depth = "official"
  return config
