"""One procedural city adapts to another, on a laptop: made, prepared, trained and shown.

python -m corda_jax.main --config=configs/demo.py --workdir=runs/demo
"""

import ml_collections

from configs import default


def get_config(preset: str = "as_released") -> ml_collections.ConfigDict:
  """CorDA with a small encoder, trained from scratch on 128x64 crops of the street world.

  Args:
    preset: "as_released", or "batch=8" for a larger batch: `default.apply_preset`.
  """
  config = default.get_config()
  config.num_steps = 2_000
  config.log_every = 50
  config.evaluate_every = 1_000
  config.checkpoint_every = 1_000
  config.draw_every = 1_000

  data = config.data
  data.records_dir = "data/street_world/records"
  data.street_world.enabled = True
  for domain in ("source", "target"):  # the files have the working resolution
    data.street_world[f"{domain}_height"], data.street_world[f"{domain}_width"] = 72, 144
  data.source.root = "data/street_world/gta5"
  data.source.height, data.source.width = 72, 144
  data.target.root = "data/street_world/cityscapes"
  data.target.height, data.target.width = 72, 144
  data.target.depth = "stereo"
  data.crop_height, data.crop_width = 64, 128
  data.batch_size = 2
  data.evaluation_batch_size = 10

  model = config.model
  model.kernel_init = "he_normal"  # no pretrained weights
  model.encoder.stage_sizes = (1, 1, 1)
  model.encoder.strides = (1, 2, 1)  # output stride 4: poles and riders are few pixels wide
  model.encoder.dilations = (1, 1, 2)
  model.encoder.width = 32
  model.encoder.expansion = 2
  model.encoder.stem_kernel = 3
  model.encoder.stem_pool = False
  model.encoder.trainable_affine = True
  model.task_width = 16
  model.classifier_dilations = (1, 3)
  model.normalization.std = (60.0, 60.0, 60.0)
  model.pose_encoder.update(  # used where depth is learned from video in the adaptation step
    {
      "stage_sizes": (1, 1, 1),
      "width": 24,
      "stem_kernel": 5,
      "stem_pool": False,
      "strides": (2, 2, 2),
      "dilations": (1, 1, 1),
    }
  )
  model.pose_decoder_width = 32

  method = config.method
  method.initial_pseudo_label_steps = 0
  method.source_depth_loss_weight = 0.01
  method.mixed_depth_loss_weight = 0.01
  method.teacher_decay = 0.99  # a short run wants a teacher that follows faster

  method.photometric.pose_learning_rate = 3e-4
  # Two images of one moment differ by less than a pixel where things are far, and noise alone can
  # make the unwarped one the better: what is far would come out too near.
  method.photometric.automask = "temporal"
  optimizer = config.optimizer
  optimizer.name = "adamw"  # learns more in so few steps than SGD does
  optimizer.learning_rate = 0.003
  optimizer.head_learning_rate_factor = 1.0  # nothing is pretrained
  optimizer.encoder_updates_per_step.residual = 1
  optimizer.encoder_updates_per_step.projection = 1
  return default.apply_preset(config, preset, known=("as_released",))
