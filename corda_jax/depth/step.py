"""One training step of the depth and pose networks.

Source: Monodepth2 (Godard et al., ICCV 2019). Everything is pure; what is random is drawn by `draw`
from the key and the step's number, and used by `descend`, so that tests can give the draws.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from corda_jax.color_jitter import color_jitter, draw_jitter
from corda_jax.configuration import check_above, check_within
from corda_jax.depth.motion import explaining_views, image_names, predict_poses, temporal_views
from corda_jax.depth.photometric import PhotometricOptions, photometric_loss
from corda_jax.models.layers import accumulation_dtype
from corda_jax.models.normalization import Normalization
from corda_jax.training.settings import check_depth_range
from corda_jax.training.state import skip_unless_finite

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


@struct.dataclass
class DepthState:
  """State of one depth run; a pytree of arrays.

  Attributes:
    step: int32 scalar, updates made so far.
    params: parameters of the networks, by "depth" and, with video, "pose".
    batch_stats: their running statistics, likewise.
    optimizer_state: state of the optax transformation.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  optimizer_state: Any


class DepthModels(NamedTuple):
  """The networks of a depth run.

  Attributes:
    depth: image → disparities.
    pose: two images → motion; None without video.
  """

  depth: nn.Module
  pose: nn.Module | None


@dataclasses.dataclass(frozen=True)
class DepthMethod(PhotometricOptions):
  """The photometric training, as published. Further fields: `PhotometricOptions`.

  Attributes:
    min_depth: depth of the network's output 1, in units.
    max_depth: depth of the network's output 0, in units.
    metres_per_unit: what a unit is. Published: the baseline is 0.1; Cityscapes' has 0.22 m. Video
      has no scale of its own: --mode=evaluate reports the factor by which the truth differs.
    flip_probability: 0..1, of mirrored images.
    jitter_probability: 0..1, of images whose colours the networks see changed.
    jitter_strength: 0..1, see `draw_jitter`.
  """

  min_depth: float = 0.1
  max_depth: float = 100.0
  metres_per_unit: float = 2.2
  flip_probability: float = 0.5
  jitter_probability: float = 0.5
  jitter_strength: float = 0.2

  def __post_init__(self):
    super().__post_init__()
    check_depth_range(self)
    check_above(self, metres_per_unit=0)
    share = (0, 1)
    check_within(
      self,
      flip_probability=share,
      jitter_probability=share,
      jitter_strength=share,
    )


def draw(key: jax.Array, batch: int, config: DepthMethod) -> dict[str, Any]:
  """Draws everything that is random in a step.

  Args:
    key: PRNG key of this step.
    batch: number of images.
    config: probabilities and strength.

  Returns:
    "flip", "use_jitter" bool[B]; "jitter" as of `draw_jitter`; "noise", a key.
  """
  keys = jax.random.split(key, 4)
  jitter = draw_jitter(keys[2], batch, strength=config.jitter_strength)
  # As released: the hue turns half as far as the other three change.
  jitter["hue"] = jitter["hue"] / 2
  return {
    "flip": jax.random.bernoulli(keys[0], config.flip_probability, (batch,)),
    "use_jitter": jax.random.bernoulli(keys[1], config.jitter_probability, (batch,)),
    "jitter": jitter,
    "noise": keys[3],
  }


def flip_views(batch: Batch, flip: jax.Array, names: tuple[str, ...]) -> dict[str, jax.Array]:
  """Mirrors images left to right, and their cameras with them.

  Args:
    batch: images [B, H, W, 3], by `names`; "intrinsics" [B, 4]; "baseline" [B].
    flip: bool[B].
    names: names of the images.

  Returns:
    The same; a mirrored pair's right view is on its left, so its baseline is negative.
  """
  flipped = dict(batch)
  for name in names:
    image = batch[name]
    flipped[name] = jnp.where(flip[:, None, None, None], image[:, :, ::-1], image)
  fx, fy, cx, cy = (batch["intrinsics"][:, i] for i in range(4))
  mirrored = batch[names[0]].shape[2] - 1 - cx
  flipped["intrinsics"] = jnp.stack([fx, fy, jnp.where(flip, mirrored, cx), cy], 1)
  flipped["baseline"] = jnp.where(flip, -batch["baseline"], batch["baseline"])
  return flipped


