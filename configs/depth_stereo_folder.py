"""Depth from a folder of stereo pairs, in clips with one camera each, as in KITTI odometry.

    python -m corda_jax.main --config=configs/depth_stereo_folder.py --workdir=runs/depth_kitti \
      --config.initial_weights.depth=weights/resnet101.pth
    python -m corda_jax.main --config=configs/depth_stereo_folder.py --workdir=runs/depth_kitti \
      --mode=label_depth --config.label_depth.encoding=metric

Reads sequences/CLIP/image_2/FRAME.png, image_3 and calib.txt below data.target.root; change the
patterns for other layouts (docs/your_data.md). Not run here at this size; docs/your_data.md has a
small run on real frames.
"""

import ml_collections

from configs import depth


def get_config(views: str = "stereo") -> ml_collections.ConfigDict:
  """The recipe of depth.py on a folder of clips.

  Args:
    views: "stereo", "video" (neighbours in a clip, without image_3) or "both".

  Raises:
    ValueError: `views` is none of these.
  """
  config = depth.get_config()
  target = config.data.target
  target.dataset = "folder"
  target.root = "data/kitti_odometry"
  target.height, target.width = 192, 640  # the working resolution; clips may differ in size
  target.views = depth.views_of(views)
  train = target.folder.train
  train.images = "sequences/{clip}/image_2/{frame}.png"
  train.right = "sequences/{clip}/image_3/{frame}.png"
  train.camera = "sequences/{clip}/calib.txt"
  config.data.crop_height, config.data.crop_width = 192, 640
  config.depth.metres_per_unit = 5.4  # the published baseline is 0.1 units; KITTI's is 0.54 m
  # This is the only split: the photometric loss is measured on some of its frames.
  config.evaluation.split = "train"
  config.evaluation.max_frames = 200
  config.label_depth.splits = ("train",)
  return config
