"""Files of `torch.save` made by the standard library's pickler, with stand-ins for PyTorch."""

import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np

TYPES = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage", "b1": "BoolStorage"}


class Tensor:
  """A view of a storage, pickled as PyTorch pickles one."""

  def __init__(self, storage, offset, size, stride, kind="v2", view=None):
    self.storage, self.offset, self.size, self.stride = storage, offset, size, stride
    self.kind, self.view = kind, view

  def __reduce__(self):
    arguments = (_Stored(self.storage, self.view), self.offset, self.size, self.stride)
    if self.kind == "v1":
      return sys.modules["torch._utils"]._rebuild_tensor, arguments
    return sys.modules["torch._utils"]._rebuild_tensor_v2, (*arguments, False, {})


class Call:
  """Any call: what a malicious pickle holds."""

  def __init__(self, function, *arguments):
    self.reduced = function, arguments

  def __call__(self):
    """Only there because the pickler needs what a pickle calls to be callable."""

  def __reduce__(self):
    return self.reduced


class _Stored:
  def __init__(self, storage, view):
    self.storage, self.view = storage, view


class _Pickler(pickle.Pickler):
  def __init__(self, file, legacy):
    super().__init__(file, protocol=2)
    self.legacy, self.storages = legacy, {}

  def persistent_id(self, obj):
    if not isinstance(obj, _Stored):
      return None
    key = str(self.storages.setdefault(id(obj.storage), (len(self.storages), obj.storage))[0])
    kind = getattr(sys.modules["torch"], TYPES[obj.storage.dtype.str[1:]])
    return ("storage", kind, key, "cuda:0", obj.storage.size, *([obj.view] if self.legacy else []))


def stand_in(monkeypatch):
  """Lets pickles name PyTorch's functions and classes."""
  modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}
  for name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
    function = types.FunctionType((lambda: None).__code__, {}, name)
    function.__module__, function.__qualname__ = "torch._utils", name
    setattr(modules["torch._utils"], name, function)
  for name in TYPES.values():
    setattr(modules["torch"], name, type(name, (), {"__module__": "torch"}))
  for name, module in modules.items():
    monkeypatch.setitem(sys.modules, name, module)


def _pickled(tree, legacy):
  file = io.BytesIO()
  pickler = _Pickler(file, legacy)
  pickler.dump(tree)
  return file.getvalue(), [storage for _, storage in pickler.storages.values()]


def zip_file(tree, *, byte_order="little", folder="archive", change=None, compression=0):
  """Bytes of the zip format; `change` maps entries before they are written."""
  data, storages = _pickled(tree, legacy=False)
  sign = {"little": "<", "big": ">"}[byte_order]
  entries = {"data.pkl": data, "byteorder": byte_order.encode(), "version": b"3\n"}
  for key, storage in enumerate(storages):
    entries[f"data/{key}"] = storage.astype(storage.dtype.newbyteorder(sign)).tobytes()
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", compression) as archive:
    for name, value in (change(entries) if change else entries).items():
      archive.writestr(f"{folder}/{name}", value)
  return file.getvalue()


def legacy_file(tree, *, keys=None, counts=None):
  """Bytes of the format before the zip archives."""
  data, storages = _pickled(tree, legacy=True)
  head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
  parts = [pickle.dumps(value, protocol=2) for value in head]
  parts += [data, pickle.dumps(keys or [str(i) for i in range(len(storages))], protocol=2)]
  for i, storage in enumerate(storages):
    count = counts[i] if counts else storage.size
    parts.append(
      struct.pack("<q", count) + storage.astype(storage.dtype.newbyteorder("<")).tobytes()
    )
  return b"".join(parts)


def contiguous(array):
  """A tensor with a storage of its own."""
  flat = np.ascontiguousarray(array).reshape(-1)
  strides = tuple(int(np.prod(array.shape[i + 1 :], dtype=int)) for i in range(array.ndim))
  return Tensor(flat, 0, array.shape, strides)
