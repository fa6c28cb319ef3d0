"""Depth from stereo and video of the street world, from random weights, on a laptop.

python -m corda_jax.main --config=configs/depth_street_world.py --workdir=runs/depth
python -m corda_jax.main --config=configs/depth_street_world.py:video --workdir=runs/depth_video

On two cores of an Intel Xeon: 10 minutes, and abs rel 0.135 (best constant a row: 0.260); video 18
minutes and 0.222; both 22 minutes and 0.160.
"""

import ml_collections

from configs import demo, depth
from corda_jax.configuration import settings


def get_config(views: str = "stereo") -> ml_collections.ConfigDict:
  """A small network on the demo's real city: more streets of it, at twice the size.

  Args:
    views: "stereo", "video" or "both".

  Raises:
    ValueError: there are no such views.
  """
  config = depth.get_config()
  config.num_steps = 4_000
  config.evaluate_every = 1_000
  config.checkpoint_every = 1_000

  small = demo.get_config()
  data = config.data = small.data
  del data.source
  data.target.views = depth.views_of(views)
  data.target.depth = "official"  # the truth, also in validation
  # The demo's scenes by the demo's names, and more that nobody labels: from 600 alone the network
  # learns them by heart. Larger, since in small images what is far moves by fractions of a pixel.
  data.target.root = "data/street_world/cityscapes_288x144"
  data.street_world.target_height, data.street_world.target_width = 144, 288
  data.street_world.target_frames = 1_500
  # Whole frames, as published: a network that always sees nearly the same crop learns where its
  # borders are, and errs on frames of another size.
  data.target.height, data.target.width = 96, 192
  data.crop_height, data.crop_width = 96, 192
  data.batch_size = 4

  model = config.model
  model.pose.encoder = settings(demo.SMALL_ENCODER)
  model.pose.decoder_width = demo.POSE_DECODER_WIDTH
  model.depth.encoder = settings(demo.SMALL_ENCODER, stage_sizes=(1, 2, 2))
  model.depth.widths = (8, 16, 32, 64)

  if "right" in data.target.views:
    # Nothing is nearer than 4.4 m, two units: at 0.1 units the small images would begin with
    # disparities of half their width.
    config.depth.min_depth = 2.0
  else:
    # Video finds a unit of its own. From random weights it begins with motions of 0.001 units, and
    # depths come near until these explain the images: room for that.
    config.depth.min_depth = 0.01
    model.depth.initial_disparity = 0.1
  # Two images of one moment always differ by what the baseline moves. Where that is less than a
  # pixel, noise alone can make the unwarped one the better, and what is far comes out too near.
  config.depth.automask = "temporal"
  config.depth.ignored_bottom = 0.1

  optimizer = config.optimizer
  optimizer.learning_rate = 1e-3
  optimizer.depth_encoder_learning_rate_factor = 1.0  # nothing is pretrained
  optimizer.decay_at = (3_000,)
  return config
