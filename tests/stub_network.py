"""A network of three layers for tests of what is around a network: it compiles in seconds.

Its parameters and outputs are named as those of `Corda`, so optimiser groups, depth heads, exports
and predictions find what they look for.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import pytest
from flax import linen as nn
from jax.sharding import Mesh

import corda_jax.adaptation.task
import corda_jax.depth.task
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.step import DepthModels
from corda_jax.depth.task import DepthTask
from corda_jax.models.corda import Corda
from corda_jax.models.layers import BatchNorm, Convolution
from corda_jax.models.monodepth import DepthNetwork
from corda_jax.training.sharding import make_mesh


class StubEncoder(nn.Module):
  """One strided convolution and its normalisation.

  Attributes:
    width: channels out.
    stride: pixels of the image from one feature to the next.
    batch_norm_group: of `BatchNorm`.
    batch_norm_domains: of `BatchNorm`.
    level_strides: as those of the encoder in whose place it is.
    dtype: of the computation.
    param_dtype: of the parameters.
  """

  width: int
  stride: int
  batch_norm_group: int = 0
  batch_norm_domains: int = 1
  level_strides: tuple[int, ...] = ()
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = Convolution(self.width, 5, self.stride, name="stem_conv", **types)(x)
    groups = {"group": self.batch_norm_group, "domains": self.batch_norm_domains}
    return nn.relu(BatchNorm(name="stem_norm", **groups, **types)(x, train=train))


class StubNetwork(nn.Module):
  """An encoder, and heads of 1x1 convolutions: the outputs of `Corda`, or of `DeepLab`.

  Attributes:
    encoder: what the heads read.
    heads: (output, name of its parameters), in order.
    num_classes: semantic classes.
    initial_inverse_depth: what the depth heads predict at the start, but for their kernels.
    depth: whether there are depth heads.
    resize_outputs: as of `Corda`.
    decoder: as of `Corda`; others ask for its kind.
    dtype: of the computation.
    param_dtype: of the parameters.
  """

  encoder: StubEncoder
  heads: tuple[tuple[str, str], ...]
  num_classes: int
  initial_inverse_depth: float = 0.0
  depth: bool = True
  resize_outputs: str = "aligned"
  decoder: Any = None
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.nowrap
  def sample(self, key, shape):
    return {}

  @nn.nowrap
  def encoded(self, x):
    return x

  def for_domains(self, domains):
    return self.clone(encoder=self.encoder.clone(batch_norm_domains=domains))

  @nn.compact
  def __call__(self, x, *, train):
    encoded = self.encoder(x, train=train)
    self.sow("intermediates", "levels", [encoded])

    def predict(output, name):
      depth = "_D" in f"_{output}"
      bias = self.initial_inverse_depth if depth else 0.0
      return Convolution(
        1 if depth else self.num_classes,
        use_bias=True,
        predicts=True,
        kernel_init=nn.initializers.normal(0.15),
        bias_init=nn.initializers.constant(bias),
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
      )(encoded)

    return {output: predict(output, name) for output, name in self.heads}


def build_stub(model: Corda) -> StubNetwork:
  """The stub of a network."""
  heads = [("S", "final_S")]
  if model.initial_semantics_from != "none":
    heads.append(("initial_S", "initial_S"))
  if model.depth:
    heads += [("D", "final_D"), ("D_src", "final_D_src")]
    heads += [(name, name) for name in ("initial_D", "initial_D_src")]
  types = {"dtype": model.dtype, "param_dtype": model.param_dtype}
  encoder, strides = model.encoder, model.encoder.level_strides
  stub = StubEncoder(
    2 * encoder.width, strides[-1], encoder.batch_norm_group, level_strides=strides, **types
  )
  return StubNetwork(
    stub,
    tuple(heads),
    model.num_classes,
    model.initial_inverse_depth,
    model.depth,
    decoder=model.decoder,
    **types,
  )


def stub_task(
  config: ml_collections.ConfigDict, devices: int = 1, mesh: Mesh | None = None
) -> AdaptationTask:
  """The task of a configuration with a stub in place of its network."""
  mesh = mesh or make_mesh(jax.devices()[:devices])
  made = AdaptationTask.from_config(config, mesh)
  step = dataclasses.replace(made.step, model=build_stub(made.model))
  return dataclasses.replace(made, step=step)


class _StubDecoder(nn.Module):
  """A pose decoder's last layer: two motions of six numbers, of which the first is used."""

  @nn.compact
  def __call__(self, x):
    scale = 0.01  # motions begin small, as those of `PoseDecoder`
    return scale * Convolution(12, use_bias=True, name="pose2")(x).mean((1, 2))


class StubPoseNetwork(nn.Module):
  """Outputs as those of `PoseNetwork`, from one strided convolution."""

  encoder: StubEncoder

  @nn.compact
  def __call__(self, first, second, *, train):
    encoded = self.encoder(jnp.concatenate([first, second], -1), train=train)
    motion = _StubDecoder(name="decoder")(encoded).reshape(-1, 2, 6)[:, 0]
    return motion[:, :3], motion[:, 3:]


class StubDepthNetwork(nn.Module):
  """Outputs as those of `DepthNetwork`: disparities of four scales, from one convolution."""

  encoder: StubEncoder

  @nn.compact
  def __call__(self, x, *, train):
    encoded = self.encoder(x, train=train)
    scales = [encoded[:, :: 2**scale, :: 2**scale] for scale in range(4)]
    return [
      nn.sigmoid(Convolution(1, use_bias=True, predicts=True, name=f"disparity{scale}")(features))
      for scale, features in enumerate(scales)
    ]


def stub_depth_networks(depth: DepthNetwork) -> tuple[StubDepthNetwork, StubPoseNetwork]:
  """Stubs that take images of the sizes that the network `depth` takes."""
  strides = depth.encoder.level_strides
  return (
    StubDepthNetwork(StubEncoder(8, 1, level_strides=strides)),
    StubPoseNetwork(StubEncoder(8, 4, level_strides=strides)),
  )


def stub_depth_task(config: ml_collections.ConfigDict, devices: int = 1) -> DepthTask:
  """The task of a configuration of the depth stage with stubs in place of its networks."""
  made = DepthTask.from_config(config, make_mesh(jax.devices()[:devices]))
  depth, pose = stub_depth_networks(made.models.depth)
  models = DepthModels(depth, None if made.models.pose is None else pose)
  return dataclasses.replace(made, step=dataclasses.replace(made.step, models=models))


@contextlib.contextmanager
def stubs_for_networks() -> Iterator[None]:
  """Whatever builds a task in this context gets stubs, but for the joint pose network."""
  build = corda_jax.adaptation.task.build_network
  build_depth = corda_jax.depth.task.build_networks

  def build_stubs(*args, **options):
    return stub_depth_networks(build_depth(*args, **options)[0])

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      corda_jax.adaptation.task, "build_network", lambda *args, **o: build_stub(build(*args, **o))
    )
    patch.setattr(corda_jax.depth.task, "build_networks", build_stubs)
    yield
