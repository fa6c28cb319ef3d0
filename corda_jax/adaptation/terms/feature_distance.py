"""Features of things stay near those of the encoder that training began with."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from corda_jax.adaptation.terms.base import Context, Found, Loss, Maps, Pass, Term
from corda_jax.configuration import check_at_least, check_within, given
from corda_jax.labels import IGNORE, NAMES
from corda_jax.models.layers import accumulation_dtype
from corda_jax.training.state import TermState
from corda_jax.typing import Array, Bool, Float, Integer


@dataclasses.dataclass(frozen=True)
class FeatureDistance(Term):
  """Distance to the features of the frozen first encoder, on things: "feature_distance".

  The features are the last level's on the source. Weights of ImageNet distinguish things that are
  rare in the source; without `initial_weights` the term keeps random features. Source: DAFormer
  (Hoyer et al., CVPR 2022), section 3.3.

  Attributes:
    weight: weight of the loss.
    classes: names of the things.
    min_share: a position counts if one of the classes has this share of its pixels or more.
  """

  weight: float = 0.005
  classes: tuple[str, ...] = (
    *("traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
  )
  min_share: float = 0.75
  class_names: tuple[str, ...] = given(NAMES)

  def __post_init__(self):
    if unknown := [name for name in self.classes if name not in self.class_names]:
      raise ValueError(
        f"classes has {unknown[0]!r}, expected some of data.classes.names: "
        f"{', '.join(self.class_names)}"
      )
    check_at_least(self, weight=0)
    check_within(self, min_share=(0, 1))

  def init(self, key: jax.Array, step: Any, student: Maps) -> TermState:
    """As in the base class: the student's first encoder, frozen."""
    kinds = ("params", "batch_stats")
    params, batch_stats = (jax.tree.map(jnp.copy, student[k].get("encoder", {})) for k in kinds)
    return TermState(params, batch_stats, optimizer_state=None)

  def losses(self, passes: Mapping[str, Pass], context: Context) -> Found:
    """As in the base class."""
    model, state = context.step.model, context.state
    image, feature = passes["source"].image, passes["source"].levels[-1]
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    seen = model.encoded(image[..., :3])
    *_, frozen = model.encoder.apply(variables, seen, train=False, method="features")
    label = context.inputs["source_label"]
    stride = square_stride(label.shape[1:], feature.shape[1:3])
    label = feature_label(
      label, stride, num_classes=context.step.num_classes, min_share=self.min_share
    )
    ids = [self.class_names.index(name) for name in self.classes]
    things = jnp.isin(label, jnp.asarray(ids, label.dtype))
    distance = feature_distance(feature, jax.lax.stop_gradient(frozen), things)
    return Found({"feature_distance": Loss(distance, self.weight)}, maps={"feature_label": label})


def square_stride(pixels: Sequence[int], features: Sequence[int]) -> int:
  """Side of the squares of pixels that are compared with features, from the widths, as released.

  Args:
    pixels: (H, W) of the crops.
    features: (h, w) of the features.

  Raises:
    ValueError: there are not as many squares as features.
  """
  stride = max(pixels[1] // features[1], 1)
  squares = tuple(n // stride for n in pixels)
  if squares != tuple(features):
    raise ValueError(
      f"crops in squares of {stride} pixels have {squares} of them, but features are "
      f"{tuple(features)}: set data.crop_height and data.crop_width to other multiples of {stride}"
    )
  return stride


def feature_label(
  label: Integer[Array, "b height width"], stride: int, *, num_classes: int, min_share: float
) -> Integer[Array, "b h w"]:
  """The class that most of the pixels of each square have.

  Args:
    label: training ids, 0..num_classes - 1 or 255.
    stride: side of a square, in pixels; those that fill none at the end of an axis are left out.
    num_classes: semantic classes.
    min_share: least share of the square's pixels.

  Returns:
    int32: the lowest of the most frequent values; 255 where that is 255, or its share below
    `min_share`.
  """
  height, width = (n // stride for n in label.shape[1:])
  label = label[:, : stride * height, : stride * width].astype(jnp.int32)
  squares = label.reshape(-1, height, stride, width, stride).transpose(0, 1, 3, 2, 4)
  values = jnp.asarray([*range(num_classes), IGNORE], jnp.int32)
  count = jax.lax.map(lambda value: (squares == value).sum((-2, -1)), values)
  most = count.argmax(0)
  least = math.ceil(min_share * stride**2 - 1e-9)  # but for the rounding of the share
  return jnp.where(count.max(0) >= least, values[most], IGNORE)


def feature_distance(
  first: Float[Array, "b h w c"], second: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
) -> Float[Array, ""]:
  """Mean Euclidean distance over channels at the positions of a mask; 0 if it has none.

  Its gradient is 0 where the features are equal. (The release divides by the number of positions
  also where it is 0: it logs NaN, and the gradient is 0, too.)

  Args:
    first: features.
    second: others.
    mask: the positions that count.
  """
  wide = accumulation_dtype(first.dtype)
  square = jnp.square(first.astype(wide) - second.astype(wide)).sum(-1)
  counted = mask & (square > 0)  # the square root has no gradient at 0
  distance = jnp.where(counted, jnp.sqrt(jnp.where(counted, square, 1)), 0)
  return distance.sum() / jnp.maximum(mask.sum(), 1).astype(wide)
