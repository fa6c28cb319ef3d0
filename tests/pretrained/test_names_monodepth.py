"""Stand-ins for files of torchvision and Monodepth2, and what of them goes into the networks."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.errors import UserError
from corda_jax.pretrained.names.monodepth import TABLES, read_depth_weights
from corda_jax.pretrained.torch_write import write_torch_file
from tests.golden import released_shapes
from tests.models.test_monodepth import (
  RESNETS,
  built,
  small_config,
  small_fields,
  torchvision_fields,
)

FILES = {"depth": ("encoder.pth", "depth.pth"), "pose": ("pose_encoder.pth", "pose.pth")}


def shapes_of(network, config):
  depth, pose = built(config)
  x = jnp.zeros((1, 64, 64, 3))
  if network == "depth":
    return jax.eval_shape(lambda: depth.init(jax.random.key(0), x, train=False))
  return jax.eval_shape(lambda: pose.init(jax.random.key(0), x, x, train=False))


def released_config(name="resnet18"):
  fields = torchvision_fields(**RESNETS[name])
  return small_config(
    encoder=fields,
    pose_encoder=fields,
    decoder_widths=(16, 32, 64, 128, 256),
    pose_decoder_width=256,
  )


def drawn(shapes, seed=5):
  """Random variables and their state dict."""
  random = np.random.RandomState(seed)
  return jax.tree.map(lambda x: random.standard_normal(x.shape).astype(x.dtype), shapes)


def state_of(network, variables):
  return TABLES[network].state_dict(variables, steps=7)


def imagenet(variables):
  """The file that torchvision would have of a depth network's encoder."""
  encoder = {"params": {}, "batch_stats": {}}
  for collection in encoder:
    encoder[collection]["encoder"] = variables[collection]["encoder"]
  state = state_of("depth", encoder)
  classifier = {"fc.weight": np.zeros((1000, 16), np.float32), "fc.bias": np.zeros(1000)}
  return {name.removeprefix("encoder."): x for name, x in state.items()} | classifier


def split(state):
  """As Monodepth2 writes them: the encoder with the size of its images, and the decoder."""
  encoder = {n: x for n, x in state.items() if n.startswith("encoder.")}
  decoder = {n: x for n, x in state.items() if n not in encoder}
  return encoder | {"height": 192, "width": 640, "use_stereo": False}, decoder


def assert_same(got, expected):
  jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("network", ["depth", "pose"])
def test_names_are_those_of_the_release(network):
  shapes = shapes_of(network, released_config())
  names = TABLES[network].names(shapes)
  for name in names:
    assert TABLES[network].name(TABLES[network].place(name)) == name
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  released = released_shapes(f"monodepth_{network}_decoder")
  decoder = {n for n in names if not n.startswith("encoder.")}
  assert {n: TABLES[network].tensor(zeros, n).shape for n in decoder} == released
  encoder = {
    "encoder.conv1.weight": (64, 3 if network == "depth" else 6, 7, 7),
    "encoder.bn1.running_var": (64,),
    "encoder.layer1.1.conv2.weight": (64, 64, 3, 3),
    "encoder.layer2.0.downsample.0.weight": (128, 64, 1, 1),
    "encoder.layer2.0.downsample.1.running_mean": (128,),
    "encoder.layer4.1.bn2.bias": (512,),
  }
  for name, shape in encoder.items():
    assert TABLES[network].tensor(zeros, name).shape == shape
  assert len(names) == len(released) + 20 * 5  # convolutions, each with a normalisation


def test_names_mean_what_the_release_means():
  for network, name, path in (
    ("depth", "decoder.0.conv.conv.weight", "decoder/upconv4_0/kernel"),
    ("depth", "decoder.3.conv.conv.bias", "decoder/upconv3_1/bias"),
    ("depth", "decoder.9.conv.conv.weight", "decoder/upconv0_1/kernel"),
    ("depth", "decoder.10.conv.weight", "decoder/head0/kernel"),
    ("depth", "decoder.13.conv.bias", "decoder/head3/bias"),
    ("pose", "net.0.weight", "decoder/squeeze/kernel"),
    ("pose", "net.3.bias", "decoder/pose2/bias"),
    ("pose", "encoder.layer3.1.bn2.weight", "encoder/stage3_block1/norm2/scale"),
  ):
    assert TABLES[network].place(name) == ("params", path, None)
  for network, name in (("depth", "net.0.weight"), ("pose", "decoder.0.conv.conv.weight")):
    with pytest.raises(KeyError, match=rf"{re.escape(name)}.*{network}"):
      TABLES[network].place(name)


