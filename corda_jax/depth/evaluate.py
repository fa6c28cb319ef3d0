"""Measures depth networks: errors where the truth is known, and pictures of what they do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.depth.baselines import best_constants
from corda_jax.depth.camera import disparity_to_depth
from corda_jax.depth.motion import explaining_views, image_names, predict_poses, temporal_views
from corda_jax.depth.photometric import photometric_loss, reprojection_error
from corda_jax.depth.scores import DepthErrors, known_metres, mean_errors
from corda_jax.depth.step import DepthState
from corda_jax.errors import UserError
from corda_jax.metrics import depth_errors
from corda_jax.models.layers import accumulation_dtype
from corda_jax.training.evaluate import gathered, measured
from corda_jax.training.sharding import put_batch
from corda_jax.training.task import Batches

if TYPE_CHECKING:
  from corda_jax.depth.task import DepthTask


def predict_disparity(task: DepthTask, variables: Any, images: jax.Array) -> jax.Array:
  """The finest disparities of frames of any size.

  Args:
    task: networks and configuration.
    variables: variables of the depth network.
    images: uint8 RGB [B, H, W, 3].

  Returns:
    [B, H, W], 0..1. Frames whose size the network cannot take are continued by their border.
  """
  height, width = images.shape[1:3]
  below, right = (-size % task.stride for size in (height, width))
  wide = accumulation_dtype(jnp.dtype(task.config.model.param_dtype))
  x = task.normalization.normalize(images, wide)
  x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
  return task.models.depth.apply(variables, x, train=False)[0][:, :height, :width, 0]


class DepthEvaluator:
  """Evaluates states of one task.

  Args:
    task: networks, mesh and configuration.
  """

  def __init__(self, task: DepthTask):
    """Prepares the compiled functions."""
    self._task = task
    self._baselines: dict[str, Any] | None = None

    # Every process gets all results: they all measure all frames.
    self._predict = task.compile_for_frames(self._depth, task.mesh)
    self._explain = task.compile_for_frames(self._photometric, task.mesh)
    self._disparity = task.compile_for_frames(
      lambda variables, images: predict_disparity(task, variables["depth"], images), task.mesh
    )

  @property
  def _explained(self) -> tuple[str, ...]:
    """What `_photometric` reads of a batch."""
    return (*image_names(self._task.views), "intrinsics", "baseline")

  def _depth(self, variables, batch):
    config = self._task.config.depth
    disparity = predict_disparity(self._task, variables["depth"], batch["image"])
    depth = disparity_to_depth(disparity, min_depth=config.min_depth, max_depth=config.max_depth)
    kept = ("inverse_depth", "valid")
    return {"depth": depth * config.metres_per_unit} | {name: batch[name] for name in kept}

  def _photometric(self, variables, batch):
    """Losses and maps of frames whose size is cut to what the networks take."""
    task = self._task
    views, stride = task.views, task.stride
    height, width = (size // stride * stride for size in batch["image"].shape[1:3])
    wide = accumulation_dtype(jnp.dtype(task.config.model.param_dtype))
    names = image_names(views)
    images = {name: batch[name][:, :height, :width] for name in names}
    seen = image_names(temporal_views(views))
    inputs = {name: task.normalization.normalize(images[name], wide) for name in seen}
    disparities = task.models.depth.apply(variables["depth"], inputs["image"], train=False)
    poses, _ = predict_poses(
      lambda *x: (task.models.pose.apply(variables["pose"], *x, train=False), None),
      inputs,
      views,
    )
    config = task.config.depth
    baseline = batch["baseline"].astype(wide)
    colors = {name: image.astype(wide) / 255 for name, image in images.items()}

    def of_frame(*frame):
      # Frames by themselves: the last batch is filled up with some that do not count.
      disparities, colors, poses, baseline, intrinsics = jax.tree.map(lambda x: x[None], frame)
      camera = {"baseline": baseline, "intrinsics": intrinsics}
      scene = explaining_views(
        colors, poses, views, metres_per_unit=config.metres_per_unit, **camera
      )
      loss, maps = photometric_loss(disparities, scene, config)
      errors = jax.vmap(reprojection_error, (0, None))(maps["warped"], colors["image"])
      return {
        "loss": loss,
        "automask": maps["automask"][0],
        "warped": maps["warped"][:, 0],
        "sources": scene.sources[:, 0],
        "errors": errors[:, 0],
      }

    made = jax.vmap(of_frame)(disparities, colors, poses, baseline, batch["intrinsics"])
    kept = {"valid": batch["valid"]} if "valid" in batch else {}
    return made | kept | {"image": images["image"], "disparity": disparities[0][..., 0]}

  def _variables(self, state: DepthState) -> dict[str, Any]:
    return {
      name: {"params": state.params[name], "batch_stats": state.batch_stats[name]}
      for name in state.params
    }

  def _put(self, batch: Mapping[str, Any], names: Iterable[str]) -> dict[str, jax.Array]:
    values = {name: batch[name] for name in names}
    if all(isinstance(value, jax.Array) for value in values.values()):
      return values  # of training, on the devices already
    return put_batch(self._task.mesh, values)

  def _truth(self, inverse_depth: np.ndarray) -> np.ndarray:
    return known_metres(inverse_depth, self._task.config.evaluation)

  def _frames(
    self, variables: Any, batches: Iterable[Mapping[str, Any]]
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predicted depth and truth of each frame, metres."""
    names = ("image", "inverse_depth", "valid")
    for made in measured(lambda batch: self._predict(variables, self._put(batch, names)), batches):
      for depth, inverse, valid in zip(
        made["depth"], made["inverse_depth"], made["valid"], strict=True
      ):
        if valid:
          yield np.asarray(depth, np.float64), self._truth(inverse)

  def score(self, state: DepthState, batches: Batches) -> dict[str, Any]:
    """Errors over all frames that have depth, or the photometric loss where none has any.

    Args:
      state: state of the task.
      batches: → host batches, once through, with "image", "valid" and, with truth,
        "inverse_depth" [B, H, W], else the views and their camera.

    Returns:
      With truth: what `DepthErrors.result` gives, and "baselines" ("constant", "rows"), the errors
      of each. Without: "photometric_loss" and "frames".
    """
    variables = self._variables(state)
    if not self._task.has_truth:
      return self._photometric_score(variables, batches())
    video = "right" not in self._task.views
    errors = DepthErrors(self._task.config.evaluation, video=video)
    for depth, truth in self._frames(variables, batches()):
      errors.add(depth, truth)
    if (result := errors.result()) is None:
      raise UserError(
        "no frame has depth between evaluation.min_depth and max_depth to measure by: set "
        "data.target.depth='none'"
      )
    if self._baselines is None:
      self._baselines = self._measure_baselines(batches)
    return result | {"baselines": self._baselines}

  def _photometric_score(self, variables, batches):
    losses = []
    names = (*self._explained, "valid")

    def measure(batch):
      made = self._explain(variables, self._put(batch, names))
      return {name: made[name] for name in ("loss", "valid")}

    for made in measured(measure, batches):
      losses.extend(made["loss"][made["valid"]].tolist())
    return {"photometric_loss": float(np.mean(losses)), "frames": len(losses)}

  def _measure_baselines(self, batches: Batches) -> dict[str, dict[str, float]]:
    config = self._task.config.evaluation

    def truths():
      for batch in batches():
        for inverse, valid in zip(batch["inverse_depth"], batch["valid"], strict=True):
          if valid:
            yield self._truth(inverse)

    rows = self._task.config.data.target.height
    constants = best_constants(truths(), rows, config.min_depth, config.max_depth)
    errors = {name: [] for name in constants}
    for truth in truths():
      known = ~np.isnan(truth)
      for name, constant in constants.items():
        if known.any():
          errors[name].append(
            depth_errors(truth[known], np.broadcast_to(constant, truth.shape)[known])
          )
    return {name: mean_errors(values) for name, values in errors.items()}

  def pictures(
    self, state: DepthState, batches: Iterable[Mapping[str, Any]]
  ) -> dict[str, np.ndarray]:
    """What the networks make of frames.

    Args:
      state: state of the task.
      batches: batches of frames, with or without their views.

    Returns:
      By frame, at the size that the networks take: "image" uint8 RGB, "disparity"; where the frames
      have views "automask", and by frame and view "sources" and "warped" RGB 0..1, "errors"; with
      truth, "truth" metres.
    """
    variables, stride = self._variables(state), self._task.stride

    def drawn():
      for batch in batches:
        if "intrinsics" in batch:
          made = dict(self._explain(variables, self._put(batch, self._explained)))
          del made["loss"]
        else:
          height, width = (size // stride * stride for size in batch["image"].shape[1:3])
          images = self._put(batch, ("image",))["image"][:, :height, :width]
          made = {"image": images, "disparity": self._disparity(variables, images)}
        if "inverse_depth" in batch and self._task.has_truth:
          height, width = made["image"].shape[1:3]
          made["truth"] = self._truth(np.asarray(batch["inverse_depth"]))[:, :height, :width]
        yield made, batch["valid"]

    return gathered(drawn())
