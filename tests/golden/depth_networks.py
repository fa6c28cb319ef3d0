"""Measures the decoders of depth and pose against `monodepth*.npz`, in float64."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.models.monodepth import DepthDecoder, PoseDecoder
from corda_jax.pretrained.names.monodepth import TABLES
from tests.golden import golden, released_shapes
from tests.golden.released_run import STORED, Measure, relative

_CHANNELS = (64, 64, 128, 256, 512)  # of ResNet-18's features, at the strides 2, 4, …


def decoders_file(path: Path) -> Iterator[Measure]:
  """Disparities of all scales, and both motions that the pose decoder predicts."""
  z = np.load(path)
  batch, height, width = (int(n) for n in z["shape"])
  random = np.random.RandomState(int(z["seed"]) + 7)
  features = [
    jnp.asarray(random.standard_normal((batch, height >> i + 1, width >> i + 1, channels)))
    for i, channels in enumerate(_CHANNELS)
  ]
  decoder = DepthDecoder(param_dtype=jnp.float64)
  disparities = jax.jit(decoder.apply)({"params": decoder_params("depth")}, features)
  for scale, got in enumerate(disparities):
    name = f"depth_decoder/disparity_scale{scale}"
    yield Measure(name, relative(got, z[name]), STORED, z[name].size)
  decoder = PoseDecoder(param_dtype=jnp.float64)
  motions = jax.jit(decoder.apply)({"params": decoder_params("pose")}, features[-1])
  for name, got in zip(("axisangle", "translation"), motions, strict=True):
    expected = z[f"pose_decoder/{name}"][:, :, 0]
    yield Measure(f"pose_decoder/{name}", relative(got, expected), STORED, expected.size)


def decoder_params(network: str) -> dict[str, dict[str, jax.Array]]:
  """Parameters of the reference's decoder; `network`: "depth" or "pose"."""
  params: dict[str, dict[str, jax.Array]] = {}
  for name, shape in released_shapes(f"monodepth_{network}_decoder").items():
    tensor = golden.parameter(f"{network}.{name}", shape)
    _, module, leaf = TABLES[network].place(name).path.split("/")
    tensor = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor
    params.setdefault(module, {})[leaf] = jnp.asarray(tensor)
  return params
