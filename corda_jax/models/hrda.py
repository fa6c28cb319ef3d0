"""HRDA (Hoyer, Dai and Van Gool, ECCV 2022): one network at two resolutions, fused by attention."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.configuration import check_at_least, check_within, given
from corda_jax.models.corda import Corda, drop_channels, sample_channels
from corda_jax.models.decoders.base import Decoder
from corda_jax.models.decoders.daformer import FusionDecoder
from corda_jax.models.layers import Dtype
from corda_jax.resize import scale_centered
from corda_jax.sliding import corners, mean_of_windows

DETAIL = "detail_"  # before the names of predictions of the detail alone
_SEMANTIC = ("S", "initial_S")
_CONTEXT_SCALE = 0.5


@dataclasses.dataclass(frozen=True)
class DetailCrop:
  """The part of a training crop that the network also sees at full resolution.

  Attributes:
    height: rows, pixels of the image.
    width: columns.
    multiple: pixels that the crop's corner is a multiple of.
    last_position: whether the crop may also be at the end of an axis, so that all positions are
      equally likely; released: never.
    loss_weight: weight of the losses of what the detail alone predicts; the fused prediction's have
      the rest of 1.
  """

  height: int = 512
  width: int = 512
  multiple: int = 8
  last_position: bool = False
  loss_weight: float = 0.1

  def __post_init__(self):
    check_at_least(self, height=1, width=1, multiple=1)
    check_within(self, loss_weight=(0, 1))

  def size(self, image: Sequence[int]) -> tuple[int, int]:
    """Height and width in an image of (H, W) pixels, which may be smaller."""
    return min(self.height, image[0]), min(self.width, image[1])

  def sample(self, key: jax.Array, image: Sequence[int]) -> jax.Array:
    """Samples the corner (top, left) of the crop, int32[2], in an image of (H, W) pixels."""
    counts = [
      (n - own + 1) // self.multiple if not self.last_position else (n - own) // self.multiple + 1
      for n, own in zip(image, self.size(image), strict=True)
    ]
    return self.multiple * jax.random.randint(key, (2,), 0, jnp.maximum(jnp.array(counts), 1))


class Fused(NamedTuple):
  """What is fused.

  Attributes:
    context: (1 - attention) times the context's prediction, [B, h, w, C] at its stride.
    attention: 0..1, trust in the detail, at the same stride; 0 outside of the detail.
    detail: the detail's prediction, [B, 2 h, 2 w, C]; 0 outside.
  """

  context: jax.Array
  attention: jax.Array
  detail: jax.Array

  @property
  def prediction(self) -> jax.Array:
    """The fused prediction, [B, 2 h, 2 w, C]. (1 - attention) is applied before upsampling."""
    return scale_centered(self.attention, 2.0) * self.detail + scale_centered(self.context, 2.0)


class Hrda(nn.Module):
  """A network that sees the image at half resolution, and parts of it at full resolution.

  The context is the whole image at half resolution, the detail a crop of it: in training one of
  random place, otherwise overlapping windows that cover all. The scale attention reads the
  context's features and weighs the detail's semantic predictions against the context's, for each
  class. Depth is the context's: a part of a street alone does not show its scale.

  Batches are normalised as a whole, also by the teacher, of which all windows are one batch: groups
  are not supported. Variables have the names of those of `network`, beside those of the attention.

  Attributes:
    network: encoder, decoders and tasks; of both resolutions.
    attention: decoder of the scale attention.
    detail: the detail crop.
    num_classes: semantic classes.
    dtype: dtype of the computation.
    param_dtype: dtype of the parameters.
  """

  network: Corda = Corda()
  attention: Decoder = FusionDecoder(fusion="convolution")
  detail: DetailCrop = DetailCrop()
  num_classes: int = given(19)
  dtype: Dtype | None = given(None)
  param_dtype: Dtype = given(jnp.float32)

  def setup(self):
    """Parameters of the network are at the top."""
    nn.share_scope(self, self.network)

  @property
  def encoder(self) -> Any:
    """The network's encoder."""
    return self.network.encoder

  @property
  def decoder(self) -> Any:
    """The network's decoder."""
    return self.network.decoder

  @property
  def depth(self) -> bool:
    """Whether the network predicts depth."""
    return self.network.depth

  @property
  def input_channels(self) -> int:
    """Channels of the images, as of the network."""
    return self.network.input_channels

  @property
  def resize_outputs(self) -> str:
    """How predictions are resized, as of `Corda`."""
    return self.network.resize_outputs

  @nn.nowrap
  def sample(self, key: jax.Array, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Samples what is random in a pass in training, for `__call__`.

    Args:
      key: PRNG key.
      shape: (B, H, W) of the images.

    Returns:
      "context" and "detail", as of `Corda.sample`, each its own: what a `DepthGuided` hides in one
      may be seen in the other; "channels", bool[B, C] of the attention's feature, which dropout
      keeps, and "corner", int32[2]: (top, left) of the detail crop.
    """
    keys = jax.random.split(key, 4)
    draws = {"context": self.network.sample(keys[0], shape)}
    draws["detail"] = self.network.sample(keys[1], (shape[0], *self.detail.size(shape[1:])))
    draws |= sample_channels(keys[2], shape[0], self.attention)
    return draws | {"corner": self.detail.sample(keys[3], shape[1:])}

  @nn.nowrap
  def encoded(self, x: jax.Array) -> jax.Array:
    """The context of images [B, H, W, C], which the encoder sees first: half the resolution."""
    return scale_centered(x, _CONTEXT_SCALE)

  def __call__(
    self, x: jax.Array, *, train: bool, draws: Mapping[str, Any] | None = None
  ) -> dict[str, jax.Array]:
    """Predicts semantics and inverse depth.

    Args:
      x: [B, H, W, C] normalised images, C = `input_channels`.
      train: whether to normalise by the statistics of the batch, and to update the running ones.
      draws: result of `sample`: there is one detail crop; None: windows, and nothing is dropped.

    Returns:
      As of `Corda`, of the context's depth heads and, at the stride of the detail, fused semantic
      predictions; with `draws` also those of the detail alone, "detail_S" and, unless there is
      none, "detail_initial_S". The encoder's levels of the context, and "fused_S", a `Fused`, are
      left in the collection "intermediates".
    """
    size = x.shape[1:3]
    x = _padded(x, self.detail.multiple)
    context, levels = self.network.with_levels(
      self.encoded(x), train=train, draws=(draws or {}).get("context")
    )
    self.sow("intermediates", "levels", levels.encoder)
    attention = self._attention(levels.read, (draws or {}).get("channels"), train=train)
    if attention.shape[1:3] != context["S"].shape[1:3]:
      raise ValueError(
        f"attention is of {attention.shape[1:3]} places, but predictions of "
        f"{context['S'].shape[1:3]}: give the attention a decoder of the same stride"
      )
    names = [name for name in _SEMANTIC if name in context]
    if draws is None:
      alone, placed = {}, self._windows(x, names, train=train)
    else:
      alone = self._crop(x, draws, train=train)
      stride = self.detail.size(x.shape[1:3])[0] // alone[names[0]].shape[1]
      attention = _inside(attention, alone["S"], draws["corner"] // (2 * stride))
      placed = {name: _onto(attention, alone[name], draws["corner"] // stride) for name in names}
    outputs = context | {DETAIL + name: alone[name] for name in names if alone}
    for name in names:
      fused = Fused((1 - attention) * context[name], attention, placed[name])
      self.sow("intermediates", f"fused_{name}", fused)
      outputs[name] = fused.prediction
    return outputs if x.shape[1:3] == size else {n: _cut(y, x, size) for n, y in outputs.items()}

  @nn.compact
  def _attention(self, levels: Any, kept: jax.Array | None, *, train: bool) -> jax.Array:
    """Trust in the detail, 0..1, [B, h, w, num_classes] at the stride of the context."""
    x = self.attention.features(levels, "attention", train=train)
    x = drop_channels(x, kept, getattr(self.attention, "dropout", 0.0))
    return nn.sigmoid(self.attention.predict(x, "final_attention", self.num_classes))

  def _crop(self, x: jax.Array, draws: Mapping[str, Any], *, train: bool) -> dict[str, jax.Array]:
    """Predictions on the detail crop."""
    size = (x.shape[0], *self.detail.size(x.shape[1:3]), x.shape[-1])
    seen = jax.lax.dynamic_slice(x, _place(draws["corner"]), size)
    return self.network.with_levels(seen, train=train, draws=draws["detail"])[0]

  def _windows(self, x: jax.Array, names: Sequence[str], *, train: bool) -> dict[str, jax.Array]:
    """Predictions on overlapping windows, averaged; of the size of the whole image's."""
    size = x.shape[1:3]
    window = self.detail.size(size)
    places = corners(size, window, [max(n // 2, 1) for n in window])
    parts = [x[:, top : top + window[0], left : left + window[1]] for top, left in places]
    # In turn, so that the windows of an image stay on its device.
    together = jnp.stack(parts, axis=1)
    outputs, _ = self.network.with_levels(together.reshape(-1, *parts[0].shape[1:]), train=train)
    found = {}
    for name in names:
      y = outputs[name]
      stride = window[0] // y.shape[1]
      y = y.reshape(-1, len(places), *y.shape[1:]).swapaxes(0, 1)
      at = [(top // stride, left // stride) for top, left in places]
      found[name] = mean_of_windows(y, at, (size[0] // stride, size[1] // stride))
    return found


def _padded(x: jax.Array, multiple: int) -> jax.Array:
  """Images whose sizes are multiples, by repeated edges at the bottom and at the right."""
  missing = [(0, -n % multiple) for n in x.shape[1:3]]
  if not any(n for _, n in missing):
    return x
  return jnp.pad(x, ((0, 0), *missing, (0, 0)), mode="edge")


def _cut(y: jax.Array, x: jax.Array, size: Sequence[int]) -> jax.Array:
  """Predictions of padded images `x` without what lies beyond their `size`."""
  rows, columns = (
    -(-own * n // padded) for own, n, padded in zip(size, y.shape[1:3], x.shape[1:3], strict=True)
  )
  return y[:, :rows, :columns]


def _inside(attention: jax.Array, detail: jax.Array, corner: jax.Array) -> jax.Array:
  """Attention where the context shows the detail, whose (top, left) is `corner`; 0 elsewhere."""
  place = []
  for axis in (0, 1):
    along = jnp.arange(attention.shape[1 + axis], dtype=corner.dtype)
    place.append((along >= corner[axis]) & (along < corner[axis] + detail.shape[1 + axis] // 2))
  rows, columns = place
  return jnp.where(rows[:, None, None] & columns[:, None], attention, 0)


def _onto(attention: jax.Array, detail: jax.Array, corner: jax.Array) -> jax.Array:
  """The detail's prediction at its `corner` in zeros, twice as fine as the context's."""
  batch, height, width, _ = attention.shape
  canvas = jnp.zeros((batch, 2 * height, 2 * width, detail.shape[-1]), detail.dtype)
  return jax.lax.dynamic_update_slice(canvas, detail, _place(corner))


def _place(corner: jax.Array) -> tuple[jax.Array, ...]:
  """Where a crop of images [B, H, W, C] begins; integers of one type."""
  zero = jnp.zeros_like(corner[0])
  return zero, *corner, zero
