"""Depth supervision inside the adaptation step: by files, by photometric consistency, or both.

The depth heads predict inverse depth Y = 655.36 / metres, of which 1 means "no depth", and may
predict anything, also below 1. The photometric loss needs a positive depth, so it reads
1 + softplus(Y - 1). That is Y itself but for the farthest depths: 10.0001 at 10 (66 m), 1.69 at 1
(387 m), and towards 1 (655 m) below. With a stereo view the metres of its baseline give the scale.
With neighbours in time the pose network's translations take whatever scale the heads have.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from corda_jax.depth.inverse_depth import NO_DEPTH, to_metres
from corda_jax.depth.motion import explaining_views, image_names, predict_poses, temporal_views
from corda_jax.depth.photometric import (
  Views,
  counted_rows,
  identity_error,
  normalized,
  reprojection_minimum,
  smoothness,
  whole_windows,
)
from corda_jax.models.build import Normalization
from corda_jax.training.state import PoseState

_NEAREST = 0.1  # metres; heads may predict less, where no photometric loss can follow them

Maps = Mapping[str, jax.Array]


class Prediction(NamedTuple):
  """What depth heads predict of an image.

  Attributes:
    heads: suffix of the loss → prediction [B, H, W], inverse depth.
    image: [B, H, W, C] as the heads' network saw it, 0..1: its edges damp the smoothness.
    mask: bool[B, H, W], True where the prediction is of these images; None: everywhere.
  """

  heads: Maps
  image: jax.Array
  mask: jax.Array | None


@dataclasses.dataclass(frozen=True)
class JointDepth:
  """The photometric part of a step.

  Attributes:
    views: domain → views that explain its images; only domains with photometric supervision.
    config: the `method.photometric` part of a configuration.
    pose: motion between neighbours in time; None where no domain has such views.
    pose_optimizer: of its parameters.
    pose_normalization: from uint8 images to its input.
  """

  views: Mapping[str, tuple[str, ...]]
  config: Any
  pose: nn.Module | None = None
  pose_optimizer: optax.GradientTransformation | None = None
  pose_normalization: Normalization | None = None

  def losses(
    self,
    domain: str,
    prediction: Prediction,
    scene: Maps,
    pose: PoseState | None,
    *,
    key: jax.Array,
  ) -> tuple[dict[str, jax.Array], PoseState | None]:
    """The photometric losses of one domain.

    Args:
      domain: "source" or "target", one of `views`.
      prediction: on an image that shows the domain.
      scene: of `scenes`.
      pose: the pose network, whose parameters gradients go to.
      key: of the noise that breaks ties of the automask.

    Returns:
      Suffix → scalar; and the pose network with updated statistics.
    """
    views, pose = self._explaining_views(scene, self.views[domain], pose)
    return photometric_losses(prediction, views, self.config, key=key), pose

  def _explaining_views(
    self, scene: Maps, views: tuple[str, ...], pose: PoseState | None
  ) -> tuple[Views, PoseState | None]:
    """The views of one domain with their transforms, in metres."""

    def apply(first, second):
      variables = {"params": pose.params, "batch_stats": pose.batch_stats}
      motion, updated = self.pose.apply(
        variables, first, second, train=True, mutable=["batch_stats"]
      )
      return motion, updated["batch_stats"]

    inputs = {name.replace("input", "image"): x for name, x in scene.items() if "input" in name}
    poses, stats = predict_poses(apply, inputs, views)
    scale = self.config.metres_per_unit
    poses = {view: (angle, scale * translation) for view, (angle, translation) in poses.items()}
    found = explaining_views(
      scene, poses, views, scene["baseline"], scene["intrinsics"], metres_per_unit=1.0
    )
    return found, pose if stats is None else pose.replace(batch_stats=stats)


def uses_files(supervision: str) -> bool:
  """Whether a domain's depth files are a target of its depth heads."""
  return supervision in ("files", "both")


def uses_views(supervision: str) -> bool:
  """Whether a domain's depth heads learn from other views."""
  return supervision in ("photometric", "both")


def positive(head: jax.Array) -> jax.Array:
  """A head's prediction as inverse depth above 1; see the module."""
  return NO_DEPTH + jax.nn.softplus(head - NO_DEPTH)


def head_to_metres(head: jax.Array) -> jax.Array:
  """Distance along the optical axis that a head predicts, 0.1 to 655.35 metres."""
  return jnp.maximum(to_metres(positive(head)), _NEAREST)


def scenes(batch: Maps, joint: JointDepth, dtype: Any) -> dict[str, dict[str, jax.Array]]:
  """What the photometric loss reads of a host batch, by domain.

  Args:
    batch: with "DOMAIN_image", "DOMAIN_VIEW_image" uint8 RGB [B, H, W, 3], "DOMAIN_intrinsics"
      [B, 4] and "DOMAIN_baseline" [B] of each domain of `joint`.
    joint: which domains and views.
    dtype: of the results.

  Returns:
    "image" and "VIEW_image" 0..1, "intrinsics", "baseline", and "input" and "VIEW_input" of the
    pose network.
  """
  found = {}
  for domain, views in joint.views.items():
    names = image_names(views)
    scene = {name: batch[f"{domain}_{name}"].astype(dtype) / 255 for name in names}
    scene |= {k: batch[f"{domain}_{k}"].astype(dtype) for k in ("intrinsics", "baseline")}
    if temporal_views(views):
      for name in image_names(temporal_views(views)):
        image = joint.pose_normalization.normalize(batch[f"{domain}_{name}"], dtype)
        scene[name.replace("image", "input")] = image
    found[domain] = scene
  return found


def photometric_losses(
  prediction: Prediction, views: Views, config: Any, *, key: jax.Array
) -> dict[str, jax.Array]:
  """Photometric loss and smoothness of depth heads.

  Args:
    prediction: of depth heads.
    views: of the images whose depth is predicted.
    config: the `method.photometric` part of a configuration.
    key: of the noise that breaks ties of the automask.

  Returns:
    Suffix → scalar, the mean over the pixels of the mask whose windows lie in it; 0 without any.
  """
  heads, image, mask = prediction
  weight = counted_rows(views.target.shape[:3], config.ignored_bottom, views.target.dtype)
  seen = jnp.ones_like(weight) if mask is None else mask.astype(weight.dtype)
  # Beside the mask, windows would hold depths that the other domain's pixels were given.
  weight = whole_windows(weight * seen)
  still = identity_error(views, config.automask, key, over_views=config.over_views)
  losses = {}
  for suffix, head in heads.items():
    error, _ = reprojection_minimum(head_to_metres(head), views, over_views=config.over_views)
    if still is not None:
      error = jnp.minimum(error, still)
    data = (error * weight).sum() / jnp.maximum(weight.sum(), 1)
    smooth = smoothness(normalized(positive(head), seen), image, seen)
    losses[suffix] = data + config.smoothness_weight * smooth
  return losses


def judged_inverse_depth(inverse_depth: jax.Array, head: jax.Array, supervision: str) -> jax.Array:
  """Y of the depth discrepancy `|D_src - D| / Y`: from files, else from the domain's own head.

  Args:
    inverse_depth: [B, H, W] of the files, 1 where unknown.
    head: [B, H, W], the prediction of the head that learns the domain's depth.
    supervision: of the domain. "none": no head learns it, so Y is unknown.
  """
  if uses_files(supervision):
    return inverse_depth
  if uses_views(supervision):
    return jax.lax.stop_gradient(positive(head))
  return jnp.full_like(inverse_depth, NO_DEPTH)
