"""Networks of self-supervised depth; the decoders' reference values are in tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.configuration import settings
from corda_jax.errors import UserError
from corda_jax.models.build import Common, build_networks, model_settings
from corda_jax.models.encoders.resnet import ResNet
from corda_jax.models.monodepth import (
  TORCHVISION,
  DepthDecoder,
  DepthNetwork,
  PoseDecoder,
  PoseNetwork,
)
from corda_jax.pretrained.names.monodepth import TABLES

HEIGHT, WIDTH = 48, 32

# Torchvision's networks: what they differ in.
RESNETS = {
  "resnet18": {"stage_sizes": (2, 2, 2, 2), "block": "basic", "expansion": 1},
  "resnet50": {"stage_sizes": (3, 4, 6, 3)},
  "resnet101": {"stage_sizes": (3, 4, 23, 3)},
}
PARAMETERS = {"resnet18": 11_176_512, "resnet50": 23_508_032, "resnet101": 42_500_160}


def torchvision_fields(**fields):
  """All fields of an encoder as torchvision has them, but for `fields`."""
  encoder = settings(ResNet, stride_on="conv2", **TORCHVISION).to_dict()
  del encoder["part"]
  return encoder | fields


def small_fields(**fields):
  """A stem and three stages of basic blocks: four levels, strides 2 to 16."""
  small = {
    "stage_sizes": (2, 1, 1),
    "block": "basic",
    "width": 4,
    "expansion": 1,
    "stem_kernel": 3,
    "strides": (1, 2, 2),
    "dilations": (1, 1, 1),
  }
  return torchvision_fields(**small | fields)


def small_config(
  *,
  encoder=None,
  pose_encoder=None,
  decoder_widths=(4, 6, 8, 10, 12),
  initial_disparity=0.5,
  pose_decoder_width=6,
  dtype="float32",
  param_dtype="float32",
):
  """The `model` section of a configuration of the depth stage."""
  depth = settings(
    DepthNetwork,
    encoder=ResNet(**(encoder or small_fields())),
    widths=decoder_widths,
    initial_disparity=initial_disparity,
  )
  pose = settings(
    PoseNetwork,
    encoder=ResNet(**(pose_encoder or small_fields())),
    decoder_width=pose_decoder_width,
  )
  common = Common(kernel_init="he_normal")
  config = model_settings({"depth": depth, "pose": pose}, common)
  config.update(dtype=dtype, param_dtype=param_dtype)
  return config


def built(config):
  """The depth network and the pose network."""
  return build_networks(config, ("depth", "pose"))


def image(random, dtype=jnp.float32, channels=3):
  return jnp.asarray(random.standard_normal((2, HEIGHT, WIDTH, channels)), dtype)


def randomized(random, variables):
  """Variables of the same shapes that no initialiser made: no zero bias, no scale of one."""

  def draw(path, x):
    values = random.standard_normal(x.shape)
    if path[-1].key == "var":
      values = np.exp(0.2 * values)
    elif path[-1].key == "kernel":
      values *= np.sqrt(2 / np.prod(x.shape[:-1]))
    elif path[-1].key == "scale":
      values = 1 + 0.1 * values
    else:
      values *= 0.1
    # Exact in float32, as which they go into state dicts.
    return jnp.asarray(values.astype(np.float32), x.dtype)

  return jax.tree_util.tree_map_with_path(draw, variables)


def parameters(variables):
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("name", RESNETS)
def test_encoders_have_the_sizes_of_torchvision(name):
  encoder = ResNet(**torchvision_fields(**RESNETS[name]))
  x = jnp.zeros((1, 64, 96, 3))
  variables = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, train=False))
  assert parameters(variables) == PARAMETERS[name]
  levels = jax.eval_shape(lambda v: encoder.apply(v, x, train=False, method="features"), variables)
  widths = [64 * encoder.expansion * 2**stage for stage in range(4)]
  assert [level.shape for level in levels] == [
    (1, 64 // stride, 96 // stride, width)
    for stride, width in zip(encoder.level_strides, (64, *widths), strict=True)
  ]
  assert encoder.level_strides == (2, 4, 8, 16, 32)
  projected = {name for name, block in variables["params"].items() if "projection_conv" in block}
  first = set() if name == "resnet18" else {"stage1_block0"}  # its input has the same shape
  assert projected == first | {f"stage{stage}_block0" for stage in (2, 3, 4)}


@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"dilations": (1, 2, 3), "strides": (2, 1, 2), "stem_pool": False},
    {"block": "bottleneck", "expansion": 2, "stride_on": "conv1", "strides": (2, 2, 1)},
    {"block": "bottleneck", "expansion": 2, "stride_on": "conv2", "strides": (1, 2, 2)},
    {"block": "bottleneck", "stride_on": "conv2", "dilations": (1, 2, 2)},
  ],
)
def test_encoders_compute_what_pytorch_does(float64, random, fields):
  fields = small_fields(**fields)
  encoder = ResNet(**fields, param_dtype=jnp.float64)
  x = jnp.asarray(random.standard_normal((2, 33, 38, 3)))
  shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, train=False))
  variables = randomized(random, shapes)
  got = jax.jit(lambda v: encoder.apply(v, x, train=False, method="features"))(variables)
  nested = {collection: {"encoder": tree} for collection, tree in variables.items()}
  expected = features_in_numpy(nested, np.asarray(x), fields)
  assert len(got) == len(expected) == 4
  for level, desired in zip(got, expected, strict=True):
    np.testing.assert_allclose(level, desired, rtol=0, atol=1e-13 * np.abs(desired).max())
  last = encoder.apply(variables, x, train=False)
  np.testing.assert_allclose(last, got[-1], rtol=0, atol=1e-13 * np.abs(got[-1]).max())


def features_in_numpy(variables, x, fields):
  """Torchvision's forward pass, after its source, on the state dict of the network."""
  state = TABLES["depth"].state_dict(variables, steps=0)
  state = {name: tensor.astype(np.float64) for name, tensor in state.items()}

  def convolution(x, name, stride=1, dilation=1):
    weight = state[f"encoder.{name}.weight"]
    reach = dilation * (weight.shape[2] - 1)
    pad = (reach // 2, reach // 2)
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (reach + 1, reach + 1), (1, 2))
    windows = windows[:, ::stride, ::stride, :, ::dilation, ::dilation]
    return np.einsum("bhwiyx,oiyx->bhwo", windows, weight)

  def normalize(x, name):
    leaves = ("running_mean", "running_var", "weight", "bias")
    mean, var, weight, bias = (state[f"encoder.{name}.{leaf}"] for leaf in leaves)
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

  def relu(x):
    return np.maximum(x, 0)

  x = relu(normalize(convolution(x, "conv1", fields["stem_stride"]), "bn1"))
  levels = [x]
  if fields["stem_pool"]:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    x = windows[:, ::2, ::2].max((-2, -1))
  for stage, blocks in enumerate(fields["stage_sizes"]):
    for block in range(blocks):
      layer = f"layer{stage + 1}.{block}"
      stride = fields["strides"][stage] if block == 0 else 1
      dilation = fields["dilations"][stage]
      if fields["block"] == "basic":
        convolutions = ((stride, dilation), (1, dilation))
      elif fields["stride_on"] == "conv1":
        convolutions = ((stride, 1), (1, dilation), (1, 1))
      else:
        convolutions = ((1, 1), (stride, dilation), (1, 1))
      y = x
      for i, options in enumerate(convolutions, 1):
        y = relu(y) if i > 1 else y
        y = normalize(convolution(y, f"{layer}.conv{i}", *options), f"{layer}.bn{i}")
      if f"encoder.{layer}.downsample.0.weight" in state:
        x = convolution(x, f"{layer}.downsample.0", stride)
        x = normalize(x, f"{layer}.downsample.1")
      x = relu(x + y)
    levels.append(x)
  return levels


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"block": "plain"}, r"block.*plain.*bottleneck.*basic"),
    ({"stride_on": "conv3"}, r"stride_on.*conv3.*conv1.*conv2"),
    ({"expansion": 4}, r"expansion.*4.*basic.*1"),
    ({"strides": (1, 2)}, r"strides.*\(1, 2\)"),
  ],
)
def test_encoders_that_cannot_be_are_reported(fields, message):
  with pytest.raises(ValueError, match=message):
    ResNet(**small_fields(**fields))


