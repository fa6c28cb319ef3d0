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

from corda_jax.depth.step import DepthModels
from corda_jax.jobs import depth_experiment, experiment
from corda_jax.jobs.depth_experiment import DepthExperiment
from corda_jax.jobs.experiment import Experiment
from corda_jax.models.build import has_depth_heads, output_stride
from corda_jax.models.layers import BatchNorm, Convolution
from corda_jax.models.monodepth import DepthNetwork
from corda_jax.training.sharding import make_mesh


class StubEncoder(nn.Module):
  """One strided convolution and its normalisation.

  Attributes:
    features: channels out.
    stride: pixels of the image from one feature to the next.
    batch_norm_group: of `BatchNorm`.
    batch_norm_domains: of `BatchNorm`.
    level_strides: what sizes of images must be multiples of, last; read by the depth stage.
    dtype: of the computation.
    param_dtype: of the parameters.
  """

  features: int
  stride: int
  batch_norm_group: int = 0
  batch_norm_domains: int = 1
  level_strides: tuple[int, ...] = ()
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = Convolution(self.features, 5, self.stride, name="stem_conv", **types)(x)
    groups = {"group": self.batch_norm_group, "domains": self.batch_norm_domains}
    return nn.relu(BatchNorm(name="stem_norm", **groups, **types)(x, train=train))


class StubNetwork(nn.Module):
  """An encoder, and heads of 1x1 convolutions: the outputs of `Corda`, or of `DeepLab`.

  Attributes:
    encoder: what the heads read.
    heads: (output, name of its parameters), in order.
    num_classes: semantic classes.
    initial_inverse_depth: what the depth heads predict at the start, but for their kernels.
    dtype: of the computation.
    param_dtype: of the parameters.
  """

  encoder: StubEncoder
  heads: tuple[tuple[str, str], ...]
  num_classes: int
  initial_inverse_depth: float = 0.0
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    encoded = self.encoder(x, train=train)

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


def build_stub(config: Any, num_classes: int) -> StubNetwork:
  """The stub of the network that `config` (the `model` part of a configuration) describes."""
  heads = [("S", "final_S")]
  if config.name == "corda":
    heads.append(("initial_S", "initial_S"))
  if has_depth_heads(config):
    heads += [("D", "final_D"), ("D_src", "final_D_src")]
    heads += [(name, name) for name in ("initial_D", "initial_D_src")]
  types = {"dtype": jnp.dtype(config.dtype), "param_dtype": jnp.dtype(config.param_dtype)}
  encoder = StubEncoder(
    2 * config.encoder.width, output_stride(config.encoder), config.batch_norm_group, **types
  )
  return StubNetwork(
    encoder,
    tuple(heads),
    num_classes,
    config.initial_inverse_depth,
    **types,
  )


def stub_experiment(
  config: ml_collections.ConfigDict, devices: int = 1, mesh: Mesh | None = None
) -> Experiment:
  """The experiment of a configuration with a stub in place of its network."""
  mesh = mesh or make_mesh(jax.devices()[:devices])
  made = Experiment.from_config(config, mesh)
  return dataclasses.replace(made, model=build_stub(config.model, len(made.classes)))


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


def stub_depth_experiment(config: ml_collections.ConfigDict, devices: int = 1) -> DepthExperiment:
  """The experiment of a configuration of the depth stage with stubs in place of its networks."""
  made = DepthExperiment.from_config(config, make_mesh(jax.devices()[:devices]))
  depth, pose = stub_depth_networks(made.models.depth)
  models = DepthModels(depth, None if made.models.pose is None else pose)
  return dataclasses.replace(made, models=models)


@contextlib.contextmanager
def stubs_for_networks() -> Iterator[None]:
  """Whatever builds an experiment in this context gets stubs, but for the joint pose network."""
  build_depth = depth_experiment.build_depth_networks

  def build_stubs(config, **options):
    return stub_depth_networks(build_depth(config, **options)[0])

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      experiment, "build_model", lambda config, classes, **_: build_stub(config, classes)
    )
    patch.setattr(depth_experiment, "build_depth_networks", build_stubs)
    yield