@pytest.mark.parametrize("network", ["depth", "pose"])
def test_a_folder_of_monodepth2_there_and_back(tmp_path, network):
  shapes = shapes_of(network, small_config())
  variables = drawn(shapes)
  state = state_of(network, variables)
  for name, part in zip(FILES[network], split(state), strict=True):
    write_torch_file(tmp_path / name, part)
  got, summary = read_depth_weights(tmp_path, shapes, network)
  assert_same(got, variables)
  assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, shapes)
  total = len(TABLES[network].names(shapes))
  title, counts = summary.splitlines()  # nothing left, nothing missing
  assert str(tmp_path) in title
  assert re.search(rf"{network}.*\b{total}\b.*\b{total}\b", counts)
  again = state_of(network, got)
  assert again.keys() == state.keys()
  for name, tensor in again.items():
    np.testing.assert_array_equal(tensor, state[name])


def test_an_encoder_of_monodepth2_alone(tmp_path):
  shapes = shapes_of("depth", small_config())
  variables = drawn(shapes)
  encoder, decoder = split(state_of("depth", variables))
  write_torch_file(tmp_path / "a.pth", encoder)
  got, summary = read_depth_weights(tmp_path / "a.pth", shapes, "depth")
  assert_same(got["params"], {"encoder": variables["params"]["encoder"]})
  assert_same(got["batch_stats"], variables["batch_stats"])
  assert re.search(rf"decoder\D+{len(decoder)}\b", summary)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_into_depth(tmp_path, name):
  shapes = shapes_of("depth", released_config(name))
  variables = drawn(shapes)
  write_torch_file(tmp_path / "a.pth", imagenet(variables))
  got, summary = read_depth_weights(tmp_path / "a.pth", shapes, "depth")
  assert_same(got["params"], {"encoder": variables["params"]["encoder"]})
  assert_same(got["batch_stats"], variables["batch_stats"])
  assert re.search(r"\b2\b.*ImageNet.*encoder\.fc\.weight.*encoder\.fc\.bias", summary)
  assert re.search(r"decoder\D+28\b", summary)


def test_imagenet_into_pose_sees_both_frames_as_it_saw_one(tmp_path, random):
  config = small_config()
  variables = drawn(shapes_of("depth", config))
  shapes = shapes_of("pose", config)
  write_torch_file(tmp_path / "a.pth", imagenet(variables))
  got, _ = read_depth_weights(tmp_path / "a.pth", shapes, "pose")
  kernel = variables["params"]["encoder"]["stem_conv"]["kernel"]
  twice = got["params"]["encoder"]["stem_conv"]["kernel"]
  assert twice.shape == (3, 3, 6, 4)
  np.testing.assert_array_equal(twice[:, :, :3], kernel / 2)
  np.testing.assert_array_equal(twice[:, :, 3:], kernel / 2)
  assert_same(
    got["params"]["encoder"] | {"stem_conv": variables["params"]["encoder"]["stem_conv"]},
    variables["params"]["encoder"],
  )
  depth, pose = built(config)
  x = jnp.asarray(random.standard_normal((1, 32, 32, 3)), jnp.float32)

  def encode(network, variables, x):
    encoder = {collection: tree["encoder"] for collection, tree in variables.items()}
    return network.encoder.apply(encoder, x, train=True, mutable=["batch_stats"])[0]

  expected = encode(depth, variables, x)
  pair = encode(pose, got, jnp.concatenate([x, x], -1))
  np.testing.assert_allclose(pair, expected, rtol=0, atol=1e-4 * float(jnp.abs(expected).max()))


def test_a_network_of_fewer_levels_leaves_the_last_stage(tmp_path):
  whole = small_fields(stage_sizes=(2, 1, 1, 1), strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1))
  variables = drawn(shapes_of("depth", small_config(encoder=whole)))
  write_torch_file(tmp_path / "a.pth", imagenet(variables))
  got, summary = read_depth_weights(tmp_path / "a.pth", shapes_of("depth", small_config()), "depth")
  expected = dict(variables["params"]["encoder"])
  del expected["stage4_block0"]
  assert_same(got["params"]["encoder"], expected)
  assert "encoder.layer4.0." in summary