def test_a_small_encoder_uses_the_first_widths(random):
  depth, pose = built(small_config())
  x = image(random)
  disparities, variables = jax.jit(lambda key: depth.init_with_output(key, x, train=False))(
    jax.random.key(0)
  )
  decoder = variables["params"]["decoder"]
  shapes = {name: layer["kernel"].shape for name, layer in decoder.items()}
  # Features have 4, 4, 8 and 16 channels, from stride 2 on.
  assert shapes == {
    "upconv3_0": (3, 3, 16, 10),
    "upconv3_1": (3, 3, 10 + 8, 10),
    "upconv2_0": (3, 3, 10, 8),
    "upconv2_1": (3, 3, 8 + 4, 8),
    "upconv1_0": (3, 3, 8, 6),
    "upconv1_1": (3, 3, 6 + 4, 6),
    "upconv0_0": (3, 3, 6, 4),
    "upconv0_1": (3, 3, 4, 4),
    "head0": (3, 3, 4, 1),
    "head1": (3, 3, 6, 1),
    "head2": (3, 3, 8, 1),
    "head3": (3, 3, 10, 1),
  }
  sizes = [(2, HEIGHT >> scale, WIDTH >> scale, 1) for scale in range(4)]
  assert [disparity.shape for disparity in disparities] == sizes
  assert all(0 < d.min() < d.max() < 1 for d in disparities)
  variables = jax.eval_shape(lambda: pose.init(jax.random.key(0), x, x, train=False))
  shapes = {n: layer["kernel"].shape for n, layer in variables["params"]["decoder"].items()}
  assert shapes == {
    "squeeze": (1, 1, 16, 6),
    "pose0": (3, 3, 6, 6),
    "pose1": (3, 3, 6, 6),
    "pose2": (1, 1, 6, 12),
  }
  assert variables["params"]["encoder"]["stem_conv"]["kernel"].shape == (3, 3, 6, 4)


