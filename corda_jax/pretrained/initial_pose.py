"""Starts the pose network of an adaptation run from one that the depth stage trained."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from corda_jax.errors import UserError
from corda_jax.jobs.experiment import Experiment
from corda_jax.training.restore import undamaged_checkpoint
from corda_jax.training.run_files import read_config
from corda_jax.training.sharding import replicated
from corda_jax.training.state import TrainState


def read_initial_pose(experiment: Experiment) -> dict[str, Any] | None:
  """The pose network of the newest checkpoint of the run `config.initial_pose`.

  Returns:
    Its "params" and "batch_stats"; None where no run is named.

  Raises:
    UserError: the run has no pose network, or another one, or the experiment has none.
  """
  folder = experiment.config.initial_pose
  if not folder:
    return None
  wanted = experiment.state_shapes().pose
  if wanted is None:
    raise UserError(
      f"initial_pose is {folder!r}, but no domain learns depth from video, so there is no pose "
      "network: set method.depth_supervision and data.….views, or initial_pose=''"
    )
  trained = read_config(Path(folder))
  if trained.get("task") != "depth":
    raise UserError(f"initial_pose is {folder!r}, which holds no run of the depth stage")
  ours = experiment.config.model.pose_normalization.to_dict()
  theirs = trained["model"]["normalization"]
  if any(not np.array_equal(ours[name], theirs[name]) for name in ours):
    raise UserError(
      f"the networks of {folder} want images by {theirs}, but model.pose_normalization is {ours}: "
      "set it to theirs"
    )
  faults = experiment.config.faults
  with undamaged_checkpoint(Path(folder), "latest", faults) as (checkpoints, step):
    tree = checkpoints.restore_arrays(step)
  found = {kind: tree[kind].get("pose") for kind in ("params", "batch_stats")}
  if found["params"] is None:
    raise UserError(f"the run {folder} has no pose network: it was not trained on video")
  if _shapes(found) != _shapes(_kinds(wanted)):
    raise UserError(
      f"the pose network of {folder} is another one: set model.pose_encoder and "
      "model.pose_decoder_width to those of that run"
    )
  return found


def _shapes(tree: Any) -> dict[str, Any]:
  return {jax.tree_util.keystr(k): x.shape for k, x in jax.tree_util.tree_leaves_with_path(tree)}


def with_initial_pose(experiment: Experiment, state: TrainState) -> TrainState:
  """The state with the pose network of `config.initial_pose`, if a run is named there."""
  found = read_initial_pose(experiment)
  if found is None:
    return state

  found = jax.tree.map(lambda new, old: new.astype(old.dtype), found, _kinds(state.pose))
  # Copies, which training may donate.
  found = jax.jit(lambda x: x, out_shardings=replicated(experiment.mesh))(found)
  return state.replace(pose=state.pose.replace(**found))


def _kinds(pose: Any) -> dict[str, Any]:
  return {"params": pose.params, "batch_stats": pose.batch_stats}
