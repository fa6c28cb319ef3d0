"""Initial weights of the depth stage, and the digest that identifies its networks."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import jax
import numpy as np

from corda_jax.depth.step import DepthState
from corda_jax.pretrained.names.monodepth import read_depth_weights
from corda_jax.pretrained.torch_checkpoints import merged
from corda_jax.training.sharding import replicated

if TYPE_CHECKING:
  from corda_jax.depth.task import DepthTask


def read_initial_depth_weights(task: DepthTask) -> tuple[dict, str]:
  """Reads the files that `config.initial_weights` names.

  Returns:
    Network, "depth" or "pose" where a file is set, → its variables; and what was loaded, as text.

  Raises:
    UserError: a file cannot be read, or does not fit the network.
  """
  shapes = task.state_shapes
  found, lines = {}, []
  for network in shapes.params:
    path = task.config.initial_weights[network]
    if path:
      template = {"params": shapes.params[network], "batch_stats": shapes.batch_stats[network]}
      found[network], summary = read_depth_weights(path, template, network)
      lines.append(summary)
  return found, "\n".join(lines)


def initial_depth_state(task: DepthTask) -> DepthState:
  """Fresh state of a training run, with `config.initial_weights` where set."""
  found, summary = read_initial_depth_weights(task)
  state = task.initial_state()
  if not found:
    return state
  print(summary)
  trees = {"params": state.params, "batch_stats": state.batch_stats}
  over = {
    kind: {network: variables.get(kind, {}) for network, variables in found.items()}
    for kind in trees
  }
  # Training donates the state's buffers; the files' arrays do not share them.
  trees = jax.device_put(merged(trees, over), replicated(task.mesh), may_alias=False)
  return state.replace(**trees)


def weights_digest(state: DepthState) -> str:
  """A short text that identifies the depth network's weights."""
  digest = 0
  for leaf in jax.tree.leaves((state.params["depth"], state.batch_stats["depth"])):
    digest = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), digest)
  return f"{digest:08x}"