def test_decoders_start_as_convolutions_of_pytorch():
  decoder = DepthDecoder()
  sizes = [(1, 32 >> level, 32 >> level, 64) for level in range(5)]
  features = [jnp.zeros(size) for size in sizes]
  params = jax.jit(decoder.init)(jax.random.key(0), features)["params"]
  for layer in params.values():
    reach = np.prod(layer["kernel"].shape[:3]) ** -0.5  # kaiming_uniform with a = sqrt(5)
    np.testing.assert_allclose(np.abs(layer["kernel"]).max(), reach, rtol=0.02)
    np.testing.assert_allclose(layer["kernel"].std(), reach / 3**0.5, rtol=0.1)


@pytest.mark.parametrize("expected", [0.5, 0.1])
def test_fresh_networks_begin_at_a_disparity(random, expected):
  """What the features say aside."""
  network, _ = built(small_config(initial_disparity=expected))
  x = image(random)
  variables = jax.jit(lambda key: network.init(key, x, train=True))(jax.random.key(0))
  heads = {name: variables["params"]["decoder"][name] for name in ("head0", "head3")}
  for name, head in heads.items():
    variables["params"]["decoder"][name] = head | {"kernel": 0 * head["kernel"]}
  disparities = jax.jit(lambda v: network.apply(v, x, train=False))(variables)
  for disparity in (disparities[0], disparities[3]):
    np.testing.assert_allclose(disparity, expected, rtol=1e-6)


def test_every_parameter_of_depth_learns(random):
  depth, _ = built(small_config())
  x = image(random)
  shapes = jax.eval_shape(lambda: depth.init(jax.random.key(0), x, train=True))
  variables = randomized(random, shapes)

  @jax.jit
  def gradient(params):
    def loss(params):
      outputs, updated = depth.apply(
        variables | {"params": params}, x, train=True, mutable=["batch_stats"]
      )
      return sum(jnp.square(disparity).mean() for disparity in outputs), updated

    return jax.grad(loss, has_aux=True)(params)

  gradients, updated = gradient(variables["params"])
  for path, value in jax.tree_util.tree_leaves_with_path(gradients):
    assert 0 < float(jnp.abs(value).max()) < np.inf, jax.tree_util.keystr(path)
  changes = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()), updated["batch_stats"], variables["batch_stats"]
  )
  assert min(jax.tree.leaves(changes)) > 0


def test_the_motion_is_the_first_that_the_decoder_predicts(float64, random):
  _, pose = built(small_config(dtype="float64", param_dtype="float64"))
  first, second = image(random, jnp.float64), image(random, jnp.float64)
  shapes = jax.eval_shape(lambda: pose.init(jax.random.key(0), first, second, train=False))
  variables = randomized(random, shapes)

  @jax.jit
  def motion(params, first=first, second=second):
    return jnp.stack(pose.apply(variables | {"params": params}, first, second, train=False), 1)

  base = motion(variables["params"])
  assert base.shape == (2, 2, 3)
  moved = jax.jacobian(lambda bias: motion(_with_bias(variables["params"], bias)))(
    variables["params"]["decoder"]["pose2"]["bias"]
  )
  # Outputs 0 to 2 are the first frame's axis-angle, 3 to 5 its translation; 6 on the second's.
  expected = np.zeros((2, 6, 12))
  expected[:, range(6), range(6)] = 0.01
  np.testing.assert_allclose(moved.reshape(2, 6, 12), expected, atol=1e-15)
  encoder = {collection: tree["encoder"] for collection, tree in variables.items()}
  # The earlier frame's channels come first.
  features = jax.jit(lambda v, x: pose.encoder.apply(v, x, train=False))(
    encoder, jnp.concatenate([first, second], -1)
  )
  decoded = PoseDecoder(6).apply({"params": variables["params"]["decoder"]}, features)
  np.testing.assert_allclose(base, np.stack(decoded, 1)[:, :, 0], atol=1e-15)
  swapped = motion(variables["params"], second, first)
  assert np.abs(swapped - base).max() > 1e-5


