"""Predicts the maps of images with a network, over views and tiles."""

import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.adaptation.evaluate import network_variables
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.inference.depth_input import network_alone, with_depth_network
from corda_jax.inference.views import as_evaluated, class_map, depth_maps, make_views
from corda_jax.inference.windows import predict_tiled
from corda_jax.models.layers import accumulation_dtype
from corda_jax.models.operations import at_matmul_precision
from corda_jax.training.sharding import BATCH_AXIS, batch_sharded, put_batch, replicated
from corda_jax.training.state import TrainState


class Predictor:
  """Predicts the maps of images with the network of a state; compiles once per image size.

  Args:
    task: network, mesh and configuration. `evaluation` sets the network, the scales and whether
      mirrored images are averaged, too; `prediction` sets the tiling of large images.
    state: state of a checkpoint.
  """

  def __init__(self, task: AdaptationTask, state: TrainState):
    """Prepares the compiled functions."""
    self._mesh, self._config = task.mesh, task.config
    self._stride, self._has_depth_heads = task.stride, task.has_depth_heads
    network = network_variables(state, self._config.evaluation.network)
    variables, read = with_depth_network(task, network)
    self.variables = jax.device_put(variables, replicated(task.mesh))
    model = task.model
    wide = accumulation_dtype(jnp.dtype(self._config.model.param_dtype))
    sizing = {"method": model.resize_outputs}

    def compiled(function, **options):
      function = at_matmul_precision(function, self._config.compute.matmul_precision)
      return jax.jit(function, **options)

    def predict(variables, x):
      def outputs(x):
        found = model.apply(network_alone(variables), x, train=False)
        return {name: found[name].astype(wide) for name in {"S", "D", "D_src"} & found.keys()}

      return as_evaluated(outputs, self._config.evaluation, **sizing)(x)

    def finish(views, outputs, x, size):
      finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves((views, outputs))]).all()
      maps = {"label": class_map(views, size, **sizing), "finite": finite}
      return maps | depth_maps(outputs, x, size, **sizing)

    split = batch_sharded(self._mesh)
    self._read = compiled(read)
    self._predict = compiled(predict, in_shardings=(None, split), out_shardings=split)
    self._finish = compiled(finish, static_argnames="size", out_shardings=replicated(self._mesh))

  @property
  def batch_size(self) -> int:
    """Images per batch: `prediction.batch_size`, rounded up to a multiple of the devices."""
    devices = self._mesh.shape[BATCH_AXIS]
    return -(-self._config.prediction.batch_size // devices) * devices

  def __call__(self, images: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Predicts images of one size.

    Args:
      images: uint8 RGB [B, h, w, 3] at the input size of the network; B is at most `batch_size`.
      size: (H, W) of the maps, in pixels.

    Returns:
      "label" uint8 [B, H, W], training ids, and what `views.depth_maps` makes.

    Raises:
      UserError: the network predicts non-finite numbers.
    """
    count, evaluation = len(images), self._config.evaluation
    filled = np.concatenate([images, np.repeat(images[-1:], self.batch_size - count, 0)])
    x = self._read(self.variables, put_batch(self._mesh, {"image": filled})["image"])
    tiles = self._config.prediction
    tile = (tiles.tile_height or math.inf, tiles.tile_width or math.inf)
    if any(evaluation.window):
      tile = (math.inf, math.inf)

    def predict(x):
      return predict_tiled(
        lambda tile: self._predict(self.variables, tile),
        x,
        tile=tile,
        margin=tiles.tile_margin,
        stride=self._stride,
      )

    outputs = {}

    def logits(view):
      found = predict(view)
      if view is x:  # depth is taken from the unscaled, unmirrored view
        outputs.update({name: value for name, value in found.items() if name != "S"})
      return found["S"]

    views = make_views(logits, x, scales=tuple(evaluation.scales), flip=evaluation.flip)
    if not outputs and self._has_depth_heads:
      outputs = {name: value for name, value in predict(x).items() if name != "S"}
    maps = jax.device_get(self._finish(views, outputs, x, size=size))
    if not maps.pop("finite"):
      raise UserError(
        "the network predicts numbers that are not finite, so its training diverged: set "
        "evaluation.checkpoint to another checkpoint, or train again"
      )
    return {name: value[:count] for name, value in maps.items()}

  def fingerprint(self) -> str:
    """SHA-256 of parameters and batch statistics, which identifies the network of predictions."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
      digest.update(jax.tree_util.keystr(path).encode())
      digest.update(np.ascontiguousarray(leaf).view(np.uint8))
    return digest.hexdigest()
