"""Any encoder and any decoder of the interfaces go into all networks."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from corda_jax.models.corda import Corda
from corda_jax.models.decoders.base import Decoder
from corda_jax.models.decoders.daformer import FusionDecoder
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.decoders.lightweight import LightweightDecoder
from corda_jax.models.encoders.base import Encoder
from corda_jax.models.encoders.mix_transformer import MixTransformer
from corda_jax.models.encoders.resnet import ResNet
from corda_jax.models.encoders.vision_transformer import VisionTransformer
from corda_jax.models.monodepth import DepthNetwork, PoseNetwork


class Plain(nn.Module):
  """Convolutions that halve the size."""

  level_strides: tuple[int, ...] = (2, 4, 8, 16)

  @nn.compact
  def features(self, x, *, train):
    levels = []
    for width in (4, 6, 8, 10):
      x = nn.relu(nn.Conv(width, (3, 3), (2, 2))(x))
      levels.append(x)
    return levels


class Linear:
  """The finest level, and a linear prediction."""

  def features(self, levels, task, *, train):
    return nn.Conv(5, (1, 1), name=f"decoder_{task}")(levels[0])

  def predict(self, x, name, channels, *, initial=0.0):
    bias = nn.initializers.constant(initial)
    return nn.Conv(channels, (1, 1), bias_init=bias, name=name)(x)


ENCODERS = {
  "plain": Plain(),
  "resnet": ResNet(
    stage_sizes=(1, 1, 1), width=4, strides=(1, 2, 1), dilations=(1, 1, 2), trainable_affine=True
  ),
  "mit": MixTransformer(widths=(4, 6, 8, 10), depths=(1, 2, 1, 1), heads=(1, 2, 2, 2)),
  "dinov2": VisionTransformer(
    width=8, depth=3, heads=2, registers=2, position_grid=3, levels=(0, 2), image_scale=1.1
  ),
  "dinov3": VisionTransformer(
    width=8, depth=2, heads=2, patch=16, mlp="swiglu", positions="rotary", levels=(1,)
  ),
}
_SMALL = {"embed_width": 4, "width": 6}
DECODERS = {
  "linear": Linear(),
  "deeplab": DeepLabDecoder(width=4),
  "deeplab, reduced": DeepLabDecoder(width=0),
  "daformer": FusionDecoder(**_SMALL),
  "aspp": FusionDecoder(**_SMALL, fusion="aspp"),
  "bottleneck": FusionDecoder(**_SMALL, fusion="bottleneck"),
  "segformer": FusionDecoder(**_SMALL, fusion="convolution", coarsest_first=True),
  "lightweight": LightweightDecoder(),
}
TASKS = {
  "corda": {"initial_semantics_from": "encoder"},
  "semantics": {"initial_semantics_from": "decoder", "depth": False, "correlation": False},
}
SIZE = (2, 45, 66, 3)


@pytest.fixture(params=ENCODERS)
def encoder(request):
  return ENCODERS[request.param]


@pytest.fixture(params=DECODERS)
def decoder(request):
  return DECODERS[request.param]


@pytest.fixture(params=TASKS)
def network(request, encoder, decoder):
  return Corda(encoder=encoder, decoder=decoder, **TASKS[request.param])


def check(network, outputs):
  """Shapes of the predictions: one size of all but the initial one of the encoder's last level."""
  channels = {name: 19 if name.endswith("S") else 1 for name in outputs}
  assert {name: (x.shape[0], x.shape[3]) for name, x in outputs.items()} == {
    name: (SIZE[0], number) for name, number in channels.items()
  }
  expected = {"S"} | ({"initial_S"} if network.initial_semantics_from != "none" else set())
  if network.depth:
    expected |= {"D", "D_src", "initial_D", "initial_D_src"}
  assert outputs.keys() == expected
  own = {"initial_S"} if network.initial_semantics_from == "encoder" else set()
  assert len({x.shape[1:3] for name, x in outputs.items() if name not in own}) == 1


def test_any_encoder_with_any_decoder_and_all_tasks(network):
  assert isinstance(network.encoder, Encoder)
  assert isinstance(network.decoder, Decoder)
  outputs, variables = jax.eval_shape(
    lambda x: network.init_with_output(jax.random.key(0), x, train=True),
    jax.ShapeDtypeStruct(SIZE, jnp.float32),
  )
  check(network, outputs)
  assert "encoder" in variables["params"]


@pytest.mark.slow  # each compiles a network
def test_any_encoder_with_any_decoder_runs(network, random):
  x = jnp.asarray(random.standard_normal(SIZE), jnp.float32)
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), x, train=False))
  variables = jax.tree.map(
    lambda leaf: jnp.asarray(random.uniform(0.1, 0.3, leaf.shape), leaf.dtype), shapes
  )

  @jax.jit
  def run(variables, x, key):
    draws = network.sample(key, x.shape[:3])
    return network.apply(variables, x, train=True, draws=draws, mutable=["batch_stats"])[0]

  outputs = run(variables, x, jax.random.key(1))
  check(network, outputs)
  assert all(bool(jnp.isfinite(leaf).all()) for leaf in outputs.values())


@pytest.mark.parametrize("encoder", ["resnet", "mit", "dinov2"], indirect=True)
def test_strides_are_those_of_the_levels(encoder):
  levels = jax.eval_shape(
    lambda x: encoder.init_with_output(jax.random.key(0), x, train=False, method="features")[0],
    jax.ShapeDtypeStruct(SIZE, jnp.float32),
  )
  scale = getattr(encoder, "image_scale", 1)
  for level, stride in zip(levels, encoder.level_strides, strict=True):
    for got, size in zip(level.shape[1:3], SIZE[1:3], strict=True):
      assert abs(got - scale * size / stride) < 2


def test_any_encoder_in_the_depth_stage():
  images = jax.ShapeDtypeStruct((2, 32, 48, 3), jnp.float32)
  depth, pose = DepthNetwork(encoder=Plain()), PoseNetwork(encoder=Plain())
  disparities, _ = jax.eval_shape(
    lambda x: depth.init_with_output(jax.random.key(0), x, train=True), images
  )
  assert [d.shape for d in disparities] == [(2, 32 >> s, 48 >> s, 1) for s in range(4)]
  motion, _ = jax.eval_shape(
    lambda x: pose.init_with_output(jax.random.key(0), x, x, train=True), images
  )
  assert [m.shape for m in motion] == [(2, 3), (2, 3)]
