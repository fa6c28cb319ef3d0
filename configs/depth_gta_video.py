"""Depth from video of a game or of your own camera: a folder of frames, and nothing else.

    python -m corda_jax.main --config=configs/depth_gta_video.py --workdir=runs/depth_gta \
      --config.initial_weights.depth=weights/resnet101.pth \
      --config.initial_weights.pose=weights/resnet18.pth

GTA5's 24,966 frames are seconds apart, too far for a photometric loss. Use frames of continuous
driving, several per second: VIPER, or any video of your own.

    mkdir -p data/gta_video/train/drive1
    ffmpeg -i drive1.mp4 -vf fps=10 data/gta_video/train/drive1/%06d.png

The network then labels GTA5's frames: `docs/depth.md`. Not run here on real video.
"""

import ml_collections

from configs import depth


def get_config() -> ml_collections.ConfigDict:
  """The recipe of depth.py on a folder of video frames."""
  config = depth.get_config()
  target = config.data.target
  target.dataset = "folder"
  target.root = "data/gta_video"
  target.height, target.width = 720, 1280
  target.views = ("previous", "next")  # the frames before and after, by their numbers
  folder = target.folder
  folder.train.images = "train/{name}.png"
  # There is no ground truth: the photometric loss is measured on some of them.
  config.evaluation.split = "train"
  config.label_depth.splits = ("train",)
  config.evaluation.max_frames = 100
  # For 1920x1080 files with a vertical field of view of 50°; replace them by your camera's. The
  # scale of depth is unknown in any case, and an error of a few percent has little effect.
  folder.camera.intrinsics = (1158.0, 1158.0, 959.5, 539.5)
  return config
