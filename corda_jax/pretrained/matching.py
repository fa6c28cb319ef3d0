"""Which tensors of a PyTorch file go into a network, and why the others do not."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from corda_jax.errors import UserError
from corda_jax.pretrained.names.tables import NameTable, Place, torch_axes

Tensors = dict[str, np.ndarray]

_UNUSED_BRANCH = "branch unused by model.decoder.dilations"
_REASONS = 6  # lines of reasons in a report


class StateDicts(NamedTuple):
  """The contents of a checkpoint file.

  Attributes:
    student: name → tensor of the network.
    teacher: name → tensor of its exponential moving average, or None.
    iteration: the training step that the file records, or None.
    counts: for student and teacher, name → number of batches that a normalisation has seen.
  """

  student: Tensors
  teacher: Tensors | None
  iteration: int | None
  counts: tuple[Tensors, Tensors]


def find_state_dicts(tree: Any) -> StateDicts:
  """Finds the tensors in what `read_torch_file` returned.

  The tree is a checkpoint of DACS or CorDA ("model", "ema_model", "iteration"), a checkpoint of
  another program with "state_dict", or a state dict itself. The prefixes "module." (of
  DataParallel) and "Scale." (of DeepLab's initialisations) are removed from names. A training
  checkpoint of DAFormer, HRDA or MIC has its student's tensors below "model.", and its teacher's
  below "ema_model."; the frozen ImageNet copy below "imnet_model." is left out.

  Raises:
    UserError: there are no tensors in these places; the message lists what the file holds.
  """
  if not isinstance(tree, dict):
    kind = "single tensor" if isinstance(tree, np.ndarray) else type(tree).__name__
    raise UserError(f"the file holds a {kind}, expected a dict of tensors")
  for holder in (tree.get("model"), tree.get("state_dict"), tree):
    student, counts = _tensors(holder)
    if student:
      break
  else:
    names = [key for key in tree if isinstance(key, str)]
    raise UserError(
      f"the file holds no tensors but {listed(map(repr, names)) or 'nothing'}, expected "
      "'model', 'state_dict' or the tensors themselves"
    )
  meta = tree.get("meta")
  iteration = tree.get("iteration", meta.get("iter") if isinstance(meta, dict) else None)
  known = isinstance(iteration, int) and 0 <= iteration < 2**63
  teacher, teacher_counts = _tensors(tree.get("ema_model"))
  if not teacher and any(name.startswith("ema_model.") for name in student):
    (teacher, teacher_counts), (student, counts) = (
      [
        {name.removeprefix(prefix): x for name, x in part.items() if name.startswith(prefix)}
        for part in (student, counts)
      ]
      for prefix in ("ema_model.", "model.")
    )
  counts = (counts, teacher_counts)
  return StateDicts(student, teacher or None, iteration if known else None, counts)


def _tensors(holder: Any) -> tuple[Tensors, Tensors]:
  """Tensors by name, and separately the batch counts by name."""
  found: Tensors = {}
  counts: Tensors = {}
  for name, value in holder.items() if isinstance(holder, dict) else ():
    if isinstance(name, str) and isinstance(value, np.ndarray):
      short = re.sub(r"^(module\.|Scale\.)+", "", name)
      part = counts if short.endswith("num_batches_tracked") else found
      # Where two names become the same one, both are kept as they are.
      part[name if short in part else short] = value
  return found, counts


class Report(NamedTuple):
  """Which tensors `match` loaded and which it did not.

  Attributes:
    loaded: names of the tensors that fit.
    left: name of each tensor of the file that was left out → why.
    missing: names of the network's tensors that the file lacks; they keep their initial values.
  """

  loaded: list[str]
  left: dict[str, str]
  missing: list[str]


def match(
  tensors: Mapping[str, np.ndarray],
  template: Mapping[str, Any],
  table: NameTable,
  *,
  classifier_dilations: tuple[int, ...] = (),
) -> tuple[dict[str, Any], Report]:
  """Picks the tensors that fit a network by name and shape.

  Torchvision's networks fit by name, yet they were trained on RGB divided by 255 with another mean
  and deviation, with the stride on the 3x3 convolution of a bottleneck, and with the stem's pooling
  rounded down. An encoder can be configured so; DeepLab's is not.

  Args:
    tensors: name → tensor in PyTorch's layout.
    template: {"params": …, "batch_stats": …} of the network; arrays or shapes.
    table: names of the network's tensors.
    classifier_dilations: dilations of the network's classifier, if any; for the report.

  Returns:
    Variables, nested as `template`, in its dtypes, without those that are missing; and the report.

  Raises:
    UserError: no kernel of the encoder fits (the message lists what the file holds), the file has
      more or fewer blocks, or a tensor that fits holds NaN or infinity.
  """
  places = table.names(template)
  shapes = {name: _torch_shape(place, template) for name, place in places.items()}
  report = Report([], {}, [])
  fitting: dict[str, np.ndarray] = {}
  for name, tensor in tensors.items():
    if reason := _why_left(name, tensor, shapes, classifier_dilations):
      report.left[name] = reason
      continue
    if not np.isfinite(tensor.astype(np.float32, copy=False)).all():
      raise UserError(f"{name} holds NaN or infinity: take a checkpoint from before that happened")
    fitting[name] = tensor
  # The variables of stacked blocks go in whole.
  blocks: dict[tuple[str, str], set[str]] = {}
  for name, place in places.items():
    blocks.setdefault(place[:2], set()).add(name)
  lacking = [n for n in fitting if not blocks[places[n][:2]] <= fitting.keys()]
  more = [n for n in report.left if n not in places and _is_of_a_block(n, table)]
  if lacking or more:
    why = _misfit(lacking, more, report.left, blocks=blocks, places=places)
    raise UserError(
      f"it is of another encoder: {why}; set depth, depths and widths of model.encoder for the file"
    )
  report.loaded.extend(fitting)
  report.missing.extend(name for name in places if name not in fitting)
  kernels = sorted(n for n, place in places.items() if _is_encoder_kernel(place))
  if not set(kernels) & set(report.loaded):
    encoder_first = sorted(report.left, key=lambda n: n not in kernels)
    held = [f"{name} ({report.left[name]})" for name in encoder_first] + report.loaded
    raise UserError(
      f"no kernel of the encoder is in it: it holds {listed(held)}, expected names such as "
      f"{' and '.join(kernels[:2])} with the shapes of model.encoder"
    )
  return _variables(fitting, template, places), report


def _variables(
  tensors: Mapping[str, np.ndarray], template: Mapping[str, Any], places: Mapping[str, Place]
) -> dict[str, Any]:
  """Tensors as variables; those of stacked blocks are all there."""
  variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
  for name, tensor in tensors.items():
    place = places[name]
    *parents, leaf = place.path.split("/")
    node, like = variables[place.collection], place.variable(template)
    for parent in parents:
      node = node.setdefault(parent, {})
    axes = torch_axes(place.path, tensor.ndim)
    array = (tensor.transpose(axes) if axes else tensor).astype(like.dtype)
    if place.index is None:
      node[leaf] = array
    else:
      node.setdefault(leaf, np.zeros(like.shape, like.dtype))[place.index] = array
  return variables


def _misfit(lacking, more, left, *, blocks, places) -> str:
  """Why the blocks of a file are not those of the network: the first example."""
  if not lacking:
    return f"it also holds {more[0]}"
  of_all = sorted(blocks[places[lacking[0]][:2]])
  for name in of_all:
    if name in left:
      return f"{name} ({left[name]})"
  absent = next(name for name in of_all if name not in lacking)
  return f"it has {lacking[0]} and no {absent}"


def _is_of_a_block(name: str, table: NameTable) -> bool:
  try:
    return table.place(name).index is not None
  except KeyError:
    return False


def _is_encoder_kernel(place: Place) -> bool:
  return place.path.startswith("encoder/") and place.path.endswith("/kernel")


def _torch_shape(place: Place, template: Mapping[str, Any]) -> tuple[int, ...]:
  """The shape that a tensor has in a file."""
  shape = tuple(place.variable(template).shape)
  shape = shape if place.index is None else shape[1:]
  axes = torch_axes(place.path, len(shape))
  return tuple(shape[axis] for axis in np.argsort(axes)) if axes else shape


def _why_left(
  name: str,
  tensor: np.ndarray,
  shapes: Mapping[str, tuple[int, ...]],
  dilations: tuple[int, ...],
) -> str | None:
  """Why a tensor of a file does not go into the network, or None if it does."""
  if name not in shapes:
    branch = re.search(r"\.conv2d_list\.\d+\.", name)
    if branch and name.replace(branch[0], ".conv2d_list.0.") in shapes:
      return f"{_UNUSED_BRANCH} {dilations}"
    if re.search(r"(bias_mask|rope_embed\.periods)$", name):
      return "constant that follows from the configuration"
    if re.match(r"(encoder\.|backbone\.)?(fc|head)\.(weight|bias)$", name):
      return "classifier of ImageNet"
    if name.startswith("layer5."):
      return "classifier of a plain DeepLab, which this network is not"
    return "not in this network"
  if tensor.shape != shapes[name]:
    return f"shape {tensor.shape}, expected {shapes[name]}"
  if not np.issubdtype(tensor.dtype, np.inexact) and tensor.dtype.name != "bfloat16":
    return f"{tensor.dtype} numbers, expected floating point"
  return None


def unused_branches(report: Report) -> list[str]:
  """Names of the tensors that were left because the network has fewer branches."""
  return [name for name, reason in report.left.items() if reason.startswith(_UNUSED_BRANCH)]


def listed(items: Iterable[str], count: int = 3) -> str:
  """The first `count` items and how many more there are, fit for a terminal."""
  # Names come from files of strangers: no line feeds or escape sequences reach the terminal.
  items = [(item if item.isprintable() else repr(item))[:120] for item in items]
  rest = f" and {len(items) - count} more" if len(items) > count else ""
  return ", ".join(items[:count]) + rest


def format_report(report: Report, kind: str) -> str:
  """A readable summary: counts, and a line for each reason with the first names.

  Args:
    report: the report of `match`.
    kind: what was loaded, such as "student".
  """
  total = len(report.loaded) + len(report.missing)
  lines = [f"{kind}: {len(report.loaded)} of the network's {total} tensors loaded"]
  reasons: dict[str, list[str]] = {}
  for name, reason in report.left.items():
    reasons.setdefault(reason, []).append(name)
  common = sorted(reasons.items(), key=lambda item: -len(item[1]))
  for reason, names in common[:_REASONS]:
    lines.append(f"  left {len(names)}: {reason}: {listed(names)}")
  if rest := sum(len(names) for _, names in common[_REASONS:]):
    lines.append(f"  left {rest} more for other reasons")
  modules: dict[str, int] = {}
  for name in report.missing:
    module = re.match(r"(\w+?)(\.|$)", name)[1]
    modules[module] = modules.get(module, 0) + 1
  if modules:
    counts = ", ".join(f"{module} ({count})" for module, count in modules.items())
    lines.append(f"  not in the file, so with initial values: {counts}")
  if any(re.search(r"(register|storage)_tokens$", name) for name in report.left):
    lines.append(
      "  note: the file's network has registers: set model.encoder.registers to their number, and "
      "model.encoder.positions to 'antialias' for DINOv2"
    )
  if any(re.search(r"(register|storage)_tokens$", name) for name in report.missing):
    lines.append(
      "  note: the file's network has no registers: set model.encoder.registers=0, and "
      "model.encoder.positions='offset' for DINOv2"
    )
  if "fc.weight" in report.left:
    lines.append(
      "  note: torchvision's networks saw RGB with mean (123.675, 116.28, 103.53) and deviation "
      "(58.395, 57.12, 57.375): set model.normalization to these, "
      "model.encoder.stride_on='conv2' and model.encoder.stem_pool_ceil=False"
    )
  return "\n".join(lines)
