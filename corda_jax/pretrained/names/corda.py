"""The released networks' tensors as this project's variables, and back.

A PyTorch state dict of CorDA names its tensors after the release's modules and stores convolutions
as (out, in, height, width); here they have other names, and are (height, width, in, out). Residual
encoders have the same names in DACS, in DeepLab's initialisations and in torchvision, and with
"encoder." before them in Monodepth2.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

# Module of the release → module here; a part in braces is the same in both.
_ENCODER = (
  ("conv1", "encoder/stem_conv"),
  ("bn1", "encoder/stem_norm"),
  ("layer{stage}.{block}.conv{i}", "encoder/stage{stage}_block{block}/conv{i}"),
  ("layer{stage}.{block}.bn{i}", "encoder/stage{stage}_block{block}/norm{i}"),
  ("layer{stage}.{block}.downsample.0", "encoder/stage{stage}_block{block}/projection_conv"),
  ("layer{stage}.{block}.downsample.1", "encoder/stage{stage}_block{block}/projection_norm"),
)
_DECODER, _HEADS, _CORRELATION = (
  "initial_task_prediction_heads.layers.{task}.{block}",
  "initial_task_prediction_heads.conv_out.{head}",
  "multi_modal_distillation.self_attention.{listener}.{speaker}",
)
_PREFIXED_ENCODER = tuple((f"encoder.{theirs}", ours) for theirs, ours in _ENCODER)
# The release counts its convolutions from the coarsest of five levels on, two a level, and the
# heads after them.
_DEPTH_DECODER = (
  *((f"decoder.{k}.conv.conv", f"decoder/upconv{4 - k // 2}_{k % 2}") for k in range(10)),
  *((f"decoder.{10 + scale}.conv", f"decoder/head{scale}") for scale in range(4)),
)
_POSE_DECODER = tuple(
  (f"net.{k}", f"decoder/{ours}") for k, ours in enumerate(("squeeze", "pose0", "pose1", "pose2"))
)
_MODULES = {
  "corda": (
    *_ENCODER,
    (_DECODER + ".conv{i}", "decoder_{task}_block{block}/conv{i}"),
    (_DECODER + ".bn{i}", "decoder_{task}_block{block}/norm{i}"),
    (_DECODER + ".downsample.0", "decoder_{task}_block{block}/projection_conv"),
    (_DECODER + ".downsample.1", "decoder_{task}_block{block}/projection_norm"),
    (_CORRELATION + ".conv", "correlation_{speaker}_to_{listener}/message"),
    (_CORRELATION + ".attention.0", "correlation_{speaker}_to_{listener}/attention"),
    (_HEADS, "initial_{head}"),
    ("heads.{head}", "final_{head}"),
  ),
  "deeplab": (*_ENCODER, ("layer5", "final_S")),
  "depth": (*_PREFIXED_ENCODER, *_DEPTH_DECODER),
  "pose": (*_PREFIXED_ENCODER, *_POSE_DECODER),
}
_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_LEAVES = {"weight": "kernel", "bias": "bias"}
_STATISTICS = ("mean", "var")


def _translate(name: str, patterns: Iterable[tuple[str, str]]) -> str:
  """`name` in the other naming scheme; raises KeyError if no pattern fits."""
  for pattern, replacement in patterns:
    # Numbers for stage, block and i; the names of tasks and heads are letters and underscores.
    regex = re.sub(r"\\{(stage|block|i)\\}", r"(?P<\1>[0-9]+)", re.escape(pattern))
    regex = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[A-Za-z_]+)", regex)
    if found := re.fullmatch(regex, name):
      return replacement.format(**found.groupdict())
  raise KeyError(name)


def variable_path(name: str, *, network: str = "corda") -> tuple[str, str]:
  """Collection and path of the variable for a tensor of a state dict.

  Args:
    name: the tensor's name in the state dict, such as "layer1.0.bn1.running_mean".
    network: "corda"; "deeplab", whose classifier is the release's "layer5"; or "depth" or
      "pose" of Monodepth2, which writes encoder and decoder to one file each.

  Returns:
    Collection, "params" or "batch_stats", and slash-separated path in it. A classifier's branches
    are numbered, including those (2 and 3) that the release stores and never uses.

  Raises:
    KeyError: the release has no such tensor in such a network.
  """
  module, _, leaf = name.rpartition(".")
  module, _, branch = module.partition(".conv2d_list.")
  try:
    path = _translate(module, _MODULES[network])
    leaf = (_NORM_LEAVES if _is_norm(path) else _LEAVES)[leaf]
  except KeyError:
    raise KeyError(f"{name!r} is not a tensor of a released {network} network") from None
  return "batch_stats" if leaf in _STATISTICS else "params", f"{path}/{leaf}{branch}"


def tensor_name(path: str, *, network: str = "corda") -> str:
  """The inverse of `variable_path`: the name in a state dict of the variable at `path`."""
  module, _, leaf = path.rpartition("/")
  leaf, branch = re.fullmatch(r"([a-z]+)(\d*)", leaf).groups()
  leaves = _NORM_LEAVES if _is_norm(module) else _LEAVES
  leaf = next(theirs for theirs, ours in leaves.items() if ours == leaf)
  name = _translate(module, ((ours, theirs) for theirs, ours in _MODULES[network]))
  return f"{name}.conv2d_list.{branch}.{leaf}" if branch else f"{name}.{leaf}"


def _is_norm(module: str) -> bool:
  return re.search(r"norm\d?$", module) is not None


def state_dict_tensor(
  variables: Mapping[str, Any], name: str, *, network: str = "corda"
) -> np.ndarray:
  """The tensor `name` of the release's state dict, from variables, in PyTorch's layout."""
  collection, path = variable_path(name, network=network)
  node = variables[collection]
  for part in path.split("/"):
    node = node[part]
  array = np.asarray(node)
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def tensor_names(variables: Mapping[str, Any], *, network: str = "corda") -> list[str]:
  """Names in a state dict of all variables of a network; leaves may be arrays or shapes."""
  return [
    tensor_name("/".join(path), network=network)
    for collection in ("params", "batch_stats")
    for path in _paths(variables[collection])
  ]


def _paths(tree: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from ((name, *path) for path in _paths(value))
    else:
      yield (name,)


def state_dict_from_variables(
  variables: Mapping[str, Any], *, steps: int, network: str = "corda"
) -> dict[str, np.ndarray]:
  """A state dict that the released module loads with `strict=True`.

  Args:
    variables: {"params": …, "batch_stats": …} of the network.
    steps: number of training steps, stored as `num_batches_tracked`.
    network: "corda", "deeplab", "depth" or "pose".

  Returns:
    float32 tensors in PyTorch's layout, and int64 counts. The released classifiers have four
    branches, of which their code sums the first two; branches that this network lacks are zero.
  """
  state: dict[str, np.ndarray] = {}
  for name in tensor_names(variables, network=network):
    state[name] = state_dict_tensor(variables, name, network=network).astype(np.float32)
    if name.endswith(".running_var"):
      state[name.replace("running_var", "num_batches_tracked")] = np.array(steps, np.int64)
    if ".conv2d_list.0." in name:
      for branch in range(1, 4):
        other = name.replace(".conv2d_list.0.", f".conv2d_list.{branch}.")
        state.setdefault(other, np.zeros_like(state[name]))
  return state
