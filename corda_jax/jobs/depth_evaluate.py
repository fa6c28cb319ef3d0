"""Measures depth networks: errors where the truth is known, and pictures of what they do."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.depth.camera import disparity_to_depth
from corda_jax.depth.floors import best_floors
from corda_jax.depth.motion import explaining_views, image_names, predict_poses, temporal_views
from corda_jax.depth.photometric import photometric_loss, reprojection_error
from corda_jax.depth.step import DepthState
from corda_jax.errors import UserError
from corda_jax.jobs.depth_experiment import DepthExperiment
from corda_jax.jobs.depth_scores import (
  DepthErrors,
  format_depth_scores,
  known_metres,
  mean_errors,
)
from corda_jax.metrics import depth_errors
from corda_jax.models.layers import accumulation_dtype
from corda_jax.models.operations import at_matmul_precision
from corda_jax.training.restore import restore_state
from corda_jax.training.run_files import write_json
from corda_jax.training.sharding import batch_sharded, put_batch, replicated

Batches = Callable[[], Iterable[Mapping[str, Any]]]


def predict_disparity(experiment: DepthExperiment, variables: Any, images: jax.Array) -> jax.Array:
  """The finest disparities of frames of any size.

  Args:
    experiment: networks and configuration.
    variables: of the depth network.
    images: uint8 RGB [B, H, W, 3].

  Returns:
    [B, H, W], 0..1. Frames whose size the network cannot take are continued by their border.
  """
  height, width = images.shape[1:3]
  below, right = (-size % experiment.stride for size in (height, width))
  wide = accumulation_dtype(jnp.dtype(experiment.config.model.param_dtype))
  x = experiment.normalization.normalize(images, wide)
  x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
  return experiment.models.depth.apply(variables, x, train=False)[0][:, :height, :width, 0]


class DepthEvaluator:
  """Evaluates states of one experiment.

  Args:
    experiment: networks, mesh and configuration.
  """

  def __init__(self, experiment: DepthExperiment):
    """Prepares the compiled functions."""
    self._experiment = experiment
    self._floors: dict[str, Any] | None = None

    def compiled(function):
      # Everything comes back to every process: they all measure all frames.
      everywhere, split = replicated(experiment.mesh), batch_sharded(experiment.mesh)
      return jax.jit(
        at_matmul_precision(function, experiment.config.compute.matmul_precision),
        in_shardings=(everywhere, split),
        out_shardings=everywhere,
      )

    self._predict, self._explain = compiled(self._depth), compiled(self._photometric)
    self._disparity = compiled(
      lambda variables, images: predict_disparity(experiment, variables["depth"], images)
    )

  @property
  def _explained(self) -> tuple[str, ...]:
    """What `_photometric` reads of a batch."""
    return (*image_names(self._experiment.views), "intrinsics", "baseline")

  @property
  def has_truth(self) -> bool:
    """Whether the data set has depth to compare with."""
    return self._experiment.config.data.target.depth != "none"

  def _depth(self, variables, batch):
    config = self._experiment.config.depth
    disparity = predict_disparity(self._experiment, variables["depth"], batch["image"])
    depth = disparity_to_depth(disparity, min_depth=config.min_depth, max_depth=config.max_depth)
    kept = ("inverse_depth", "valid")
    return {"depth": depth * config.metres_per_unit} | {name: batch[name] for name in kept}

  def _photometric(self, variables, batch):
    """Losses and maps of frames whose size is cut to what the networks take."""
    experiment = self._experiment
    views, stride = experiment.views, experiment.stride
    height, width = (size // stride * stride for size in batch["image"].shape[1:3])
    wide = accumulation_dtype(jnp.dtype(experiment.config.model.param_dtype))
    names = image_names(views)
    images = {name: batch[name][:, :height, :width] for name in names}
    seen = image_names(temporal_views(views))
    inputs = {name: experiment.normalization.normalize(images[name], wide) for name in seen}
    disparities = experiment.models.depth.apply(variables["depth"], inputs["image"], train=False)
    poses, _ = predict_poses(
      lambda *x: (experiment.models.pose.apply(variables["pose"], *x, train=False), None),
      inputs,
      views,
    )
    config = experiment.config.depth
    baseline = batch["baseline"].astype(wide)
    colors = {name: image.astype(wide) / 255 for name, image in images.items()}

    def of_frame(*frame):
      # Frames by themselves: the last batch is filled up with some that do not count.
      disparities, colors, poses, baseline, intrinsics = jax.tree.map(lambda x: x[None], frame)
      scene = explaining_views(colors, poses, views, baseline, intrinsics, config.metres_per_unit)
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
    return made | {"image": images["image"], "disparity": disparities[0][..., 0]}

  def _variables(self, state: DepthState) -> dict[str, Any]:
    return {
      name: {"params": state.params[name], "batch_stats": state.batch_stats[name]}
      for name in state.params
    }

  def _put(self, batch: Mapping[str, Any], names: Iterable[str]) -> dict[str, jax.Array]:
    return put_batch(self._experiment.mesh, {name: batch[name] for name in names})

  def _truth(self, inverse_depth: np.ndarray) -> np.ndarray:
    return known_metres(inverse_depth, self._experiment.config.evaluation)

  def _frames(
    self, variables: Any, batches: Iterable[Mapping[str, Any]]
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predicted depth and truth of each frame, metres."""
    for batch in batches:
      made = self._predict(variables, self._put(batch, ("image", "inverse_depth", "valid")))
      made = jax.device_get(made)
      for depth, inverse, valid in zip(
        made["depth"], made["inverse_depth"], made["valid"], strict=True
      ):
        if valid:
          yield np.asarray(depth, np.float64), self._truth(inverse)

  def score(self, state: DepthState, batches: Batches) -> dict[str, Any]:
    """Errors over all frames that have depth, or the photometric loss where none has any.

    Args:
      state: of the experiment.
      batches: → host batches, once through, with "image", "valid" and, with truth,
        "inverse_depth" [B, H, W], else the views and their camera.

    Returns:
      With truth: what `DepthErrors.result` gives, and "floors" ("constant", "rows"), the errors of
      each. Without: "photometric_loss" and "frames".
    """
    variables = self._variables(state)
    if not self.has_truth:
      return self._photometric_score(variables, batches())
    video = "right" not in self._experiment.views
    errors = DepthErrors(self._experiment.config.evaluation, video=video)
    for depth, truth in self._frames(variables, batches()):
      errors.add(depth, truth)
    if (result := errors.result()) is None:
      raise UserError(
        "no frame has depth between evaluation.min_depth and max_depth to measure by: set "
        "data.target.depth='none'"
      )
    if self._floors is None:
      self._floors = self._measure_floors(batches)
    return result | {"floors": self._floors}

  def _photometric_score(self, variables, batches):
    losses = []
    for batch in batches:
      made = self._explain(variables, self._put(batch, self._explained))
      losses.extend(np.asarray(made["loss"])[np.asarray(batch["valid"])].tolist())
    return {"photometric_loss": float(np.mean(losses)), "frames": len(losses)}

  def _measure_floors(self, batches: Batches) -> dict[str, dict[str, float]]:
    config = self._experiment.config.evaluation

    def truths():
      for batch in batches():
        for inverse, valid in zip(batch["inverse_depth"], batch["valid"], strict=True):
          if valid:
            yield self._truth(inverse)

    rows = self._experiment.config.data.target.height
    floors = best_floors(truths(), rows, config.min_depth, config.max_depth)
    errors = {name: [] for name in floors}
    for truth in truths():
      known = ~np.isnan(truth)
      for name, floor in floors.items():
        if known.any():
          errors[name].append(
            depth_errors(truth[known], np.broadcast_to(floor, truth.shape)[known])
          )
    return {name: mean_errors(values) for name, values in errors.items()}

  def pictures(self, state: DepthState, batches: Batches, count: int) -> dict[str, np.ndarray]:
    """What the networks make of frames, at most `count` of them.

    Returns:
      By frame, at the size that the networks take: "image" uint8 RGB, "disparity"; where the frames
      have views "automask", and by frame and view "sources" and "warped" RGB 0..1, "errors"; with
      truth, "truth" metres.
    """
    variables = self._variables(state)
    size = self._experiment.config.data.evaluation_batch_size
    stride = self._experiment.stride
    parts: dict[str, list[np.ndarray]] = {}
    for batch in itertools.islice(batches(), -(-count // size)):
      if "intrinsics" in batch:
        made = self._explain(variables, self._put(batch, self._explained))
      else:
        height, width = (size // stride * stride for size in batch["image"].shape[1:3])
        images = self._put(batch, ("image",))["image"][:, :height, :width]
        made = {"image": images, "disparity": self._disparity(variables, images)}
      made = {name: np.asarray(value) for name, value in made.items() if name != "loss"}
      if self.has_truth:
        height, width = made["image"].shape[1:3]
        made["truth"] = self._truth(np.asarray(batch["inverse_depth"]))[:, :height, :width]
      for name, value in made.items():
        parts.setdefault(name, []).append(value[: len(batch["valid"])][np.asarray(batch["valid"])])
    return {name: np.concatenate(values)[:count] for name, values in parts.items()}


def evaluate_depth(
  experiment: DepthExperiment, workdir: Path, batches: Batches
) -> tuple[DepthState, dict[str, Any]]:
  """Scores a checkpoint of the run in `workdir`, and writes `evaluation.json` there.

  Args:
    experiment: networks, mesh and configuration.
    workdir: folder of the run.
    batches: of `DepthEvaluator.score`.

  Returns:
    The state of the checkpoint, and the results.

  Raises:
    UserError: there is no such checkpoint.
  """
  state = restore_state(experiment, workdir)
  result = {"step": int(state.step), **DepthEvaluator(experiment).score(state, batches)}
  print(format_depth_scores(result))
  if jax.process_index() == 0:
    write_json(Path(workdir) / "evaluation.json", result)
  return state, result
