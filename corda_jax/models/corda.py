"""The network: an encoder, a decoder a task, and tasks that refine each other.

With depth and correlation it is CorDA's (Wang et al., "Domain Adaptive Semantic Segmentation with
Self-Supervised Depth Estimation", ICCV 2021; the correlation goes back to PAD-Net, Xu et al., CVPR
2018). Without either it is encoder and decoder, as in DACS.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.configuration import check_one_of, given
from corda_jax.models.blocks import prediction
from corda_jax.models.decoders.base import Decoder
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.encoders.base import Encoder
from corda_jax.models.encoders.resnet import ResNet
from corda_jax.models.layers import Convolution, Dtype


class Levels(NamedTuple):
  """Features of an image, [B, h, w, C] each, finest first.

  Attributes:
    encoder: of the image's encoder.
    read: what the decoders read: the same, or fused with other features.
  """

  encoder: list[jax.Array]
  read: list[jax.Array]


class CorrelationMessage(nn.Module):
  """What one task's feature gives another: conv3x3(x) * sigmoid(conv3x3'(x)), no biases.

  Attributes:
    features: channels in and out.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernels.
  """

  features: int
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.01)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, features] to the same shape."""

    def convolution(name):
      return Convolution(
        self.features,
        3,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        kernel_init=self.kernel_init,
        name=name,
      )(x)

    return convolution("message") * nn.sigmoid(convolution("attention"))


