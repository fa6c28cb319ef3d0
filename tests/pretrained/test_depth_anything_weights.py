"""Files of Depth Anything: names, shapes, both formats, and what does not fit."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from corda_jax.errors import UserError
from corda_jax.models.depth_anything import DepthAnything, depth_anything
from corda_jax.models.encoders.vision_transformer import VisionTransformer
from corda_jax.pretrained.depth_anything_weights import (
  assumptions,
  fit_depth_anything,
  parameter_shapes,
  read_depth_anything,
)
from corda_jax.pretrained.names.depth_anything import DEPTH_ANYTHING, HUB, UNUSED
from corda_jax.pretrained.names.renaming import to_other
from corda_jax.pretrained.safetensors_format import write_safetensors
from tests.golden import golden_foundation

FOLDER = Path(__file__).parents[1] / "golden" / "foundation"
# The network of the two small files.
SIZES = {"features": 4, "out_channels": (4, 4, 4, 4)}
TINY = DepthAnything(
  VisionTransformer(width=8, depth=4, heads=2, position_grid=2, levels=(0, 1, 2, 3)),
  SIZES["features"],
  SIZES["out_channels"],
)


def tensors():
  shapes = golden_foundation.depth_anything_shapes(8, 4, 2, **SIZES)
  return golden_foundation.tensors(shapes, "files.")


def shapes_in(name):
  return {k: tuple(v) for k, v in json.loads((FOLDER / name).read_text()).items()}


@pytest.mark.parametrize("size", ["S", "B", "L"])
def test_names_and_shapes_are_the_released_and_the_hubs(size):
  shapes = parameter_shapes(depth_anything(size))
  empty = {"params": jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)}
  state = {name: DEPTH_ANYTHING.tensor(empty, name) for name in DEPTH_ANYTHING.names(empty)}
  released = shapes_in(f"state_dict_depth_anything_v2_{size}.json")
  used = {name: shape for name, shape in released.items() if not name.startswith(UNUSED)}
  assert {name: x.shape for name, x in state.items()} == used
  assert len(released) - len(used) == 4
  hub = shapes_in(f"state_dict_hf_depth_anything_v2_{size}.json")
  hub = {
    k: v for k, v in hub.items() if not k.startswith("neck.fusion_stage.layers.0.residual_layer1")
  }
  assert {name: x.shape for name, x in to_other(state, HUB).items()} == hub


@pytest.mark.parametrize("name", ["depth_anything_v2.pth", "hf_depth_anything_v2.safetensors"])
def test_files_of_both_origins_are_read(name):
  params, text = read_depth_anything(FOLDER / "files" / name, TINY)
  for key, value in tensors().items():
    if not key.startswith(UNUSED):
      got = DEPTH_ANYTHING.tensor({"params": params}, key)
      np.testing.assert_array_equal(got, value.astype(np.float32), err_msg=key)
  assert jax.tree.structure(params) == jax.tree.structure(dict(parameter_shapes(TINY)))
  assert "version 1" in text  # blocks 0 to 3 are the last four
  assert "relative" in text


def test_what_is_assumed_and_the_licence_are_printed():
  assert "version 2" in assumptions(depth_anything("S"))
  assert "Apache-2.0" in assumptions(depth_anything("S"))
  large = assumptions(depth_anything("L", max_depth=80.0))
  assert "80 m" in large
  assert "V2 Large" in large
  assert "CC-BY-NC" in large
  first = assumptions(depth_anything("L", version=1))
  assert "version 1" in first
  assert "V1 Large" in first
  assert "CC-BY-NC" not in first
  assert depth_anything("S", version=1).encoder.levels == (8, 9, 10, 11)


def test_a_file_of_another_size_names_the_configuration_of_that_size(tmp_path):
  path = tmp_path / "large.safetensors"
  write_safetensors(path, {"pretrained.cls_token": np.zeros((1, 1, 1024), np.float32)})
  for options, name in (({}, "L"), ({"version": 1}, "L,v1"), ({"max_depth": 80.0}, "L,metric")):
    with pytest.raises(UserError, match=rf"1024 channels.*depth_anything\.py:{name}$"):
      read_depth_anything(path, depth_anything("S", **options))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda state: state.pop("depth_head.scratch.output_conv2.2.bias"), "output_conv2.2.bias"),
    (lambda state: state.pop("pretrained.cls_token"), "pretrained.cls_token"),
    (lambda state: state.update({"depth_head.projects.0.bias": np.zeros(5)}), "projects.0.bias"),
  ],
)
def test_a_file_that_lacks_a_tensor_is_refused(change, message):
  state = tensors()
  change(state)
  with pytest.raises(UserError, match=message):
    fit_depth_anything(state, TINY)


def test_values_that_cannot_work_are_named():
  with pytest.raises(ValueError, match="level_widths has 3"):
    DepthAnything(level_widths=(4, 4, 4))
  with pytest.raises(ValueError, match=r"encoder\.levels has 1"):
    DepthAnything(encoder=VisionTransformer(levels=(11,)))
  for size, version in (("M", 2), ("S", 3)):
    with pytest.raises(ValueError, match="expected S, B or L"):
      depth_anything(size, version=version)
  network = TINY
  with pytest.raises(ValueError, match="multiples of 14"):
    network.init(jax.random.key(0), np.zeros((1, 20, 28, 3), np.float32))
