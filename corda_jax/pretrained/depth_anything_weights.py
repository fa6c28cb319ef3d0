"""Reads files of Depth Anything: the original `.pth`, and `model.safetensors` of the Hub."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.errors import UserError
from corda_jax.models.depth_anything import DepthAnything
from corda_jax.pretrained.matching import Report, find_state_dicts, listed, match
from corda_jax.pretrained.names.depth_anything import DEPTH_ANYTHING, HUB, UNUSED
from corda_jax.pretrained.names.renaming import to_original
from corda_jax.pretrained.torch_checkpoints import read_weights_file

# The encoder's width → a size, and its licence.
_RELEASED = {
  384: ("Small", "Apache-2.0"),
  768: ("Base", "CC-BY-NC-4.0: non-commercial use"),
  1024: ("Large", "CC-BY-NC-4.0: non-commercial use"),
}


def read_depth_anything(path: str | Path, network: DepthAnything) -> tuple[dict[str, Any], str]:
  """Reads a file of weights.

  Args:
    path: `.pth` or `.safetensors`.
    network: the network.

  Returns:
    Its parameters; and what was read and assumed, and the licence, in lines for the console.

  Raises:
    UserError: the file cannot be read, or is not of this network.
  """
  tree = read_weights_file(Path(path))
  try:
    tensors = find_state_dicts(tree).student
    params, report = fit_depth_anything(tensors, network)
  except UserError as error:
    raise UserError(f"{path} is not of this network: {error}") from error
  return params, f"Weights of {path}: {len(report.loaded)} tensors.\n{assumptions(network)}"


def assumptions(network: DepthAnything) -> str:
  """What a file does not say and the configuration does, and the licence, in lines."""
  encoder = network.encoder
  version = _version(network)
  kind = f"metric, up to {network.max_depth:g} m" if network.metric else "relative inverse depth"
  size = _RELEASED[encoder.width][0] if encoder.width in _RELEASED else f"of width {encoder.width}"
  return (
    f"Assumed, as the file does not say: version {version} (it reads the blocks "
    f"{', '.join(map(str, encoder.levels))}), {kind}.\n"
    f"Depth Anything V{version} {size}; licence of the published weights: {licence(network)}."
  )


def licence(network: DepthAnything) -> str:
  """The licence of the published weights of a network."""
  _, found = _RELEASED.get(network.encoder.width, ("", "unknown"))
  if _version(network) == 1:
    return "see their page"
  return f"{found}; see their model card, too" if network.metric else found


def _version(network: DepthAnything) -> int:
  encoder = network.encoder
  last = tuple(range(encoder.depth - 4, encoder.depth))
  return 1 if tuple(encoder.levels) == last else 2


def fit_depth_anything(
  tensors: Mapping[str, np.ndarray], network: DepthAnything
) -> tuple[dict[str, Any], Report]:
  """The parameters of a network, from tensors of a file, all of which it must have.

  Args:
    tensors: name → tensor in PyTorch's layout; names of the original or of the Hub.
    network: the network.

  Raises:
    UserError: tensors are missing, or of another shape.
  """
  tensors = to_original(tensors, HUB)
  tensors = {name: x for name, x in tensors.items() if not name.startswith(UNUSED)}
  shapes = parameter_shapes(network)
  _check_size(tensors, network)
  variables, report = match(tensors, {"params": shapes}, DEPTH_ANYTHING)
  if report.missing:
    raise UserError(f"it lacks {listed(report.missing)}")
  return variables["params"], report


@functools.cache
def parameter_shapes(network: DepthAnything) -> Any:
  """Shapes of the parameters, without computing them."""
  side = network.encoder.patch
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  return jax.eval_shape(network.init, jax.random.key(0), image)["params"]


def _check_size(tensors: Mapping[str, np.ndarray], network: DepthAnything) -> None:
  """Raises UserError where the encoder is of another size, by the name of that size."""
  token = tensors.get("pretrained.cls_token")
  if token is None:
    held = listed(sorted(tensors)) or "no tensors"
    raise UserError(f"it holds {held}, expected names such as pretrained.cls_token")
  width = token.shape[-1]
  if width != network.encoder.width:
    size = _RELEASED[width][0] if width in _RELEASED else ""
    option = ",v1" if _version(network) == 1 else ",metric" if network.metric else ""
    remedy = f": name --config=configs/depth_anything.py:{size[0]}{option}" if size else ""
    raise UserError(f"its encoder has {width} channels, expected {network.encoder.width}{remedy}")