@dataclasses.dataclass(frozen=True, eq=False)  # hashed as itself, so that it can be jitted
class DepthStep:
  """The pure function step(state, batch, key) → (state, metrics).

  `batch` holds "image" and, of each view, "VIEW_image" uint8 RGB [B, H, W, 3], "intrinsics"
  float32[B, 4] in pixels and "baseline" float32[B] in metres. Metrics are scalars. A step whose
  loss or gradients are not finite changes nothing but the count of steps.

  Attributes:
    models: the networks.
    optimizer: optimiser of their parameters.
    normalization: from uint8 images to network input.
    config: settings of the losses and of what is random.
    views: that explain an image: any of "right", "previous", "next".
  """

  models: DepthModels
  optimizer: optax.GradientTransformation
  normalization: Normalization
  config: DepthMethod
  views: tuple[str, ...]

  @property
  def stride(self) -> int:
    """What heights and widths of images must be multiples of, pixels."""
    return self.models.depth.encoder.level_strides[-1]

  def create_state(self, key: jax.Array) -> DepthState:
    """A fresh state, by a function that can be traced."""
    depth_key, pose_key = jax.random.split(key)
    size = 2 * self.stride  # reflection needs two pixels at the coarsest level
    image = jnp.zeros((1, size, size, 3), jnp.float32)
    variables = {"depth": self.models.depth.init(depth_key, image, train=True)}
    if self.models.pose is not None:
      variables["pose"] = self.models.pose.init(pose_key, image, image, train=True)
    params = {name: value["params"] for name, value in variables.items()}
    return DepthState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats={name: value["batch_stats"] for name, value in variables.items()},
      optimizer_state=self.optimizer.init(params),
    )

  def __call__(self, state: DepthState, batch: Batch, key: jax.Array) -> tuple[DepthState, Metrics]:
    """The state after one step, and metrics."""
    draws = draw(jax.random.fold_in(key, state.step), len(batch["image"]), self.config)
    after, metrics, _ = self.descend(state, batch, draws)
    return skip_unless_finite(state, after, metrics)

  def descend(
    self, state: DepthState, batch: Batch, draws: Mapping[str, Any]
  ) -> tuple[DepthState, Metrics, dict[str, Any]]:
    """The arithmetic of a step, random choices given.

    Returns:
      The next state, scalar metrics, and the maps of `photometric_loss`, "poses" of `predict_poses`
      and "batch_stats", the updated statistics by network.
    """
    names = image_names(self.views)
    wide = accumulation_dtype(jax.tree.leaves(state.params)[0].dtype)
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    batch = flip_views(batch, draws["flip"], names)
    # The networks see jittered colours, the loss the true ones.
    colors = {name: batch[name].astype(wide) / 255 for name in names}
    seen = image_names(temporal_views(self.views))
    inputs = {name: jittered_input(colors[name], draws, self.normalization) for name in seen}

    def loss_function(params):
      def apply(name, *x):
        variables = {"params": params[name], "batch_stats": state.batch_stats[name]}
        network = getattr(self.models, name)
        outputs, updated = network.apply(variables, *x, train=True, mutable=["batch_stats"])
        return outputs, updated["batch_stats"]

      disparities, depth_stats = apply("depth", inputs["image"])
      poses, pose_stats = predict_poses(lambda *x: apply("pose", *x), inputs, self.views)
      scene = explaining_views(
        colors,
        poses,
        self.views,
        baseline=batch["baseline"].astype(wide),
        intrinsics=batch["intrinsics"],
        metres_per_unit=self.config.metres_per_unit,
      )
      loss, maps = photometric_loss(disparities, scene, self.config, key=draws["noise"])
      stats = {"depth": depth_stats, "pose": pose_stats}
      maps |= {"poses": poses, "batch_stats": {name: stats[name] for name in params}}
      return loss, maps

    (loss, maps), gradients = jax.value_and_grad(loss_function, has_aux=True)(state.params)
    updates, optimizer_state = self.optimizer.update(gradients, state.optimizer_state, state.params)
    metrics = {
      "total": loss,
      "counted_share": maps["automask"].mean(dtype=wide),
      "mean_depth": maps["depth"].mean(),
      "gradient_norm": optax.tree.norm(gradients),
    }
    for view, (_, translation) in maps["poses"].items():
      metrics[f"{view}_distance"] = jnp.sqrt(jnp.square(translation).sum(-1)).mean()
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=maps["batch_stats"],
      optimizer_state=optimizer_state,
    )
    return state, metrics, maps


def jittered_input(
  unit: jax.Array, draws: Mapping[str, Any], normalization: Normalization
) -> jax.Array:
  """Images as network input, jittered where that was drawn; all views of a sample alike.

  Args:
    unit: [B, H, W, 3], RGB 0..1.
    draws: random choices of `draw`.
    normalization: from colours to network input.
  """
  jittered = color_jitter(unit, draws["jitter"], brightness_mode="multiply")
  unit = jnp.where(draws["use_jitter"][:, None, None, None], jittered, unit)
  if normalization.bgr:
    unit = unit[..., ::-1]
  return normalization.from_unit_range(unit)
