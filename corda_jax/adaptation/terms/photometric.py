"""Depth heads that learn from other views of the same frame, inside the adaptation step.

With a stereo view the metres of its baseline give the scale. With neighbours in time a pose network
joins the step, whose translations take whatever scale the heads have.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from corda_jax.adaptation.depth_heads import head_to_metres, positive
from corda_jax.adaptation.terms.base import Context, Found, Loss, Maps, Pass, Term, depth_heads
from corda_jax.configuration import (
  check_above,
  check_at_least,
  check_subset,
  free,
)
from corda_jax.depth.motion import explaining_views, image_names, predict_poses, temporal_views
from corda_jax.depth.photometric import (
  PhotometricOptions,
  Views,
  counted_rows,
  identity_error,
  normalized,
  reprojection_minimum,
  smoothness,
  whole_windows,
)
from corda_jax.models.monodepth import PoseNetwork
from corda_jax.models.normalization import MONODEPTH, Normalization
from corda_jax.training.state import TermState, create_term_state

_STATE_KEY, _NOISE_KEYS = 1, {"source": 5, "target": 6}


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
class Photometric(PhotometricOptions, Term):
  """Photometric loss and smoothness of the depth heads: "photometric_src", "photometric_mix".

  Source of the loss: Monodepth2 (Godard et al., ICCV 2019). Further fields: `PhotometricOptions`.

  Attributes:
    domains: whose heads learn from the views that data.DOMAIN.views names; none as released.
    source_weight: weight of the loss on the source.
    target_weight: weight of the loss on the target, where the mixed image shows it.
    metres_per_unit: size of the pose network's translations, which begin near 0.01: small units
      learn slowly. Video only.
    pose_learning_rate: learning rate of Adam.
    pose: the motion between neighbours in time.
    normalization: from uint8 images to its input.
    initial_pose: folder of a run of the depth stage whose pose network a fresh run begins with;
      "": random weights. `metres_per_unit` must then be the metres of that network's unit.
  """

  domains: tuple[str, ...] = ()
  source_weight: float = 1.0
  target_weight: float = 1.0
  metres_per_unit: float = 5.0
  pose_learning_rate: float = 1e-4
  pose: PoseNetwork = PoseNetwork()
  normalization: Normalization = MONODEPTH
  initial_pose: str = free("")

  def __post_init__(self):
    check_subset(self, domains=("source", "target"))
    super().__post_init__()
    check_at_least(self, source_weight=0, target_weight=0, pose_learning_rate=0)
    check_above(self, metres_per_unit=0)

  def _taught(self, step: Any) -> tuple[str, ...]:
    """The domains, if the network has depth heads."""
    return self.domains if step.model.depth else ()

  def depth_from(self, domain: str) -> str | None:
    """As in the base class."""
    return "views" if domain in self.domains else None

  def batch_names(self, step: Any) -> tuple[str, ...]:
    """As in the base class."""
    return tuple(
      f"{domain}_{name}"
      for domain in self._taught(step)
      for name in (*image_names(step.views[domain])[1:], "intrinsics", "baseline")
    )

  def init(self, key: jax.Array, step: Any, student: Maps) -> TermState | None:
    """As in the base class: the pose network, where a domain has neighbours in time."""
    if not any(temporal_views(step.views[domain]) for domain in self._taught(step)):
      return None
    key = jax.random.fold_in(key, _STATE_KEY)
    image = jnp.zeros((1, 64, 64, 3), jnp.float32)
    return create_term_state(self.pose.init(key, image, image, train=True), self.optimizer())

  def optimizer(self) -> optax.GradientTransformation:
    """As in the base class."""
    return optax.adam(self.pose_learning_rate)

  def sample(self, key: jax.Array, batch: Maps, step: Any) -> dict[str, jax.Array]:
    """As in the base class: keys of the noise that breaks ties of the automask."""
    return {domain: jax.random.fold_in(key, _NOISE_KEYS[domain]) for domain in self.domains}

  def losses(self, passes: Mapping[str, Pass], context: Context) -> Found:
    """As in the base class."""
    stats = None if context.state is None else context.state.batch_stats
    losses = {}
    for domain, seen in (("source", "source"), ("target", "mixed")):
      if domain not in self._taught(context.step) or seen not in passes:
        continue
      # The target's depth is predicted where the mixed image shows the target.
      mask = None if domain == "source" else ~context.mixed["mask"]
      image = context.step.normalization.to_unit_range(passes[seen].image[..., :3])
      prediction = Prediction(depth_heads(passes[seen].outputs, domain), image, mask)
      views, stats = self.explaining_views(domain, context, stats)
      found = photometric_losses(prediction, views, self, key=context.draws[domain])
      weight = getattr(self, f"{domain}_weight")
      kind = "photometric_src" if domain == "source" else "photometric_mix"
      losses |= {kind + suffix: Loss(loss, weight) for suffix, loss in found.items()}
    return Found(losses, batch_stats=stats)

  def explaining_views(self, domain: str, context: Context, stats: Any) -> tuple[Views, Any]:
    """The views of one domain with their transforms, in metres.

    Args:
      domain: "source" or "target".
      context: context of the term.
      stats: running statistics of the pose network; None without one.

    Returns:
      The views, and the statistics after the network's pass.
    """
    views, batch = context.step.views[domain], context.inputs
    dtype = batch[f"{domain}_inverse_depth"].dtype

    def frames(views):
      # The batch's own image is network input by now; as the others it is read as it was.
      names = image_names(views)
      return {
        name: batch[f"{domain}_{name}" if name != "image" else f"{domain}_frame"] for name in names
      }

    def apply(first, second):
      variables = {"params": context.state.params, "batch_stats": stats}
      motion, updated = self.pose.apply(
        variables, first, second, train=True, mutable=["batch_stats"]
      )
      return motion, updated["batch_stats"]

    images = {name: frame.astype(dtype) / 255 for name, frame in frames(views).items()}
    temporal = temporal_views(views)
    inputs = {
      name: self.normalization.normalize(frame, dtype)
      for name, frame in (frames(temporal) if temporal else {}).items()
    }
    poses, updated = predict_poses(apply, inputs, views)
    poses = {
      view: (angle, self.metres_per_unit * translation)
      for view, (angle, translation) in poses.items()
    }
    camera = {k: batch[f"{domain}_{k}"].astype(dtype) for k in ("baseline", "intrinsics")}
    found = explaining_views(images, poses, views, metres_per_unit=1.0, **camera)
    return found, stats if updated is None else updated


def photometric_losses(
  prediction: Prediction, views: Views, options: PhotometricOptions, *, key: jax.Array
) -> dict[str, jax.Array]:
  """Photometric loss and smoothness of depth heads.

  Args:
    prediction: prediction of depth heads.
    views: views of the images whose depth is predicted.
    options: how views are compared and joined.
    key: PRNG key of the noise that breaks ties of the automask.

  Returns:
    Suffix → scalar, the mean over the mask's pixels whose windows are within it; 0 without any.
  """
  heads, image, mask = prediction
  weight = counted_rows(views.target.shape[:3], options.ignored_bottom, views.target.dtype)
  seen = jnp.ones_like(weight) if mask is None else mask.astype(weight.dtype)
  # Beside the mask, windows would hold depths that the other domain's pixels were given.
  weight = whole_windows(weight * seen)
  still = identity_error(views, options.automask, key, over_views=options.over_views)
  losses = {}
  for suffix, head in heads.items():
    error, _ = reprojection_minimum(head_to_metres(head), views, over_views=options.over_views)
    if still is not None:
      error = jnp.minimum(error, still)
    data = (error * weight).sum() / jnp.maximum(weight.sum(), 1)
    smooth = smoothness(normalized(positive(head), seen), image, seen)
    losses[suffix] = data + options.smoothness_weight * smooth
  return losses
