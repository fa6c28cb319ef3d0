"""Any encoder and any decoder of the interfaces go into all networks."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from corda_jax.models.corda import Corda
from corda_jax.models.decoders.base import Decoder
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.encoders.base import Encoder
from corda_jax.models.encoders.resnet import ResNet
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


SMALL = {"stage_sizes": (1, 1, 1), "width": 4, "strides": (1, 2, 1), "dilations": (1, 1, 2)}


@pytest.mark.parametrize("encoder", [Plain(), ResNet(**SMALL)])
@pytest.mark.parametrize("decoder", [Linear(), DeepLabDecoder(width=4)])
@pytest.mark.parametrize("semantics", ["encoder", "decoder"])
def test_any_encoder_with_any_decoder_and_all_tasks(encoder, decoder, semantics):
  assert isinstance(encoder, Encoder)
  assert isinstance(decoder, Decoder)
  network = Corda(encoder=encoder, decoder=decoder, initial_semantics_from=semantics)
  images = jax.ShapeDtypeStruct((2, 33, 50, 3), jnp.float32)
  outputs, variables = jax.eval_shape(
    lambda x: network.init_with_output(jax.random.key(0), x, train=True), images
  )
  stride = encoder.level_strides[0 if isinstance(decoder, Linear) else -1]
  shapes = {name: 19 if name.endswith("S") else 1 for name in outputs}
  assert shapes.keys() >= {"S", "initial_S", "D", "D_src", "initial_D", "initial_D_src"}
  for name in ("S", "D", "D_src"):
    (batch, height, width, channels) = outputs[name].shape
    assert (batch, channels) == (2, shapes[name])
    assert abs(height - 33 / stride) < 2
    assert abs(width - 50 / stride) < 2
  assert "encoder" in variables["params"]


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
