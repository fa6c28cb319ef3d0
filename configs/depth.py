"""Every value of the depth stage: Monodepth2's training, on Cityscapes with the method's settings.

Experiments import `get_config` from here and override what differs; docs/depth.md tells how to use
what comes out.
"""

import ml_collections

from configs import default

# What depth is learned from: as it is chosen behind the name of a configuration.
VIEWS = {
  "stereo": ("right",),
  "video": ("previous", "next"),
  "both": ("right", "previous", "next"),
}


def views_of(name: str) -> tuple[str, ...]:
  """The views of "stereo", "video" or "both".

  Raises:
    ValueError: there are no such views.
  """
  if name not in VIEWS:
    raise ValueError(f"views {name!r} are unknown, wanted {', '.join(VIEWS)}")
  return VIEWS[name]


def get_config() -> ml_collections.ConfigDict:
  """ResNet-101 depth encoder, ResNet-18 pose encoder, stereo pairs of Cityscapes.

  Source of the settings: Hoyer et al., "Three Ways to Improve Semantic Segmentation with
  Self-Supervised Depth Estimation", CVPR 2021, and Godard et al., ICCV 2019.
  """
  config = ml_collections.ConfigDict()
  config.task = "depth"
  config.seed = 0
  config.num_steps = 350_000
  # .pth files that a fresh run starts from (docs/weights.md), or folders of Monodepth2's two; "":
  # random weights.
  config.initial_weights = ml_collections.ConfigDict({"depth": "", "pose": ""})

  config.data = default.get_data_config()
  del config.data.source  # one data set alone: data.target
  config.data.batch_size = 4
  target = config.data.target
  # What explains an image: "right" (stereo), "previous" and "next" (video), or all three.
  target.views = ("right",)
  target.depth = "none"  # the truth that validation is measured by, if any: "official", …

  config.model = get_model_config()
  config.depth = get_depth_config()
  config.compute = default.get_compute_config()
  config.optimizer = ml_collections.ConfigDict(
    {
      "learning_rate": 1e-4,  # Adam
      "depth_encoder_learning_rate_factor": 0.1,  # it is pretrained
      "decay_at": (262_500,),  # steps at which the learning rate falls; released: 15 of 20 epochs
      "decay_factor": 0.1,
      "beta1": 0.9,
      "beta2": 0.999,
    }
  )
  config.log_every = 50  # steps between console lines and scalars
  config.evaluate_every = 5_000  # steps; also evaluated after the last step
  config.checkpoint_every = 5_000  # steps; also written after the last step
  config.keep_best = 1  # checkpoints kept for their score, beside the newest
  default.add_running(config)
  config.evaluation = ml_collections.ConfigDict(
    {
      # Metres between which depth is measured, and to which predictions are clipped.
      "min_depth": 0.001,
      "max_depth": 80.0,
      # Whether each frame's prediction is first brought to the truth's median: "always", "never" or
      # "video", where no stereo view tells the scale.
      "median_scaling": "video",
      "checkpoint": "latest",  # or "best"; for --mode=evaluate and --mode=label_depth
      "split": "validation",  # or "train", where there is no other
      "max_frames": 0,  # frames, spread over it, that are used; 0: all
      "pictures": 4,  # frames shown in the contact sheet
    }
  )
  config.label_depth = ml_collections.ConfigDict(
    {
      "folder": "",  # where the files go; "": the data set's own folder
      "splits": ("train", "validation"),  # of the data set
      # "sigmoid", as released: the network's output times 65535; or "metric": the inverse depth of
      # simulators and stereo, Y = 655.36 / metres, as 256 (Y - 1).
      "encoding": "sigmoid",
    }
  )
  return config


def get_depth_config() -> ml_collections.ConfigDict:
  """The photometric training, as published."""
  depth = ml_collections.ConfigDict()
  depth.min_depth = 0.1  # units; of the network's outputs 1 and 0
  depth.max_depth = 100.0
  # What a unit is. Published: the baseline is 0.1; Cityscapes' has 0.22 m. Video has no scale of
  # its own: --mode=evaluate tells the factor by which the truth differs.
  depth.metres_per_unit = 2.2
  depth.smoothness_weight = 1e-3
  # Views that may explain a pixel better unwarped, which then does not count (what moves with the
  # camera, what has no texture): "all", as published, those that are "temporal", or "none".
  depth.automask = "all"
  depth.ignored_bottom = 0.0  # share of the rows, from below, that the own car's hood takes
  depth.over_views = "minimum"  # how the errors of several views are joined; or "mean"
  depth.flip_probability = 0.5
  depth.jitter_probability = 0.5
  depth.jitter_strength = 0.2
  return depth


def get_model_config() -> ml_collections.ConfigDict:
  """ResNet-101 and ResNet-18, as torchvision has them, with Monodepth2's decoders."""
  model = ml_collections.ConfigDict()
  model.dtype = "float32"  # of the computation; parameters, statistics and losses stay wide
  model.param_dtype = "float32"
  model.batch_norm_group = 0  # images that are normalised together in training; 0: the whole batch
  model.kernel_init = "he_normal"  # of the encoders
  released = default.get_model_config()
  model.pose_encoder = released.pose_encoder
  model.pose_decoder_width = released.pose_decoder_width
  model.encoder = model.pose_encoder.copy_and_resolve_references()
  model.encoder.stage_sizes = (3, 4, 23, 3)
  model.encoder.block = "bottleneck"
  model.encoder.stride_on = "conv2"
  model.encoder.expansion = 4
  model.decoder_widths = (16, 32, 64, 128, 256)  # channels at strides 1, 2, 4, …
  model.initial_disparity = 0.5  # about what fresh weights predict; as released
  model.normalization = ml_collections.ConfigDict(
    {
      "mean": (114.75, 114.75, 114.75),  # 0.45 of 255
      "std": (57.375, 57.375, 57.375),  # 0.225
      "bgr": False,
    }
  )
  return model
