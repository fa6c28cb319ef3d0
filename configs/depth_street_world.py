"""Depth from stereo and video of the street world, from random weights, on a laptop.

python -m corda_jax.main --config=configs/depth_street_world.py --workdir=runs/depth
python -m corda_jax.main --config=configs/depth_street_world.py:video --workdir=runs/depth_video

On two cores of an Intel Xeon, stereo takes 10 minutes and reaches abs rel 0.135 (best constant per
row: 0.260); video takes 18 minutes and reaches 0.222; both take 22 minutes and reach 0.160.
"""

import ml_collections

from configs import demo, depth
from corda_jax.configuration import settings


def get_config(views: str = "stereo") -> ml_collections.ConfigDict:
  """A small network on the demo's real city, with more streets and at twice the size.

  Args:
    views: "stereo", "video" or "both".

  Raises:
    ValueError: `views` is none of these.
  """
  config = depth.get_config()
  config.num_steps = 4_000
  config.evaluate_every = 1_000
  config.checkpoint_every = 1_000

  small = demo.get_config()
  data = config.data = small.data
  del data.source
  data.target.views = depth.views_of(views)
  data.target.depth = "official"  # ground truth, also in validation
  # The demo's scenes under the demo's names, and more, whose labels nothing reads: with 600 alone
  # the network overfits. Larger, because in small images far objects move by fractions of a pixel.
  data.target.root = "data/street_world/cityscapes_288x144"
  data.street_world.target_height, data.street_world.target_width = 144, 288
  data.street_world.target_frames = 1_500
  # Whole frames, as published: a network that always sees nearly the same crop learns where its
  # borders are, and fails on frames of another size.
  data.target.height, data.target.width = 96, 192
  data.crop_height, data.crop_width = 96, 192
  data.batch_size = 4

  model = config.model
  model.pose.encoder = settings(demo.SMALL_ENCODER)
  model.pose.decoder_width = demo.POSE_DECODER_WIDTH
  model.depth.encoder = settings(demo.SMALL_ENCODER, stage_sizes=(1, 2, 2))
  model.depth.widths = (8, 16, 32, 64)

  if "right" in data.target.views:
    # Nothing is nearer than 4.4 m, two units. With 0.1 units, initial disparities would be half the
    # width of these small images.
    config.depth.min_depth = 2.0
  else:
    # Video has its own unit. From random weights, motions begin at 0.001 units, and depths shrink
    # until these motions explain the images. The limit leaves room for that.
    config.depth.min_depth = 0.01
    model.depth.initial_disparity = 0.1
  # The images of a stereo pair always differ by the baseline's parallax. Where that is less than a
  # pixel, noise alone can make the unwarped image match better, and far objects come out too near.
  config.depth.automask = "temporal"
  config.depth.ignored_bottom = 0.1

  optimizer = config.optimizer
  optimizer.learning_rate = 1e-3
  optimizer.depth_encoder_learning_rate_factor = 1.0  # nothing is pretrained
  optimizer.decay_at = (3_000,)
  return config
