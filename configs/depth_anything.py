"""Depth of a data set by Depth Anything V2, as files that the adaptation reads.

    python -m corda_jax.main --config=configs/depth_anything.py --mode=label_depth \
      --config.initial_weights=weights/depth_anything_v2_vits.pth \
      --config.label_depth.folder=data/CityScapes_depth

Reads leftImg8bit of Cityscapes, and its disparity and camera to align with. `:B` or `:L` after the
file name selects another size, `:S,v1` the first version, `:S,metric` a network of metres outdoors.
Not run here with published weights; on frames of KITTI with random ones (docs/depth.md).
"""

import ml_collections

from corda_jax.configuration import settings
from corda_jax.depth.foundation import LabelDepthAnything
from corda_jax.models.build import Common, model_settings
from corda_jax.models.depth_anything import depth_anything
from corda_jax.models.normalization import IMAGENET
from corda_jax.training.settings import Compute
from data_pipelines.settings import Data

_OUTDOORS = 80.0  # metres, of the released metric networks


def get_config(network: str = "S") -> ml_collections.ConfigDict:
  """The released network of a size, on Cityscapes.

  Args:
    network: "S", "B" or "L", and "v1" or "metric" after a comma.

  Raises:
    ValueError: `network` is none of these.
  """
  size, *options = network.split(",")
  if size not in ("S", "B", "L") or options not in ([], ["v1"], ["metric"]):
    raise ValueError(
      f"network {network!r} is unknown, expected S, B or L, and v1 or metric after a comma"
    )
  config = ml_collections.ConfigDict({"task": "depth_anything", "initial_weights": ""})
  config.data = settings(Data)
  for name in ("source", "batch_size", "evaluation_batch_size", "crop_height", "crop_width"):
    del config.data[name]
  del config.data.beam_options  # nothing is prepared
  config.data.target.depth = "official"  # metric depth that files are aligned with
  made = depth_anything(
    size,
    version=1 if "v1" in options else 2,
    max_depth=_OUTDOORS if "metric" in options else 0.0,
  )
  config.model = model_settings(settings(made), Common(normalization=IMAGENET))
  for name in ("batch_norm_group", "kernel_init", "head_init"):  # of trained networks
    del config.model[name]
  # Less would move depths by more than a step of 16 bits.
  config.compute = settings(Compute, matmul_precision="highest")
  del config.compute.rematerialize, config.compute.shard_state
  config.label_depth = settings(LabelDepthAnything)
  if "metric" in options:
    config.label_depth.encoding = "metric"
    config.data.target.depth = "none"
  return config
