"""Depth from stereo and video of the street world, from random weights, on a laptop.

python -m corda_jax.main --config=configs/depth_street_world.py --workdir=runs/depth
python -m corda_jax.main --config=configs/depth_street_world.py:video --workdir=runs/depth_video
"""

import ml_collections

from configs import demo, depth
from configs.depth_cityscapes import VIEWS


def get_config(views: str = "stereo") -> ml_collections.ConfigDict:
  """A small network on the demo's real city.

  Args:
    views: "stereo", "video" or "both".

  Raises:
    ValueError: there are no such views.
  """
  if views not in VIEWS:
    raise ValueError(f"views {views!r} are unknown, wanted {', '.join(VIEWS)}")
  config = depth.get_config()
  config.num_steps = 4_000
  config.evaluate_every = 1_000
  config.checkpoint_every = 1_000

  data = config.data = demo.get_config().data
  del data.source
  data.target.views = VIEWS[views]
  data.target.depth = "official"  # the truth, also in validation
  data.batch_size = 4

  model = config.model
  for encoder in (model.encoder, model.pose_encoder):
    encoder.stage_sizes = (1, 1, 1)
    encoder.block = "basic"
    encoder.stride_on = "conv1"
    encoder.expansion = 1
    encoder.width = 24
    encoder.stem_kernel = 5
    encoder.stem_pool = False
    encoder.strides = (2, 2, 2)
    encoder.dilations = (1, 1, 1)
  model.encoder.stage_sizes = (1, 2, 2)
  model.decoder_widths = (8, 16, 32, 64)
  model.pose_decoder_width = 32

  optimizer = config.optimizer
  optimizer.learning_rate = 1e-3
  optimizer.depth_encoder_learning_rate_factor = 1.0  # nothing is pretrained
  optimizer.decay_at = (3_000,)
  return config
