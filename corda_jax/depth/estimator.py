"""The network that made a data set's depth files, for images that have none."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from corda_jax.depth.camera import disparity_to_depth
from corda_jax.depth.encodings import COMPUTED, LARGEST, MANIFEST
from corda_jax.depth.evaluate import predict_disparity
from corda_jax.depth.foundation import file_inverse_depth, predict_size, sha256
from corda_jax.depth.inverse_depth import from_metres
from corda_jax.depth.task import DepthTask
from corda_jax.errors import UserError
from corda_jax.models.build import build_common, build_network
from corda_jax.models.operations import at_matmul_precision
from corda_jax.pretrained.depth_anything_weights import read_depth_anything
from corda_jax.pretrained.depth_weights import weights_digest
from corda_jax.resize import resize_centered
from corda_jax.training.restore import restore_state
from corda_jax.training.run_files import read_config, read_json

# What the manifest of depth files says of the network that made them.
_OF_DEPTH_ANYTHING = ("weights", "sha256", "size", "input_size", "encoding", "scale")
_OF_SELF_SUPERVISED = ("weights", "step", "size", "encoding")


class DepthEstimator(NamedTuple):
  """A depth network.

  Attributes:
    variables: its variables.
    inverse_depth: (variables, uint8 RGB images [B, H, W, 3]) → inverse depth [B, H, W] in the
      encoding of the files, at the size of the images.
  """

  variables: Any
  inverse_depth: Callable[[Any, jax.Array], jax.Array]


def load_depth_estimator(files: str, weights: str) -> DepthEstimator:
  """The network whose depth files a folder holds.

  Args:
    files: folder of the depth files, whose manifest says how they were made.
    weights: folder of the run of the depth stage, or file of Depth Anything.

  Raises:
    UserError: there is no manifest, or the weights are others than those of the files.
  """
  path = Path(files) / MANIFEST
  manifest = read_json(path)
  if manifest is None:
    raise UserError(
      f"{path} is missing or damaged: set prediction.depth_files to a folder of depth files that "
      "--mode=label_depth wrote"
    )
  manifest |= manifest.get(COMPUTED) or {}
  by_depth_anything = "model" in manifest
  needed = _OF_DEPTH_ANYTHING if by_depth_anything else _OF_SELF_SUPERVISED
  if lacking := [name for name in needed if manifest.get(name) is None]:
    raise UserError(f"{path} lacks {', '.join(lacking)}: label the data set again")
  make = _depth_anything if by_depth_anything else _self_supervised
  estimator = make(manifest, Path(weights))
  return estimator._replace(inverse_depth=at_matmul_precision(estimator.inverse_depth, "highest"))


def _depth_anything(manifest: Mapping[str, Any], weights: Path) -> DepthEstimator:
  model = ml_collections.ConfigDict(manifest["model"])
  network, normalization = build_network(model), build_common(model).normalization
  if not weights.is_file() or sha256(weights) != manifest["sha256"]:
    raise UserError(
      f"{weights} is not the file that made the depth files, {manifest['weights']}: set "
      "prediction.depth_weights to that"
    )
  if manifest.get("fit") == "frame":
    raise UserError(
      "the depth files were aligned frame by frame, which an image without known depth cannot be: "
      "label the data set with label_depth.fit='dataset', and train with these files"
    )
  params, text = read_depth_anything(weights, network)
  print(text)
  encoding, scale = manifest["encoding"], manifest["scale"]

  def inverse_depth(params, images):
    size, smallest = tuple(manifest["size"]), manifest["input_size"]
    found = predict_size(network, normalization, params, images, smallest=smallest, size=size)
    found = _through_file(file_inverse_depth(found, encoding, scale))
    return resize_centered(found[..., None], images.shape[1:3])[..., 0]

  return DepthEstimator(params, inverse_depth)


def _self_supervised(manifest: Mapping[str, Any], weights: Path) -> DepthEstimator:
  config = ml_collections.ConfigDict(read_config(weights))
  if config.get("task") != "depth":
    raise UserError(f"{weights} is no run of the depth stage: set prediction.depth_weights to one")
  task = DepthTask.from_config(config)
  state = restore_state(task, weights)
  if weights_digest(state) != manifest["weights"]:
    raise UserError(
      f"the network of step {int(state.step)} in {weights} is not the one that made the depth "
      f"files, of step {manifest['step']}: set prediction.depth_weights to that run"
    )
  limits = {name: config.depth[name] for name in ("min_depth", "max_depth")}
  rows = manifest["size"][0]

  def inverse_depth(variables, images):
    height, width = images.shape[1:3]
    if height != rows:  # what a network takes for near depends on the size of things in pixels
      size = (rows, round(width * rows / height))
      images = jnp.rint(resize_centered(images.astype(jnp.float32), size)).astype(jnp.uint8)
    disparity = predict_disparity(task, variables, images)
    disparity = resize_centered(disparity[..., None], (height, width))[..., 0]
    if manifest["encoding"] == "sigmoid":
      return _through_file(disparity * (LARGEST / 256) + 1)
    metres = disparity_to_depth(disparity, **limits) * manifest["metres_per_unit"]
    return _through_file(from_metres(metres))

  variables = {"params": state.params["depth"], "batch_stats": state.batch_stats["depth"]}
  return DepthEstimator(jax.device_get(variables), inverse_depth)


def _through_file(inverse_depth: jax.Array) -> jax.Array:
  """What a 16-bit file would hold of inverse depth: multiples of 1 / 256 in 1..257."""
  return jnp.clip(jnp.rint((inverse_depth - 1) * 256), 0, LARGEST) / 256 + 1
