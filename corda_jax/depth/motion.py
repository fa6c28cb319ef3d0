"""How the views of a frame were taken: their transforms, known from stereo, predicted in video."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from corda_jax.depth.camera import pose_matrix, stereo_matrix
from corda_jax.depth.photometric import Views
from corda_jax.typing import Array, Float

# Views before and after the image in time: their pose is predicted.
TEMPORAL = ("previous", "next")

# Axis-angles, in radians, and translations, from the earlier frame to the later, by the name of the
# temporal view.
Poses = Mapping[str, tuple[Float[Array, "b 3"], Float[Array, "b 3"]]]


def temporal_views(views: tuple[str, ...]) -> tuple[str, ...]:
  """Those of the views that are neighbours in time."""
  return tuple(view for view in views if view in TEMPORAL)


def are_temporal(views: tuple[str, ...]) -> tuple[bool, ...]:
  """Of each view, whether it is a neighbour in time."""
  return tuple(view in TEMPORAL for view in views)


def view_transforms(
  poses: Poses,
  views: tuple[str, ...],
  baseline: Float[Array, " b"],
  metres_per_unit: float,
) -> Float[Array, "n b 4 4"]:
  """From the image's camera to that of each view.

  Args:
    poses: motions of the temporal views.
    views: names of all N views.
    baseline: distance of the right camera, metres.
    metres_per_unit: size of the translations' and the transforms' unit.

  Returns:
    Transforms in the order of `views`.
  """
  return jnp.stack(
    [
      stereo_matrix(baseline / metres_per_unit)
      if view == "right"
      else pose_matrix(*poses[view], invert=view == "previous")
      for view in views
    ]
  )


def image_names(views: Sequence[str]) -> tuple[str, ...]:
  """What batches call an image and its views: "image", and "VIEW_image" of each."""
  return ("image", *(f"{view}_image" for view in views))


def explaining_views(
  images: Mapping[str, Float[Array, "b h w c"]],
  poses: Poses,
  views: tuple[str, ...],
  *,
  baseline: Float[Array, " b"],
  intrinsics: Float[Array, "b 4"],
  metres_per_unit: float,
) -> Views:
  """What the photometric losses read of frames.

  Args:
    images: 0..1: "image", and "VIEW_image" of each view.
    poses: motions of the temporal views.
    views: names of all views.
    baseline: distance of the right camera, metres.
    intrinsics: (fx, fy, cx, cy) of all images, pixels.
    metres_per_unit: size of the depths that are to explain the images.

  Returns:
    The images as target and sources, and where the camera stood for each, in these units.
  """
  return Views(
    target=images["image"],
    sources=jnp.stack([images[f"{view}_image"] for view in views]),
    transforms=view_transforms(poses, views, baseline, metres_per_unit),
    intrinsics=intrinsics,
    temporal=are_temporal(views),
  )


def predict_poses(
  apply: Callable[..., Any],
  images: Mapping[str, Float[Array, "b h w 3"]],
  views: tuple[str, ...],
) -> tuple[Poses, Any]:
  """Motions between an image and its temporal views, in one pass of the pose network.

  Args:
    apply: (first, second) → ((axis-angles, translations), updated statistics).
    images: network inputs: "image", and "VIEW_image" of each temporal view.
    views: names of all views.

  Returns:
    The motions, and the updated statistics, None without temporal views.
  """
  temporal = temporal_views(views)
  if not temporal:
    return {}, None
  image = images["image"]
  pairs = [
    (images["previous_image"], image) if view == "previous" else (image, images["next_image"])
    for view in temporal
  ]
  first, second = (jnp.concatenate(part) for part in zip(*pairs, strict=True))
  (axis_angle, translation), updated = apply(first, second)
  parts = (jnp.split(x, len(temporal)) for x in (axis_angle, translation))
  return dict(zip(temporal, zip(*parts, strict=True), strict=True)), updated
