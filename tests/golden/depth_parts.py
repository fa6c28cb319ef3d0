"""Measures the depth stage against `monodepth*.npz`, in float64."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax import metrics
from corda_jax.depth import camera, photometric
from corda_jax.depth.step import DepthMethod
from tests.golden.released_run import STORED, Measure, relative

ARITHMETIC = 1e-10
EQUAL = float(np.finfo(np.float64).tiny)
# As released: the depths of Monodepth2 in units of its own, and its smoothness.
CONFIG = DepthMethod(min_depth=0.1, max_depth=100.0, smoothness_weight=1e-3, automask="all")


def monodepth_file(path: Path) -> Iterator[Measure]:
  """SSIM, smoothness, poses, metrics, and the whole photometric loss with its gradients."""
  z = np.load(path)
  loss = jax.jit(photometric.ssim_loss)(_wide(z["ssim/x"]), _wide(z["ssim/y"]))
  yield _measure("ssim/loss", loss, z["ssim/loss"])
  disparity, image = _wide(z["smooth/disparity"])[..., 0], _wide(z["smooth/image"])
  # The released function is given the disparity as it is.
  loss = jax.jit(photometric.smoothness)(disparity, image)
  yield _measure("smooth/loss", loss, z["smooth/loss"])
  for invert in (False, True):
    matrix = camera.pose_matrix(
      jnp.asarray(z["pose/axisangle"]), jnp.asarray(z["pose/translation"]), invert=invert
    )
    yield _measure(f"pose/matrix_invert_{invert}", matrix, z[f"pose/matrix_invert_{invert}"])
  errors = metrics.depth_errors(z["metrics/gt"], z["metrics/prediction"])
  for name, expected in zip(errors, z["metrics/values"], strict=True):
    # The reference takes the means of the shares in float32.
    bound = STORED if name.startswith("delta") else ARITHMETIC
    yield Measure(f"metrics/{name}", relative(errors[name], expected), bound, 1)
  yield from _photometric(z)


def _photometric(z) -> Iterator[Measure]:
  frames = ("-1", "1", "s")
  scales = sum(name.startswith("photo/loss_scale") for name in z.files)
  intrinsics = jnp.asarray(z["photo/K"])
  intrinsics = jnp.stack([intrinsics[:, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], 1)
  target = _wide(z["photo/image_0_scale0"])
  sources = jnp.stack([_wide(z[f"photo/image_{frame}_scale0"]) for frame in frames])
  pyramid = [_wide(z[f"photo/image_0_scale{s}"]) for s in range(scales)]

  def loss(disparities, poses):
    transforms = [camera.pose_matrix(*poses[frame], invert=int(frame) < 0) for frame in frames[:-1]]
    transforms = jnp.stack([*transforms, jnp.asarray(z["photo/stereo_T"])])
    views = photometric.Views(target, sources, transforms, intrinsics, (True, True, False))
    return photometric.photometric_loss(disparities, views, CONFIG, pyramid=pyramid)

  disparities = [_wide(z[f"photo/disparity_scale{s}"]) for s in range(scales)]
  poses = {
    frame: tuple(jnp.asarray(z[f"photo/{kind}_{frame}"]) for kind in ("axisangle", "translation"))
    for frame in frames[:-1]
  }
  (value, maps), (disparity_gradients, pose_gradients) = jax.jit(
    jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  )(disparities, poses)
  yield _measure("photo/loss", value, z["photo/loss"])
  for scale in range(scales):
    yield _measure(f"photo/loss_scale{scale}", maps["losses"][scale], z[f"photo/loss_scale{scale}"])
    name = f"photo/automask_scale{scale}"
    differing = int((np.asarray(maps["automasks"][scale]) != z[name].astype(bool)).sum())
    yield Measure(name, differing, EQUAL, z[name].size)
    yield _measure(
      f"photo/depth_scale{scale}", maps["depths"][scale][..., None], z[f"photo/depth_scale{scale}"]
    )
    name = f"photo/disparity_grad_scale{scale}"
    yield _measure(name, disparity_gradients[scale], z[name])
  for view, frame in enumerate(frames):
    name = f"photo/warped_{frame}_scale0"
    if name in z:
      yield _measure(name, maps["warped"][view], z[name])
  for frame, gradients in pose_gradients.items():
    for kind, gradient in zip(("axisangle", "translation"), gradients, strict=True):
      name = f"photo/{kind}_grad_{frame}"
      yield _measure(name, gradient, z[name])


def _wide(array: np.ndarray) -> jax.Array:
  return jnp.asarray(array, jnp.float64)


def _measure(name: str, value, expected: np.ndarray) -> Measure:
  bound = STORED if expected.dtype == np.float32 else ARITHMETIC
  return Measure(name, relative(value, expected), bound, expected.size)
