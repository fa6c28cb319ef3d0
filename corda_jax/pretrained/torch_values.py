"""Names that a PyTorch pickle may use, and the NumPy values that replace them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

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


def decode(data: bytes, dtype: np.dtype, byte_order: str) -> np.ndarray:
  """The elements of a storage, [n], in this machine's byte order; `data` has `byte_order`."""
  stored = np.dtype(f"u{dtype.itemsize}").newbyteorder({"little": "<", "big": ">"}[byte_order])
  values = np.frombuffer(data, stored).astype(stored.newbyteorder("="), copy=False)
  # A byte of a bool is 0 or 1 in NumPy; a file may hold others.
  return values != 0 if dtype == np.bool_ else values.view(dtype)


class Storage(NamedTuple):
  """The elements that tensors are views of, [n]; its own type, so that no tensor passes for one."""

  elements: np.ndarray


class _Tensor(np.ndarray):
  """An array whose state a pickle may not set."""

  def __setstate__(self, state: Any) -> None:
    raise ValueError("a state for a tensor")


class _Dict(dict):
  """An ordered dict; the `_metadata` of a state dict, which is its state, is not needed."""

  def __setstate__(self, state: Any) -> None:
    pass


class _NumpyType:
  """A NumPy number type, whose byte order a pickle sets afterwards."""

  def __init__(self, name: Any, *_: Any):
    self.dtype = np.dtype(expect(name, str))
    if self.dtype.kind not in "biuf":
      raise ValueError(f"NumPy type {name[:20]!r}")

  def __setstate__(self, state: Any) -> None:
    order = expect(expect(state, tuple)[1], str)
    self.dtype = self.dtype.newbyteorder({"|": "="}.get(order, order))


def expect(value: Any, kind: type) -> Any:
  """`value`, if it is of this type; otherwise raises ValueError."""
  if not isinstance(value, kind):
    raise ValueError(f"a pickle with {type(value).__name__} in place of {kind.__name__}")
  return value


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
  """A read-only view of a storage; raises ValueError where it exceeds the storage.

  Offset and strides count elements. The other arguments (gradient, hooks) are ignored.
  """
  elements = expect(storage, Storage).elements
  for number in (offset, *expect(size, tuple), *expect(stride, tuple)):
    if expect(number, int) < 0:
      raise ValueError(f"a tensor with size, stride or offset {number}")
  if len(size) != len(stride):
    raise ValueError(f"a tensor of {len(size)} sizes and {len(stride)} strides")
  if 0 in size:
    return np.zeros(size, elements.dtype).view(_Tensor)
  last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
  if last >= elements.size:
    raise ValueError(f"a tensor that reads element {last} of a storage of {elements.size}")
  steps = [step * elements.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
  view = np.lib.stride_tricks.as_strided(elements[offset:], size, steps, writeable=False)
  return view.view(_Tensor)


def _device(kind: Any, *index: Any) -> str:
  return ":".join([expect(kind, str), *(str(expect(number, int)) for number in index)])


def _bytes(text: Any, encoding: Any) -> bytes:
  """Bytes, which protocol 2 lacks: it stores text and a call that encodes it."""
  if encoding != "latin1":
    raise ValueError("bytes in another encoding than latin1")
  return expect(text, str).encode("latin1")


def _numpy_scalar(kind: Any, data: Any) -> Any:
  dtype = expect(kind, _NumpyType).dtype
  if len(expect(data, bytes)) != dtype.itemsize:
    raise ValueError("a NumPy number of the wrong size")
  return np.frombuffer(data, dtype)[0]


# Full name in a pickle → its replacement.
ALLOWED: dict[str, Any] = {
  "collections.OrderedDict": _Dict,
  "torch._utils._rebuild_tensor": _tensor,
  "torch._utils._rebuild_tensor_v2": _tensor,
  "torch._utils._rebuild_parameter": lambda tensor, *_: expect(tensor, np.ndarray),
  "torch.Size": lambda sizes=(): tuple(expect(size, int) for size in sizes),
  "torch.device": _device,
  "_codecs.encode": _bytes,
  "numpy.dtype": _NumpyType,
  "numpy.core.multiarray.scalar": _numpy_scalar,
  "numpy._core.multiarray.scalar": _numpy_scalar,
  **{f"torch.{name}": dtype for name, dtype in STORAGE_TYPES.items()},
}
