"""Safetensors files: tensors by name, without executable content."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from corda_jax.atomic_io import atomic_write
from corda_jax.errors import UserError, first_line
from corda_jax.pretrained.torch_format import read_torch_file

_TYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U8": np.uint8,
  "BOOL": np.bool_,
}


def read_weights_file(path: str | os.PathLike[str]) -> Any:
  """Reads a PyTorch or safetensors file; the contents decide which, not the name.

  Returns:
    What `read_torch_file` returns; for safetensors, NumPy arrays by name.

  Raises:
    UserError: the file cannot be read, has another format, or is damaged.
  """
  try:
    with open(path, "rb") as file:
      head = file.read(9)
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}): name a weights file") from error
  # The length of the header, little-endian, at most 100 MB; then the header, which is JSON.
  return read_safetensors(path) if head[5:] == b"\0\0\0{" else read_torch_file(path)


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Tensors by name, read-only.

  Raises:
    UserError: the file cannot be read, is damaged, or has numbers of an unsupported type.
  """
  try:
    tensors = dict(safetensors.deserialize(Path(path).read_bytes()))
    return {
      name: np.frombuffer(each["data"], _TYPES[each["dtype"]]).reshape(each["shape"])
      for name, each in tensors.items()
    }
  except (OSError, safetensors.SafetensorError) as error:
    reason = getattr(error, "strerror", None) or first_line(error)
    raise UserError(
      f"{path} is damaged or not a safetensors file ({reason}): download or copy it again"
    ) from error
  except KeyError as error:
    raise UserError(f"{path} has tensors of type {error}, expected {', '.join(_TYPES)}") from error


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes tensors by name; the file is complete or not written at all."""
  contiguous = {name: np.asarray(value, order="C") for name, value in tensors.items()}
  with atomic_write(path) as partial:
    safetensors.numpy.save_file(contiguous, partial, metadata={"format": "pt"})
