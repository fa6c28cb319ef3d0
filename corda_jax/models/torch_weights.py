"""The released networks' tensors as this project's variables.

A PyTorch state dict of CorDA names its tensors after the release's modules and stores convolutions
as (out, in, height, width); here they have other names, and are (height, width, in, out).
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# Module names of the release → module names here; the first pattern that fits whole counts.
_MODULES = {
  r"conv1": r"encoder/stem_conv",
  r"bn1": r"encoder/stem_norm",
  r"layer(\d)\.(\d+)\.(.+)": r"encoder/stage\1_block\2/\3",
  r"initial_task_prediction_heads\.layers\.(\w+)\.(\d)\.(.+)": r"decoder_\1_block\2/\3",
  # The release names the task that hears first, and the one that speaks second.
  r"multi_modal_distillation\.self_attention\.(\w)\.(\w)\.conv": r"correlation_\2_to_\1/message",
  r"multi_modal_distillation\.self_attention\.(\w)\.(\w)\.attention\.0": (
    r"correlation_\2_to_\1/attention"
  ),
  r"initial_task_prediction_heads\.conv_out\.(.+)": r"initial_\1",
  r"heads\.(.+)": r"final_\1",
}
_LAYERS = {
  r"/downsample\.0$": "/projection_conv",
  r"/downsample\.1$": "/projection_norm",
  r"/bn(\d)$": r"/norm\1",
}


def variable_path(name: str) -> tuple[str, str]:
  """Where a tensor of the release's state dict goes.

  Args:
    name: as in the state dict, such as "layer1.0.bn1.running_mean".

  Returns:
    Collection, "params" or "batch_stats", and slash-separated path in it. A classifier's branches
    are numbered, also those (2 and 3) that the release stores and never uses.

  Raises:
    KeyError: the release has no such tensor.
  """
  module, _, leaf = name.rpartition(".")
  fitting = (item for item in _MODULES.items() if re.fullmatch(item[0], module))
  pattern, replacement = next(fitting, (None, None))
  if pattern is None:
    raise KeyError(f"{name!r} is no tensor of a released CorDA network")
  path = re.sub(pattern, replacement, module)
  for pattern, replacement in _LAYERS.items():
    path = re.sub(pattern, replacement, path)
  if leaf.startswith("running_"):
    return "batch_stats", f"{path}/{leaf.removeprefix('running_')}"
  if "norm" in path:
    return "params", f"{path}/{'scale' if leaf == 'weight' else 'bias'}"
  kind = "kernel" if leaf == "weight" else "bias"
  if branch := re.fullmatch(r"(.+)\.conv2d_list\.(\d)", path):
    return "params", f"{branch[1]}/{kind}{branch[2]}"
  return "params", f"{path}/{kind}"


def variables_from_state_dict(
  tensors: Mapping[str, np.ndarray], *, branches: int
) -> dict[str, dict[str, Any]]:
  """Arranges a state dict as the variables of `Corda`.

  Args:
    tensors: name in the release → array in PyTorch's layout.
    branches: how many branches of the dilated classifiers the network has; the rest is left.

  Returns:
    {"params": …, "batch_stats": …}, of the arrays' own dtypes.

  Raises:
    KeyError: a name is not one of the release's.
  """
  variables: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
  for name, tensor in tensors.items():
    collection, path = variable_path(name)
    *parents, leaf = path.split("/")
    if leaf[-1].isdigit() and int(leaf[-1]) >= branches:
      continue
    node = variables[collection]
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor
  return variables


def state_dict_tensor(variables: Mapping[str, Any], name: str) -> np.ndarray:
  """The tensor `name` of the release's state dict, taken out of variables, in PyTorch's layout."""
  collection, path = variable_path(name)
  node = variables[collection]
  for part in path.split("/"):
    node = node[part]
  array = np.asarray(node)
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