class Corda(nn.Module):
  """Encoder, semantic and depth decoders, feature correlation, initial and final predictions.

  Attributes:
    encoder: from the image to features of several levels.
    decoder: from these to a feature and to predictions of each task.
    initial_semantics_from: what the initial semantic prediction reads: "encoder", its last level
      (released GTA variant), "decoder", the semantic feature, through a 1x1 convolution (released
      SYNTHIA variant), or "none": there is no such prediction.
    depth: whether there are a depth decoder and depth heads.
    correlation: whether the two tasks refine each other; needs `depth`.
    initial_inverse_depth: what the depth heads predict at the start, but for their kernels.
      Released: 0. Without files to learn from, set one of the scene (65 is 10 m): from 0, read as
      499 m, photometric training has next to no gradient.
    resize_outputs: how predictions are brought to the size of the labels: with "aligned" corners,
      as CorDA does, or by pixel centres ("centered"), as DAFormer does.
    num_classes: semantic classes.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the correlation's kernels.
    head_init: initialiser of the kernels of the initial predictions.
  """

  encoder: Encoder = ResNet()
  decoder: Decoder = DeepLabDecoder()
  initial_semantics_from: str = "encoder"
  depth: bool = True
  correlation: bool = True
  initial_inverse_depth: float = 0.0
  resize_outputs: str = "aligned"
  num_classes: int = given(19)
  dtype: Dtype | None = given(None)
  param_dtype: Dtype = given(jnp.float32)
  kernel_init: nn.initializers.Initializer = given(nn.initializers.normal(0.01))
  head_init: nn.initializers.Initializer = given(nn.initializers.normal(0.01))

  def __post_init__(self):
    check_one_of(
      self,
      initial_semantics_from=("encoder", "decoder", "none"),
      resize_outputs=("aligned", "centered"),
    )
    if self.correlation and not self.depth:
      raise ValueError(
        "correlation is True and depth is False, but one task alone has nothing to correlate: set "
        "both or neither"
      )
    super().__post_init__()

  @property
  def input_channels(self) -> int:
    """Channels of the images: the colours."""
    return 3

  def for_domains(self, domains: int) -> "Corda":
    """The same network for batches whose images are of that many domains in turn.

    In training each domain is normalised by its own statistics; the running ones are updated by one
    domain after the other.
    """
    return self.clone(
      encoder=for_domains(self.encoder, domains), decoder=for_domains(self.decoder, domains)
    )

  @nn.nowrap
  def sample(self, key: jax.Array, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Samples what is random in a pass in training, for `__call__`.

    Args:
      key: PRNG key.
      shape: (B, H, W) of the images.

    Returns:
      What stochastic depth and dropout keep: "encoder", as the encoder's own `sample_kept`, and
      "channels", bool[B, C] of the semantic feature; without those that the parts do not have, or
      whose rates are 0.
    """
    of_encoder, of_channels = jax.random.split(key)
    draws = sample_kept(of_encoder, "encoder", self.encoder, shape[0])
    return draws | sample_channels(of_channels, shape[0], self.decoder)

  @nn.nowrap
  def encoded(self, x: jax.Array) -> jax.Array:
    """What the encoder sees of images [B, H, W, 3]: here all of them."""
    return x

  def __call__(
    self, x: jax.Array, *, train: bool, draws: Mapping[str, Any] | None = None
  ) -> dict[str, jax.Array]:
    """Predicts semantics and inverse depth at the decoder's stride.

    Args:
      x: [B, H, W, C] normalised images, C = `input_channels`.
      train: whether to normalise by the statistics of the batch, and to update the running ones.
      draws: result of `sample`; None drops nothing.

    Returns:
      "S", logits [B, h, w, num_classes], and, unless there is none, "initial_S"; with depth also
      "initial_D" and "D", inverse depth [B, h, w, 1] by the heads trained on the target, and
      "initial_D_src" and "D_src", by those trained on the source. The encoder's levels are left in
      the collection "intermediates".
    """
    outputs, levels = self.with_levels(x, train=train, draws=draws)
    self.sow("intermediates", "levels", levels.encoder)
    return outputs

  @nn.compact
  def with_levels(
    self, x: jax.Array, *, train: bool, draws: Mapping[str, Any] | None = None
  ) -> tuple[dict[str, jax.Array], Levels]:
    """The predictions of `__call__`, and what they are made from."""
    draws = draws or {}
    found = self.levels(x, draws, train=train)
    levels = found.read
    semantic = self.decoder.features(levels, "S", train=train)
    outputs = {}
    if self.initial_semantics_from == "encoder":
      outputs["initial_S"] = self.decoder.predict(levels[-1], "initial_S", self.num_classes)
    elif self.initial_semantics_from == "decoder":
      outputs["initial_S"] = self._project(semantic, "initial_S", self.num_classes)
    if not self.depth:
      return outputs | {"S": self._final_semantics(semantic, draws)}, found

    start = self.initial_inverse_depth
    depth = self.decoder.features(levels, "D", train=train)
    outputs["initial_D"] = self._project(depth, "initial_D", 1, start)
    outputs["initial_D_src"] = self._project(depth, "initial_D_src", 1, start)
    if self.correlation:
      semantic, depth = (
        semantic + self._message(depth, "correlation_D_to_S"),
        depth + self._message(semantic, "correlation_S_to_D"),
      )
    outputs["S"] = self._final_semantics(semantic, draws)
    outputs["D"] = self.decoder.predict(depth, "final_D", 1, initial=start)
    outputs["D_src"] = self.decoder.predict(depth, "final_D_src", 1, initial=start)
    return outputs, found

  def levels(self, x: jax.Array, draws: Mapping[str, Any], *, train: bool) -> Levels:
    """Features of images, for `with_levels`, whose submodules these are."""
    kept = {"kept": draws["encoder"]} if "encoder" in draws else {}
    levels = self.encoder.features(x, train=train, **kept)
    return Levels(levels, levels)

  def _final_semantics(self, x: jax.Array, draws: Mapping[str, Any]) -> jax.Array:
    x = drop_channels(x, draws.get("channels"), getattr(self.decoder, "dropout", 0.0))
    return self.decoder.predict(x, "final_S", self.num_classes)

  def _project(self, x: jax.Array, name: str, channels: int, start: float = 0.0) -> jax.Array:
    """A prediction by a 1x1 convolution."""
    return prediction(
      channels,
      initial=start,
      kernel_init=self.head_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)

  def _message(self, x: jax.Array, name: str) -> jax.Array:
    return CorrelationMessage(
      x.shape[-1],
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      kernel_init=self.kernel_init,
      name=name,
    )(x)


def sample_kept(
  key: jax.Array, name: str, encoder: Encoder, batch: int
) -> dict[str, dict[str, jax.Array]]:
  """{name: what stochastic depth keeps of an encoder}; {} if it keeps all."""
  kept = encoder.sample_kept(key, batch) if hasattr(encoder, "sample_kept") else {}
  return {name: kept} if kept else {}


def sample_channels(key: jax.Array, batch: int, decoder: Decoder) -> dict[str, jax.Array]:
  """{"channels": bool[B, C]}, which of a decoder's feature dropout keeps; {} if it drops none."""
  if not (rate := getattr(decoder, "dropout", 0.0)):
    return {}
  return {"channels": jax.random.uniform(key, (batch, decoder.width)) >= rate}


def drop_channels(x: jax.Array, kept: jax.Array | None, rate: float) -> jax.Array:
  """Dropout of whole channels: [B, h, w, C] times `kept` bool[B, C] / (1 - rate); None: `x`."""
  return x if kept is None else x * (kept[:, None, None].astype(x.dtype) / (1 - rate))


def for_domains(part: Any, domains: int) -> Any:
  """An encoder or decoder whose batches are of that many domains in turn, if it normalises so."""
  if not hasattr(part, "batch_norm_domains"):
    return part
  if isinstance(part, nn.Module):
    return part.clone(batch_norm_domains=domains)
  return dataclasses.replace(part, batch_norm_domains=domains)