def _without(state, name):
  return {n: x for n, x in state.items() if n != name}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda state: _without(state, "layer2.0.conv1.weight"),
      r"encoder\.layer2\.0\.conv1\.weight",
    ),
    (lambda state: _without(state, "bn1.running_var"), r"encoder\.bn1\.running_var"),
    # A larger network of the same widths, such as ResNet-34 for ResNet-18.
    (
      lambda state: state | {"layer1.2.conv1.weight": state["layer1.1.conv1.weight"]},
      r"encoder\.layer1\.2\.conv1\.weight",
    ),
    (
      lambda state: state | {"conv1.weight": np.zeros((4, 6, 3, 3), np.float32)},
      r"encoder\.conv1\.weight.*\(4, 6, 3, 3\).*\(4, 3, 3, 3\)",
    ),
  ],
)
def test_other_encoders_are_refused(tmp_path, change, message):
  shapes = shapes_of("depth", small_config())
  path = tmp_path / "a.pth"
  write_torch_file(path, change(imagenet(drawn(shapes))))
  with pytest.raises(UserError, match=rf"a\.pth.*depth.*{message}"):
    read_depth_weights(path, shapes, "depth")


def test_what_is_no_encoder_is_refused(tmp_path):
  shapes = shapes_of("depth", small_config())
  state = state_of("depth", drawn(shapes))
  for name, tree, message in (
    ("depth.pth", split(state)[1], r"decoder\.10.*encoder\.conv1"),
    (
      "vgg.pth",
      {"features.0.weight": np.zeros((4, 3, 3, 3))},
      r"features\.0\.weight.*encoder\.conv1",
    ),
    ("list.pth", [1, 2], "list.*dict"),
  ):
    write_torch_file(tmp_path / name, tree)
    with pytest.raises(UserError, match=rf"{name}.*depth.*{message}"):
      read_depth_weights(tmp_path / name, shapes, "depth")
  with pytest.raises(UserError, match=r"missing\.pth"):
    read_depth_weights(tmp_path / "missing.pth", shapes, "depth")
  broken = state | {"encoder.conv1.weight": np.full((4, 3, 3, 3), np.nan, np.float32)}
  write_torch_file(tmp_path / "nan.pth", broken)
  with pytest.raises(UserError, match=r"nan\.pth.*conv1\.weight.*NaN"):
    read_depth_weights(tmp_path / "nan.pth", shapes, "depth")


def test_a_folder_needs_both_files(tmp_path):
  shapes = shapes_of("pose", small_config())
  encoder, _ = split(state_of("pose", drawn(shapes)))
  with pytest.raises(UserError, match=rf"{tmp_path}.*pose_encoder\.pth.*pose\.pth"):
    read_depth_weights(tmp_path, shapes, "pose")
  write_torch_file(tmp_path / "pose_encoder.pth", encoder)
  with pytest.raises(UserError, match=rf"{tmp_path}.*\bpose\.pth") as error:
    read_depth_weights(tmp_path, shapes, "pose")
  assert str(error.value).count("pose_encoder.pth") == 1  # as one of both files, and not as missing
  # A damaged decoder is reported by its own path.
  write_torch_file(tmp_path / "pose.pth", {"epoch": 3})
  with pytest.raises(UserError, match=r"/pose\.pth.*epoch.*model"):
    read_depth_weights(tmp_path, shapes, "pose")


def test_a_decoder_of_six_levels_has_no_place_in_a_file(tmp_path):
  deep = small_fields(stage_sizes=(1,) * 5, strides=(1, 2, 2, 2, 2), dilations=(1,) * 5, width=2)
  config = small_config(encoder=deep, decoder_widths=(2,) * 6)
  shapes = shapes_of("depth", config)
  write_torch_file(tmp_path / "a.pth", imagenet(drawn(shapes_of("depth", small_config()))))
  with pytest.raises(UserError, match="decoder/upconv5_0"):
    read_depth_weights(tmp_path / "a.pth", shapes, "depth")
