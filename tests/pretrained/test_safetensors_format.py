"""Files of safetensors in and out."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.errors import UserError
from corda_jax.pretrained.safetensors_format import (
  read_safetensors,
  read_weights_file,
  write_safetensors,
)
from corda_jax.pretrained.torch_write import write_torch_file

TYPES = (np.float64, np.float32, np.float16, jnp.bfloat16, np.int64, np.uint8, np.bool_)


def contents(header, data=b"\0" * 4):
  text = json.dumps(header).encode() if isinstance(header, dict) else header
  return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("dtype", TYPES)
def test_a_round_trip_is_exact(tmp_path, random, dtype):
  tensors = {
    "a.weight": (9 * random.standard_normal((3, 2, 4))).astype(dtype),
    "scalar": np.ones((), dtype),
    "transposed": np.arange(6).reshape(2, 3).astype(dtype).T,
  }
  path = tmp_path / "a.safetensors"
  write_safetensors(path, tensors)
  found = read_weights_file(path)
  assert found.keys() == tensors.keys()
  for name, value in tensors.items():
    np.testing.assert_array_equal(found[name], value, strict=True)
  assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_contents_decide_and_not_the_name(tmp_path):
  tensors = {"a": np.ones(3, np.float32)}
  write_torch_file(tmp_path / "a.safetensors", tensors)
  write_safetensors(tmp_path / "a.pth", tensors)
  for name in ("a.safetensors", "a.pth"):
    np.testing.assert_array_equal(read_weights_file(tmp_path / name)["a"], tensors["a"])


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
  "data",
  [
    contents({"a": TENSOR})[:-1],
    contents({"a": TENSOR | {"shape": [2]}}),
    contents({"a": TENSOR | {"data_offsets": [0, 8]}}),
    contents(b'{"a":' + b" " * 20),
    contents({"a": 1}),
    struct.pack("<Q", 10**15) + b"{}",
  ],
)
def test_damaged_files_are_one_line(tmp_path, data):
  (tmp_path / "a.safetensors").write_bytes(data)
  with pytest.raises(UserError, match=r"a\.safetensors.*damaged") as caught:
    read_safetensors(tmp_path / "a.safetensors")
  assert "\n" not in str(caught.value)


def test_numbers_of_eight_bits_are_named(tmp_path):
  eight = contents({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}})
  (tmp_path / "a.safetensors").write_bytes(eight)
  with pytest.raises(UserError, match=r"F8_E4M3.*F32"):
    read_safetensors(tmp_path / "a.safetensors")


def test_a_file_that_does_not_exist_is_named(tmp_path):
  with pytest.raises(UserError, match=r"none\.safetensors.*No such file"):
    read_weights_file(tmp_path / "none.safetensors")
