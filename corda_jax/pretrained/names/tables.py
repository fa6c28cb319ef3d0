"""Tables of the names that tensors have in files, and of the variables that they are here."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Patterns = tuple[tuple[str, str], ...]

_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_LEAVES = {"weight": "kernel", "bias": "bias"}
_STATISTICS = ("mean", "var")
# Modules whose variables are those of many blocks, stacked.
_STACKED = re.compile(r"(?<=blocks)(?=/)")


class Place(NamedTuple):
  """Where a tensor goes.

  Attributes:
    collection: "params" or "batch_stats".
    path: slash-separated path of the variable in it.
    index: which of the stacked blocks it is of; None: the variable is the tensor.
  """

  collection: str
  path: str
  index: int | None = None

  def variable(self, variables: Mapping[str, Any]) -> Any:
    """The variable, or its shape; of stacked blocks, all of them."""
    node = variables[self.collection]
    for part in self.path.split("/"):
      node = node[part]
    return node


@dataclasses.dataclass(frozen=True)
class NameTable:
  """Names of a network's tensors.

  PyTorch stores convolutions as (out, in, height, width), transposed ones as (in, out, height,
  width) and matrices as (out, in); here they are (height, width, in, out) and (in, out).

  Attributes:
    network: what the network is, for messages.
    modules: pairs of a module in files and a module here; a part in braces is the same in both.
      "blocks[{i}]" is one of several blocks that are stacked here.
    tensors: pairs of a tensor in files and a variable here, where modules do not say enough.
  """

  network: str
  modules: Patterns
  tensors: Patterns = ()

  def place(self, name: str) -> Place:
    """The place of a tensor of a file.

    Raises:
      KeyError: such a network has no such tensor.
    """
    try:
      try:
        path = translate(name, self.tensors)
      except KeyError:
        module, _, leaf = name.rpartition(".")
        path = translate(module, self.modules)
        path = f"{path}/{(_NORM_LEAVES if _is_norm(path) else _LEAVES)[leaf]}"
    except KeyError:
      raise KeyError(f"{name!r} is not a tensor of a {self.network} network") from None
    collection = "batch_stats" if path.rpartition("/")[2] in _STATISTICS else "params"
    if found := re.search(r"\[(\d+)\]", path):
      return Place(collection, path.replace(found[0], ""), int(found[1]))
    return Place(collection, path)

  def name(self, place: Place) -> str:
    """The name of the tensor at a place: the inverse of `place`.

    Raises:
      KeyError: files have no name for it.
    """
    path = place.path
    if place.index is not None:
      path = _STACKED.sub(f"[{place.index}]", path, count=1)
    try:
      return translate(path, _inverse(self.tensors))
    except KeyError:
      module, _, leaf = path.rpartition("/")
      leaves = _NORM_LEAVES if _is_norm(module) else _LEAVES
      return f"{translate(module, _inverse(self.modules))}.{dict(_inverse(leaves.items()))[leaf]}"

  def names(self, variables: Mapping[str, Any]) -> dict[str, Place]:
    """The tensors that variables hold: name → place.

    Args:
      variables: {"params": …, "batch_stats": …} of the network; arrays or shapes.

    Raises:
      KeyError: files have no name for a variable.
    """
    found = {}
    for collection in ("params", "batch_stats"):
      for path, leaf in _leaves(variables.get(collection, {})):
        count = leaf.shape[0] if _STACKED.search(path) else None
        for index in (None,) if count is None else range(count):
          place = Place(collection, path, index)
          found[self.name(place)] = place
    return found

  def tensor(self, variables: Mapping[str, Any], name: str) -> np.ndarray:
    """A tensor in PyTorch's layout, from variables."""
    place = self.place(name)
    array = np.asarray(place.variable(variables))
    if place.index is not None:
      array = array[place.index]
    axes = torch_axes(place.path, array.ndim)
    return array.transpose(np.argsort(axes)) if axes else array

  def state_dict(self, variables: Mapping[str, Any], *, steps: int) -> dict[str, np.ndarray]:
    """All tensors, which the original module loads with `strict=True`.

    Args:
      variables: {"params": …, "batch_stats": …} of the network.
      steps: number of training steps, stored as `num_batches_tracked`.

    Returns:
      float32 tensors in PyTorch's layout, and int64 counts. CorDA's classifiers have four branches,
      of which its code sums the first two; branches that this network lacks are zero.
    """
    state: dict[str, np.ndarray] = {}
    for name in self.names(variables):
      state[name] = self.tensor(variables, name).astype(np.float32)
      if name.endswith(".running_var"):
        state[name.replace("running_var", "num_batches_tracked")] = np.array(steps, np.int64)
      if ".conv2d_list.0." in name:
        for branch in range(1, 4):
          other = name.replace(".conv2d_list.0.", f".conv2d_list.{branch}.")
          state.setdefault(other, np.zeros_like(state[name]))
    return state


def translate(name: str, patterns: Iterable[tuple[str, str]]) -> str:
  """`name` in the other naming scheme; raises KeyError if no pattern fits."""
  for pattern, replacement in patterns:
    if found := re.fullmatch(pattern_regex(pattern), name):
      return replacement.format(**found.groupdict())
  raise KeyError(name)


@functools.cache
def pattern_regex(pattern: str) -> str:
  """The regular expression of a pattern; its parts in braces are groups."""
  # Numbers for stage, block, i and k; the names of tasks and heads are letters and underscores.
  regex = re.sub(r"\\{(stage|block|i|k)\\}", r"(?P<\1>[0-9]+)", re.escape(pattern))
  return re.sub(r"\\{(\w+)\\}", r"(?P<\1>[A-Za-z_]+)", regex)


def _inverse(patterns: Iterable[tuple[str, str]]) -> Patterns:
  return tuple((ours, theirs) for theirs, ours in patterns)


def prefixed(prefix: str, patterns: Patterns) -> Patterns:
  """The same patterns with a prefix before the names in files."""
  return tuple((prefix + theirs, ours) for theirs, ours in patterns)


def torch_axes(path: str, ndim: int) -> tuple[int, ...] | None:
  """PyTorch's axes in the order that the variable at `path` has them; None: the same order."""
  leaf = path.rpartition("/")[2]
  if leaf == "transposed_kernel":
    return (2, 3, 0, 1)
  if leaf.startswith("kernel") and ndim in (2, 4):
    return (2, 3, 1, 0) if ndim == 4 else (1, 0)
  return None


def _is_norm(module: str) -> bool:
  return re.search(r"norm\d?$", module) is not None


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, f"{above}{name}/")
    else:
      yield f"{above}{name}", value
