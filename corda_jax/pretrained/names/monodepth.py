"""Pretrained weights of the networks of self-supervised depth.

They come from torchvision's ImageNet networks, which have an encoder alone, or from Monodepth2,
which writes encoder and decoder into two files of a folder.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corda_jax.errors import UserError
from corda_jax.pretrained.matching import (
  Report,
  Tensors,
  find_state_dicts,
  format_report,
  listed,
  match,
)
from corda_jax.pretrained.names.corda import RESNET
from corda_jax.pretrained.names.tables import NameTable, prefixed
from corda_jax.pretrained.safetensors_format import read_weights_file

# Monodepth2 counts its decoder's convolutions from the coarsest of five levels on, two a level, and
# the heads after them.
_DEPTH = NameTable(
  "released depth",
  (
    *prefixed("encoder.", RESNET),
    *((f"decoder.{k}.conv.conv", f"decoder/upconv{4 - k // 2}_{k % 2}") for k in range(10)),
    *((f"decoder.{10 + scale}.conv", f"decoder/head{scale}") for scale in range(4)),
  ),
)
_POSE = NameTable(
  "released pose",
  (
    *prefixed("encoder.", RESNET),
    ("net.0", "decoder/squeeze"),
    *((f"net.{k}", f"decoder/pose{k - 1}") for k in (1, 2, 3)),
  ),
)
TABLES = {"depth": _DEPTH, "pose": _POSE}
# Files of a folder that Monodepth2 wrote.
_FILES = {"depth": ("encoder.pth", "depth.pth"), "pose": ("pose_encoder.pth", "pose.pth")}
_STEM = "encoder.conv1.weight"


def read_depth_weights(
  path: str | os.PathLike[str], template: Mapping[str, Any], network: str
) -> tuple[dict[str, Any], str]:
  """Reads pretrained weights.

  Args:
    path: a file of torchvision or of Monodepth2, or a folder of Monodepth2 with encoder and
      decoder.
    template: {"params": …, "batch_stats": …} of the network; arrays or shapes.
    network: "depth" or "pose".

  Returns:
    Variables, nested as `template`, in its dtypes, without those that are missing; and what was
    loaded, what was left and why, in lines for the console.

  Raises:
    UserError: a file is missing or cannot be read, or its encoder is not the network's.
  """
  path = Path(path)
  files = [path / name for name in _FILES[network]] if path.is_dir() else [path]
  if path.is_dir() and (absent := [file.name for file in files if not file.exists()]):
    raise UserError(
      f"{path} holds no {' and no '.join(absent)}: name a folder with both files of Monodepth2, "
      f"{' and '.join(_FILES[network])}, or one .pth file"
    )
  tensors: Tensors = {}
  for file in files:
    tree = read_weights_file(file)
    try:
      tensors |= find_state_dicts(tree).student
    except UserError as error:
      raise UserError(f"{file} does not fit the {network} network: {error}") from error
  try:
    variables, report = fit_depth_weights(tensors, template, network)
  except UserError as error:
    raise UserError(f"{path} does not fit the {network} network: {error}") from error
  return variables, f"Weights of {path}\n{format_report(report, f'{network} network')}"


def fit_depth_weights(
  tensors: Mapping[str, np.ndarray], template: Mapping[str, Any], network: str
) -> tuple[dict[str, Any], Report]:
  """Picks the tensors that fit a network, as `match` does, and requires a whole encoder.

  Torchvision's names are taken as Monodepth2's, "encoder." before them. Where the first convolution
  sees two frames and that of the file one, its kernel is repeated for both and divided by two, as
  released: two equal frames give the output that one gave.

  Args:
    tensors: name → tensor in PyTorch's layout.
    template: {"params": …, "batch_stats": …} of the network; arrays or shapes.
    network: "depth" or "pose".

  Returns:
    Variables, nested as `template`, in its dtypes, without those that are missing; and the report,
    with Monodepth2's names.

  Raises:
    UserError: the encoder is not the network's, or incomplete; or a tensor that fits holds NaN or
      infinity.
  """
  tensors = {
    re.sub(r"^(?=(conv1|bn1|layer\d+|fc)\.)", "encoder.", n): x for n, x in tensors.items()
  }
  stem = tensors.get(_STEM)
  if network == "pose" and stem is not None and stem.ndim == 4:
    channels = template["params"]["encoder"]["stem_conv"]["kernel"].shape[2]
    if channels == 2 * stem.shape[1]:
      tensors[_STEM] = np.tile((stem / 2).astype(stem.dtype), (1, 2, 1, 1))
  try:
    names = TABLES[network].names(template)
  except KeyError as error:
    raise UserError(
      f"no file has a place for {error}: Monodepth2's depth decoder has at most five levels and "
      "four scales"
    ) from error
  variables, report = match(tensors, template, TABLES[network])
  # Networks of torchvision share names and shapes: ResNet-34 holds all that ResNet-18 needs. An
  # additional whole stage is no misfit: the network then uses fewer levels of the same encoder.
  stages = {_stage(name) for name in names} - {None}
  misfits = {name: report.left.get(name, "not in the file") for name in report.missing}
  misfits = {name: why for name, why in misfits.items() if name.startswith("encoder.")}
  misfits |= {name: why for name, why in report.left.items() if _stage(name) in stages}
  if misfits:
    first = listed([f"{name} ({why})" for name, why in misfits.items()], 1)
    raise UserError(
      f"it is of another encoder than the configuration's: {first}; set stage_sizes, block, "
      "width and expansion of the encoder for the file, or name a file for them"
    )
  return variables, report


def _stage(name: str) -> str | None:
  found = re.match(r"encoder\.layer\d+\.", name)
  return found and found[0]
