"""What PyTorch's pickles may name, and the NumPy values that stand for it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from corda_jax.models.torch_pickle import Function, Stateful, expect

# PyTorch's name of a storage's class → type of its elements.
STORAGE_TYPES = {
  "FloatStorage": np.dtype(np.float32),
  "DoubleStorage": np.dtype(np.float64),
  "HalfStorage": np.dtype(np.float16),
  "BFloat16Storage": np.dtype(jnp.bfloat16),
  "LongStorage": np.dtype(np.int64),
  "IntStorage": np.dtype(np.int32),
  "ShortStorage": np.dtype(np.int16),
  "CharStorage": np.dtype(np.int8),
  "ByteStorage": np.dtype(np.uint8),
  "BoolStorage": np.dtype(np.bool_),
}


class Storage(NamedTuple):
  """The elements that tensors are views of, [n]; a class, so that no tensor passes for one."""

  elements: np.ndarray


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
  """A read-only view of a storage; raises ValueError where it leaves the storage.

  Offset and strides count elements. What follows them (gradient, hooks) is not needed.
  """
  elements = expect(storage, Storage).elements
  for number in (offset, *expect(size, tuple), *expect(stride, tuple)):
    if expect(number, int) < 0:
      raise ValueError(f"a tensor with size, stride or offset {number}")
  if len(size) != len(stride):
    raise ValueError(f"a tensor of {len(size)} sizes and {len(stride)} strides")
  if 0 in size:
    return np.zeros(size, elements.dtype)
  last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
  if last >= elements.size:
    raise ValueError(f"a tensor that reads element {last} of a storage of {elements.size}")
  steps = [step * elements.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
  return np.lib.stride_tricks.as_strided(elements[offset:], size, steps, writeable=False)


def _parameter(tensor: Any, *_: Any) -> np.ndarray:
  return expect(tensor, np.ndarray)


def _ordered_dict(pairs: Any = ()) -> dict[str, Any]:
  return {expect(key, str, int): value for key, value in expect(pairs, tuple, list)}


def _size(sizes: Any = ()) -> tuple[int, ...]:
  return tuple(expect(size, int) for size in expect(sizes, tuple, list))


def _device(*parts: Any) -> str:
  return ":".join(str(expect(part, str, int)) for part in parts)


def _bytes(text: Any, encoding: Any) -> bytes:
  """Protocol 2 has no bytes: they are text, and a call that encodes it."""
  if expect(encoding, str) != "latin1":
    raise ValueError(f"bytes in the encoding {encoding[:20]!r}")
  return expect(text, str).encode("latin1")


class _NumpyType(Stateful):
  """A NumPy number type, whose byte order comes after it."""

  def __init__(self, name: Any, *_: Any):
    self.dtype = np.dtype(expect(name, str))
    if self.dtype.kind not in "biuf":
      raise ValueError(f"NumPy type {name[:20]!r}")

  def set_state(self, state: Any) -> None:
    order = expect(expect(state, tuple)[1], str)
    self.dtype = self.dtype.newbyteorder({"|": "="}.get(order, order))


def _numpy_scalar(kind: Any, data: Any) -> Any:
  dtype = expect(kind, _NumpyType).dtype
  if len(expect(data, bytes)) != dtype.itemsize:
    raise ValueError("a NumPy number of the wrong size")
  return np.frombuffer(data, dtype)[0]


ALLOWED: dict[str, Any] = {
  "collections.OrderedDict": Function(_ordered_dict),
  "torch._utils._rebuild_tensor": Function(_tensor),
  "torch._utils._rebuild_tensor_v2": Function(_tensor),
  "torch._utils._rebuild_parameter": Function(_parameter),
  "torch.Size": Function(_size),
  "torch.device": Function(_device),
  "_codecs.encode": Function(_bytes),
  "numpy.dtype": Function(_NumpyType),
  "numpy.core.multiarray.scalar": Function(_numpy_scalar),
  "numpy._core.multiarray.scalar": Function(_numpy_scalar),
  **{f"torch.{name}": dtype for name, dtype in STORAGE_TYPES.items()},
}


def decode(data: bytes, dtype: np.dtype, byte_order: str) -> np.ndarray:
  """The elements of a storage.

  Args:
    data: its bytes.
    dtype: type of its elements.
    byte_order: "little" or "big".

  Returns:
    A one-dimensional array in this machine's byte order.
  """
  stored = np.dtype(f"u{dtype.itemsize}").newbyteorder({"little": "<", "big": ">"}[byte_order])
  values = np.frombuffer(data, stored).astype(stored.newbyteorder("="), copy=False)
  # A byte of a bool is 0 or 1 in NumPy; a file may hold others.
  return values != 0 if dtype == np.bool_ else values.view(dtype)
