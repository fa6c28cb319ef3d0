"""Starts the pose network of an adaptation run from one that the depth stage trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from corda_jax.errors import UserError
from corda_jax.training.restore import undamaged_checkpoint
from corda_jax.training.run_files import read_config
from corda_jax.training.sharding import replicated
from corda_jax.training.state import TermState, TrainState

if TYPE_CHECKING:
  from corda_jax.adaptation.task import AdaptationTask

_TERM = "photometric"
_FIELD = f"terms.{_TERM}.initial_pose"


def read_initial_pose(task: AdaptationTask) -> dict[str, Any] | None:
  """The pose network of the newest checkpoint of the run that `Photometric.initial_pose` names.

  Returns:
    Its "params" and "batch_stats" as nested variables; None where no run is named.

  Raises:
    UserError: the run has no pose network or a different one, or the task has none.
  """
  term = task.step.terms.get(_TERM)
  folder = getattr(term, "initial_pose", "")
  if not folder:
    return None
  expected = task.state_shapes.terms.get(_TERM)
  if expected is None:
    raise UserError(
      f"{_FIELD} is {folder!r}, but no domain learns depth from video, so there is no pose "
      f"network: set terms.{_TERM}.domains and data.….views, or {_FIELD}=''"
    )
  trained = read_config(Path(folder))
  if trained.get("task") != "depth":
    raise UserError(f"{_FIELD} is {folder!r}, expected the folder of a run of the depth stage")
  theirs = trained["model"]["normalization"]
  if any(not np.array_equal(getattr(term.normalization, name), theirs[name]) for name in theirs):
    raise UserError(
      f"the networks of {folder} take images normalised by {theirs}: set "
      f"terms.{_TERM}.normalization to that"
    )
  with undamaged_checkpoint(Path(folder), "latest", task.config.faults) as (checkpoints, step):
    tree = checkpoints.restore_arrays(step)
  found = {kind: tree[kind].get("pose") for kind in ("params", "batch_stats")}
  if found["params"] is None:
    raise UserError(f"the run {folder} has no pose network: it was not trained on video")
  if _shapes(found) != _shapes(_kinds(expected)):
    raise UserError(
      f"the pose network of {folder} differs: set terms.{_TERM}.pose to model.pose of that run"
    )
  return found


def with_initial_pose(task: AdaptationTask, state: TrainState) -> TrainState:
  """The state with the pose network that `Photometric.initial_pose` names, if it names one."""
  found = read_initial_pose(task)
  if found is None:
    return state
  before = state.terms[_TERM]
  found = jax.tree.map(lambda new, old: new.astype(old.dtype), found, _kinds(before))
  # Copies, which training may donate.
  found = jax.jit(lambda x: x, out_shardings=replicated(task.mesh))(found)
  return state.replace(terms=state.terms | {_TERM: before.replace(**found)})


def _shapes(tree: Any) -> dict[str, Any]:
  return {jax.tree_util.keystr(k): x.shape for k, x in jax.tree_util.tree_leaves_with_path(tree)}


def _kinds(state: TermState) -> dict[str, Any]:
  return {"params": state.params, "batch_stats": state.batch_stats}
