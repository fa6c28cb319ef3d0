"""Depth from video of a game or of your own camera: a folder of frames, and nothing else.

    python -m corda_jax.main --config=configs/depth_gta_video.py --workdir=runs/depth_gta \
      --config.initial_weights.depth=weights/resnet101.pth \
      --config.initial_weights.pose=weights/resnet18.pth

GTA5's 24,966 frames are seconds apart, too far for a photometric loss. What is expected are frames
of drives, several a second, such as those of VIPER, or of any video:

    mkdir -p data/gta_video/train/drive1
    ffmpeg -i drive1.mp4 -vf fps=10 data/gta_video/train/drive1/%06d.png

The network then labels GTA5's frames: `docs/depth.md`. Not run here on real video.
"""

import ml_collections

from configs import depth


def get_config() -> ml_collections.ConfigDict:
  """The recipe of depth.py on a folder of video."""
  config = depth.get_config()
  target = config.data.target
  target.dataset = "folder"
  target.root = "data/gta_video"
  target.height, target.width = 720, 1280
  target.views = ("previous", "next")  # the frames before and after, by their numbers
  folder = target.folder
  folder.train.images = "train/{name}.png"
  # Nothing is known of these frames but themselves: some of them measure the photometric loss.
  config.evaluation.split = "train"
  config.label_depth.splits = ("train",)
  config.evaluation.max_frames = 100
  # Of files of 1920x1080 with a vertical field of view of 50°; give those of your camera. The scale
  # of depth is unknown in any case, and an error of some percent does little.
  folder.camera.intrinsics = (1158.0, 1158.0, 959.5, 539.5)
  return config
