"""Every value of the depth stage: Monodepth2's training, on Cityscapes with the method's settings.

Recipes import `get_config` and override what differs; docs/depth.md shows how to use the
result.
"""

import ml_collections

from configs import default
from corda_jax.configuration import settings
from corda_jax.depth.settings import DepthEvaluation, LabelDepth
from corda_jax.depth.step import DepthMethod
from corda_jax.models.build import Common, model_settings
from corda_jax.models.monodepth import DepthNetwork, PoseNetwork
from corda_jax.models.normalization import MONODEPTH
from corda_jax.training.optimizer import DepthAdam
from corda_jax.training.settings import Compute
from data_pipelines.settings import Data

# Argument after a configuration's name → the views that depth is learned from.
VIEWS = {
  "stereo": ("right",),
  "video": ("previous", "next"),
  "both": ("right", "previous", "next"),
}


def views_of(name: str) -> tuple[str, ...]:
  """The views of "stereo", "video" or "both".

  Raises:
    ValueError: the name is none of these.
  """
  if name not in VIEWS:
    raise ValueError(f"views {name!r} are unknown, expected {', '.join(VIEWS)}")
  return VIEWS[name]


def get_config() -> ml_collections.ConfigDict:
  """ResNet-101 depth encoder, ResNet-18 pose encoder, stereo pairs of Cityscapes.

  Source of the settings: Hoyer et al., "Three Ways to Improve Semantic Segmentation with
  Self-Supervised Depth Estimation", CVPR 2021, and Godard et al., ICCV 2019.
  """
  config = default.running(
    task="depth", num_steps=350_000, initial_weights={"depth": "", "pose": ""}
  )
  config.data = settings(Data, batch_size=4)
  del config.data.source  # one data set alone: data.target
  target = config.data.target
  # Views that explain an image: "right" (stereo), "previous" and "next" (video), or all three.
  target.views = ("right",)
  target.depth = "none"  # ground truth for validation, if any: "official", …

  networks = {"depth": settings(DepthNetwork), "pose": settings(PoseNetwork)}
  config.model = model_settings(networks, Common(kernel_init="he_normal", normalization=MONODEPTH))
  del config.model.head_init  # predictions start as released, with PyTorch's default
  config.depth = settings(DepthMethod)
  config.optimizer = settings(DepthAdam)
  config.compute = settings(Compute)
  config.evaluation = settings(DepthEvaluation)
  config.label_depth = settings(LabelDepth)
  return config
