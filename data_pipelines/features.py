"""What TFDS needs to know of a record's contents besides what it has itself."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.preprocess import pack_float32, unpack_float32


class PackedFloat32(tfds.features.FeatureConnector):
  """Float32 H W stored by `preprocess.pack_float32`."""

  def __init__(self, *, shape: tuple[int, int]):
    """Height and width."""
    super().__init__()
    self._shape = tuple(shape)

  def get_tensor_info(self) -> tfds.features.TensorInfo:
    """Of a decoded example."""
    return tfds.features.TensorInfo(shape=self._shape, dtype=np.float32)

  def get_serialized_info(self) -> tfds.features.TensorInfo:
    """Of what a record holds."""
    return tfds.features.TensorInfo(shape=(), dtype=np.object_)

  def encode_example(self, example_data: np.ndarray | bytes) -> bytes:
    """Packs an array; what is packed already passes."""
    return example_data if isinstance(example_data, bytes) else pack_float32(example_data)

  def decode_example_np(self, example_data: bytes) -> np.ndarray:
    """Unpacks in NumPy."""
    return unpack_float32(example_data, self._shape)

  def decode_example(self, tfexample_data: Any) -> Any:
    """Unpacks in TensorFlow."""
    from data_pipelines.batches import unpack_float32_tensor  # loads TensorFlow

    return unpack_float32_tensor(tfexample_data, self._shape)

  def to_json_content(self) -> dict[str, Any]:
    """For the description that lies beside the records."""
    return {"shape": list(self._shape)}

  @classmethod
  def from_json_content(cls, value: dict[str, Any]) -> "PackedFloat32":
    """The inverse of `to_json_content`."""
    return cls(shape=tuple(value["shape"]))