def _with_bias(params, bias):
  last = params["decoder"]["pose2"] | {"bias": bias}
  return params | {"decoder": params["decoder"] | {"pose2": last}}


def test_every_parameter_of_pose_that_is_used_learns(random):
  _, pose = built(small_config())
  first, second = image(random), image(random)
  shapes = jax.eval_shape(lambda: pose.init(jax.random.key(0), first, second, train=True))
  variables = randomized(random, shapes)

  @jax.jit
  @jax.grad
  def gradient(params):
    motion, _ = pose.apply(
      variables | {"params": params}, first, second, train=True, mutable=["batch_stats"]
    )
    return sum(jnp.square(100 * part).sum() for part in motion)

  for path, value in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
    assert 0 < float(jnp.abs(value).max()) < np.inf, jax.tree_util.keystr(path)


def test_disparity_and_motion_stay_wide_in_bfloat16(random):
  wide = built(small_config())
  narrow = built(small_config(dtype="bfloat16"))
  x = image(random)
  for inputs, wide_network, network in (((x,), wide[0], narrow[0]), ((x, x), wide[1], narrow[1])):
    expected, variables = jax.jit(
      lambda key, network=wide_network, inputs=inputs: network.init_with_output(
        key, *inputs, train=False
      )
    )(jax.random.key(0))
    # Not compiled as a whole: XLA may leave out the rounding that is looked for.
    got = network.apply(variables, *[i.astype(jnp.bfloat16) for i in inputs], train=False)
    for a, b in zip(got, expected, strict=True):
      assert a.dtype == jnp.float32
      assert 0 < jnp.abs(a - b).max() < 0.03 * jnp.abs(b).max()
      rounded = a.astype(jnp.bfloat16).astype(jnp.float32)
      assert (rounded != a).mean() > 0.5  # no number of bfloat16, made float32 at the end


@pytest.mark.parametrize(
  ("size", "fields", "message"),
  [
    ((48, 40), {}, r"48x40.*\b16\b"),
    ((33, 32), {}, r"33x32.*\b16\b"),
    ((32, 32), {"stem_pool": False}, r"strides.*\(2, 2, 4, 8\).*\(2, 4, 8, 16\)"),
    (
      (32, 32),
      {"stem_pool_ceil": True},
      r"stride 4 is 9x9.*\.stem_pool_ceil to False",
    ),
    (
      (32, 32),
      {"stage_sizes": (1, 1), "strides": (1, 2), "dilations": (1, 1)},
      r"encoder.*\b4\b.*\b3\b",
    ),
  ],
)
def test_sizes_that_do_not_fit_the_decoder_are_reported(size, fields, message):
  depth, _ = built(small_config(encoder=small_fields(**fields)))
  with pytest.raises(UserError, match=message):
    jax.eval_shape(lambda: depth.init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False))


def test_fewer_widths_than_levels_are_reported():
  depth, _ = built(small_config(decoder_widths=(4, 6, 8)))
  with pytest.raises(UserError, match=r"widths.*\(4, 6, 8\).*\b4\b"):
    jax.eval_shape(lambda: depth.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False))


def test_networks_are_built_as_configured():
  config = small_config(dtype="bfloat16", pose_encoder=small_fields(width=2))
  config.kernel_init = "zeros"
  with pytest.raises(UserError, match=r"model\.kernel_init.*zeros.*he_normal"):
    built(config)
  config.kernel_init = "he_normal"
  depth, pose = built(config)
  assert isinstance(depth, DepthNetwork)
  assert isinstance(pose, PoseNetwork)
  assert (depth.encoder.width, pose.encoder.width) == (4, 2)
  assert (depth.widths, pose.decoder_width) == ((4, 6, 8, 10, 12), 6)
  assert {n.dtype for n in (depth, pose, depth.encoder, pose.encoder)} == {jnp.dtype("bfloat16")}
  assert {n.param_dtype for n in (depth, depth.encoder)} == {jnp.dtype("float32")}
