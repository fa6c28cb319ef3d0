"""A TFDS feature for arrays that training crops."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.tiles import pack, unpack


class TiledArray(tfds.features.FeatureConnector):
  """An array stored losslessly by `tiles.pack`, so that a crop can be read without the rest.

  Args:
    shape: shape of the array, H W or H W C; None for axes that differ between examples.
    dtype: type of the values, uint8 or float32.
  """

  def __init__(self, *, shape: Sequence[int | None], dtype: np.dtype):
    """Stores shape and type."""
    super().__init__()
    self._shape = tuple(shape)
    self._dtype = np.dtype(dtype)

  def get_tensor_info(self) -> tfds.features.TensorInfo:
    """Shape and type of a decoded example."""
    return tfds.features.TensorInfo(shape=self._shape, dtype=self._dtype)

  def get_serialized_info(self) -> tfds.features.TensorInfo:
    """Shape and type in the record: one string."""
    return tfds.features.TensorInfo(shape=(), dtype=np.object_)

  def encode_example(self, example_data: np.ndarray | bytes) -> bytes:
    """Packs an array; passes on bytes, which are already packed."""
    return example_data if isinstance(example_data, bytes) else pack(example_data)

  def decode_example_np(self, example_data: bytes) -> np.ndarray:
    """Unpacks in NumPy."""
    return unpack(example_data)

  def decode_example(self, tfexample_data: Any) -> Any:
    """Unpacks in NumPy, called by TensorFlow."""
    import tensorflow as tf

    def decode(packed):  # bytes in a graph, an array of one object outside
      return unpack(packed.item() if isinstance(packed, np.ndarray) else packed)

    decoded = tf.numpy_function(decode, [tfexample_data], self._dtype, stateful=False)
    return tf.ensure_shape(decoded, self._shape)

  def to_json_content(self) -> dict[str, Any]:
    """The description that is stored beside the records."""
    return {"shape": list(self._shape), "dtype": self._dtype.name}

  @classmethod
  def from_json_content(cls, value: dict[str, Any]) -> "TiledArray":
    """The inverse of `to_json_content`."""
    return cls(**value)
