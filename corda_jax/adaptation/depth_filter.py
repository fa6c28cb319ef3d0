"""Drops pasted classes that would be at depths where the target does not have them.

After DCF (Chen, Zheng and Yang, "Transferring to Real-World Layouts", ACM MM 2024, arXiv
2311.12682).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from corda_jax.configuration import check_above, check_at_least, check_one_of, check_within
from corda_jax.depth.inverse_depth import NO_DEPTH
from corda_jax.typing import Array, Bool, Float, Integer

_RELEASED_EDGES = (1.0, 10.0, 100.0)  # of inverse depth


class Domain(NamedTuple):
  """What is known of the images of a domain.

  Attributes:
    label: training ids, or 255.
    inverse_depth: Y; 1 is "no depth".
  """

  label: Integer[Array, "b h w"]
  inverse_depth: Float[Array, "b h w"]


@dataclasses.dataclass(frozen=True)
class DepthFilter:
  """Which pasted classes stay.

  Attributes:
    kind: "none" keeps all; "released" compares numbers of pixels in four intervals of the target's
      depth, as DCF's release does; "histograms" compares where the source has a class with where
      the target has it, over intervals that hold equally many pixels of the target.
    start_step: first step in which it acts. (DCF's release: 120,000, of 40,000.)
    intervals: of "histograms": number of intervals.
    largest_distance: of "histograms": total variation, 0..1, of the two distributions up to which a
      class stays.
    least_share: of "histograms": share of the crop that a class must have in the source and, by its
      labels, in the target, to be compared; otherwise it stays.
    pasted_share: of "released": share of the crop that is many pasted pixels (10,000 of 1024x1024).
    labelled_share: of "released": share that is a large difference, or many labels (5,000).
    rare_share: of "released": share below which a class of few pasted pixels stays (3,000).
  """

  kind: str = "none"
  start_step: int = 0
  intervals: int = 8
  largest_distance: float = 0.7
  least_share: float = 0.002
  pasted_share: float = 10_000 / 1024**2
  labelled_share: float = 5_000 / 1024**2
  rare_share: float = 3_000 / 1024**2

  def __post_init__(self):
    check_one_of(self, kind=("none", "released", "histograms"))
    check_at_least(self, start_step=0, intervals=2)
    check_above(self, least_share=0)
    shares = ("largest_distance", "pasted_share", "labelled_share", "rare_share")
    check_within(self, **dict.fromkeys(shares, (0, 1)))

  def keep(
    self,
    mask: Bool[Array, "b h w"],
    source: Domain,
    target: Domain,
    *,
    num_classes: int,
    step: Integer[Array, ""],
  ) -> Bool[Array, "b h w"]:
    """The pixels that are still pasted.

    Args:
      mask: True where source pixels would be pasted, whole classes.
      source: its labels and depth.
      target: the teacher's labels and its depth.
      num_classes: semantic classes.
      step: number of the step.
    """
    if self.kind == "none":
      return mask
    find = _released if self.kind == "released" else _histograms
    # Ignored pixels are of no class: they stay.
    of_source, of_target = (
      jnp.minimum(domain.label.astype(jnp.int32), num_classes) for domain in (source, target)
    )
    kept = find(
      self,
      Domain(jnp.where(mask, of_source, num_classes), source.inverse_depth),
      Domain(of_target, target.inverse_depth),
      num_classes,
    )
    kept = jnp.pad(kept, ((0, 0), (0, 1)), constant_values=True)
    kept = jax.vmap(lambda kept, label: kept[label])(kept, of_source)
    return mask & (kept | (step < self.start_step))


def _released(
  options: DepthFilter, source: Domain, target: Domain, num_classes: int
) -> Bool[Array, "b classes"]:
  """By numbers of pixels in intervals of the target's depth, also of what is pasted over it."""
  y = target.inverse_depth
  interval = sum((y > edge).astype(jnp.int32) for edge in _RELEASED_EDGES)
  pasted, labelled = (
    _counts(domain.label, interval, num_classes, len(_RELEASED_EDGES) + 1)
    for domain in (source, target)
  )
  # The last interval with more pasted pixels than the one before it.
  rises = pasted[..., 1:] > pasted[..., :-1]
  last = jnp.where(rises, jnp.arange(1, rises.shape[-1] + 1), 0).max(-1, keepdims=True)
  here, there = (jnp.take_along_axis(x, last, -1)[..., 0] for x in (pasted, labelled))
  pixels, total = y[0].size, labelled.sum(-1)
  many, large, rare = (
    share * pixels for share in (options.pasted_share, options.labelled_share, options.rare_share)
  )
  few_stay = (jnp.abs(here - there) < large) | (total < rare)
  many_stay = (there > large) | (total < large)
  return jnp.where(here < many, few_stay, many_stay)


def _histograms(
  options: DepthFilter, source: Domain, target: Domain, num_classes: int
) -> Bool[Array, "b classes"]:
  """By distributions over intervals that hold equally many pixels of the target's known depth."""
  known = jnp.where(target.inverse_depth > NO_DEPTH, target.inverse_depth, jnp.nan)
  inner = jnp.linspace(0, 1, options.intervals + 1)[1:-1]
  edges = jnp.nanquantile(known.reshape(len(known), -1), inner, axis=1)  # [intervals - 1, B]

  def shares(domain):
    interval = (domain.inverse_depth > edges[..., None, None]).sum(0)
    label = jnp.where(domain.inverse_depth > NO_DEPTH, domain.label, num_classes)
    counts = _counts(label, interval, num_classes, options.intervals)
    total = counts.sum(-1, keepdims=True)
    return counts / jnp.maximum(total, 1), total[..., 0]

  (pasted, of_source), (labelled, of_target) = shares(source), shares(target)
  distance = jnp.abs(pasted - labelled).sum(-1) / 2
  least = options.least_share * known[0].size
  return (distance <= options.largest_distance) | (of_source < least) | (of_target < least)


def _counts(
  label: Integer[Array, "b h w"], interval: Integer[Array, "b h w"], num_classes: int, count: int
) -> Float[Array, "b classes intervals"]:
  """Pixels of each class in each interval; those of the label `num_classes` are left out."""
  index = label * count + interval.astype(label.dtype)

  def of_image(index):
    return jnp.zeros((num_classes + 1) * count, jnp.int32).at[index.reshape(-1)].add(1)

  found = jax.vmap(of_image)(index).reshape(-1, num_classes + 1, count)
  return found[:, :num_classes].astype(jnp.float32)  # exact for images of up to 16 million pixels
