"""Monodepth2's networks: disparity of one frame, and the motion between two.

Godard et al., "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019 (arXiv
1806.01260). Disparity here is the sigmoid output, 0..1, of which `depth/` makes a depth.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.configuration import check_at_least, check_whole_numbers, check_within, given
from corda_jax.errors import UserError
from corda_jax.models.encoders.base import Encoder
from corda_jax.models.encoders.resnet import ResNet
from corda_jax.models.layers import Convolution, Dtype, accumulation_dtype, torch_uniform

# Of its encoders: levels that halve the size, trained normalisations.
TORCHVISION = {
  "stem_pool_ceil": False,
  "strides": (1, 2, 2, 2),
  "dilations": (1, 1, 1, 1),
  "trainable_affine": True,
}

_MOTION_SCALE = 0.01  # of what the pose decoder predicts: frames of a video are close together


class DepthDecoder(nn.Module):
  """From features of all levels to disparities at the finest scales.

  From the coarsest level on: 3x3 convolution, twice the size, the features of that size beside it,
  3x3 convolution; each with ELU. All convolutions continue the image by its mirror image.

  Attributes:
    widths: channels at the strides 1, 2, 4, …; as many as there are levels, more are not used.
    num_scales: disparities, at the strides 1, 2, 4, ….
    dtype: dtype of the computation; heads and sigmoid are never below float32.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernels.
    initial_disparity: about what fresh weights predict, between 0 and 1. Where pose is learned
      too, depths shrink first: from 0.5, as released, what is near has no room to come nearer.
  """

  widths: Sequence[int] = (16, 32, 64, 128, 256)
  num_scales: int = 4
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = torch_uniform
  initial_disparity: float = 0.5

  @nn.compact
  def __call__(self, features: Sequence[jax.Array]) -> list[jax.Array]:
    """Predicts disparities.

    Args:
      features: [B, H / 2, W / 2, C], [B, H / 4, W / 4, C'], …, each half the size of the last.

    Returns:
      [B, H / 2**s, W / 2**s, 1] for the scales s = 0, 1, …; 0..1, at least float32.

    Raises:
      UserError: the number of levels does not go with `widths` and `num_scales`.
    """
    levels = len(features)
    if levels < self.num_scales:
      raise UserError(
        f"the depth decoder predicts at {self.num_scales} scales and needs an encoder of at least "
        f"{self.num_scales} levels (the stem and each stage), got {levels}"
      )
    if levels > len(self.widths):
      raise UserError(
        f"the depth decoder's widths are {tuple(self.widths)}, expected one for each of the "
        f"encoder's {levels} levels (the stem and each stage)"
      )

    def convolution(width, name, dtype, bias=0.0):
      return Convolution(
        width,
        kernel_size=3,
        use_bias=True,
        reflect=True,
        dtype=dtype,
        param_dtype=self.param_dtype,
        kernel_init=self.kernel_init,
        bias_init=nn.initializers.constant(bias),
        name=name,
      )

    bias = math.log(self.initial_disparity / (1 - self.initial_disparity))
    disparities = {}
    x = features[-1]
    for scale in reversed(range(levels)):
      width = self.widths[scale]
      x = nn.elu(convolution(width, f"upconv{scale}_0", self.dtype)(x))
      x = _twice(x)
      if scale > 0:
        x = jnp.concatenate([x, features[scale - 1].astype(x.dtype)], axis=-1)
      x = nn.elu(convolution(width, f"upconv{scale}_1", self.dtype)(x))
      if scale < self.num_scales:
        head = convolution(1, f"head{scale}", accumulation_dtype(x.dtype), bias)
        disparities[scale] = nn.sigmoid(head(x))
    return [disparities[scale] for scale in range(self.num_scales)]


def _twice(x: jax.Array) -> jax.Array:
  """Nearest-neighbour upsampling of [B, H, W, C] to [B, 2 H, 2 W, C]."""
  batch, height, width, channels = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
  return x.reshape(batch, 2 * height, 2 * width, channels)


class DepthNetwork(nn.Module):
  """Disparities of a frame.

  Attributes:
    encoder: whose levels halve the size, each that of the one before.
    widths: widths of the decoder, see there.
    dtype: dtype of the decoder's computation.
    param_dtype: dtype of its parameters.
    initial_disparity: initial prediction of the decoder, see there.
  """

  encoder: Encoder = ResNet(stride_on="conv2", **TORCHVISION)
  widths: Sequence[int] = (16, 32, 64, 128, 256)
  dtype: Dtype | None = given(None)
  param_dtype: Dtype = given(jnp.float32)
  initial_disparity: float = 0.5

  def __post_init__(self):
    check_whole_numbers(self, "widths")
    check_within(self, initial_disparity=(0.001, 0.999))
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
    """Predicts disparities.

    Args:
      x: [B, H, W, 3] normalised images; H and W are multiples of the encoder's total stride.
      train: whether to normalise by the statistics of the batch, and to update the running ones.

    Returns:
      [B, H / 2**s, W / 2**s, 1] for the scales s = 0, 1, …; 0..1, at least float32.

    Raises:
      UserError: the size of the images or the strides of the encoder do not fit.
    """
    self._check(*x.shape[1:3])
    features = self.encoder.features(x, train=train)
    self._check_halving(x.shape, features)
    decoder = DepthDecoder(
      self.widths,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      initial_disparity=self.initial_disparity,
      name="decoder",
    )
    return decoder(features)

  def _check(self, height: int, width: int) -> None:
    strides = self.encoder.level_strides
    halving = tuple(2 ** (level + 1) for level in range(len(strides)))
    if strides != halving:
      raise UserError(
        f"the encoder's levels have the strides {strides}, and the depth decoder needs {halving}: "
        "set stem_stride, stem_pool and strides of model.encoder"
      )
    if height % strides[-1] or width % strides[-1]:
      raise UserError(
        f"images of {height}x{width} pixels do not fit the depth network, expected multiples of "
        f"{strides[-1]}"
      )

  def _check_halving(self, shape: tuple[int, ...], features: Sequence[jax.Array]) -> None:
    for stride, level in zip(self.encoder.level_strides, features, strict=True):
      if level.shape[1:3] != (shape[1] // stride, shape[2] // stride):
        raise UserError(
          f"the encoder's level of stride {stride} is {level.shape[1]}x{level.shape[2]} for images "
          f"of {shape[1]}x{shape[2]}, and the depth decoder needs exactly that fraction: set "
          "model.encoder.stem_pool_ceil to False"
        )


class PoseDecoder(nn.Module):
  """From the coarsest features of a pair of frames to motions.

  Attributes:
    width: channels of the hidden convolutions.
    frames: motions predicted. The released network predicts two and uses the first.
    dtype: dtype of the computation; the last convolution and the mean are never below float32.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernels.
  """

  width: int = 256
  frames: int = 2
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = torch_uniform

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps features [B, h, w, C] to axis-angle (radians) and translation, [B, frames, 3] each.

    A translation has the unit of the depths that it is learned with. Both are at least float32.
    """

    def convolution(features, kernel_size, name, dtype):
      return Convolution(
        features,
        kernel_size,
        use_bias=True,
        dtype=dtype,
        param_dtype=self.param_dtype,
        kernel_init=self.kernel_init,
        name=name,
      )

    for name, kernel_size in (("squeeze", 1), ("pose0", 3), ("pose1", 3)):
      x = nn.relu(convolution(self.width, kernel_size, name, self.dtype)(x))
    x = convolution(6 * self.frames, 1, "pose2", accumulation_dtype(x.dtype))(x)
    motion = _MOTION_SCALE * x.mean((1, 2)).reshape(-1, self.frames, 6)
    return motion[..., :3], motion[..., 3:]


class PoseNetwork(nn.Module):
  """The motion between two frames of a video.

  Attributes:
    encoder: sees both frames, six channels.
    decoder_width: channels of the decoder.
    dtype: dtype of the decoder's computation.
    param_dtype: dtype of its parameters.
  """

  encoder: Encoder = ResNet(stage_sizes=(2, 2, 2, 2), block="basic", expansion=1, **TORCHVISION)
  decoder_width: int = 256
  dtype: Dtype | None = given(None)
  param_dtype: Dtype = given(jnp.float32)

  def __post_init__(self):
    check_at_least(self, decoder_width=1)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, first: jax.Array, second: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Predicts the motion.

    Args:
      first: [B, H, W, 3] normalised images, the earlier ones.
      second: [B, H, W, 3] normalised images, the later ones.
      train: whether to normalise by the statistics of the batch, and to update the running ones.

    Returns:
      Axis-angle [B, 3] in radians, and translation [B, 3] in the unit of the depths.
    """
    pair = jnp.concatenate([first, second], axis=-1)
    features = self.encoder.features(pair, train=train)[-1]
    decoder = PoseDecoder(
      self.decoder_width, dtype=self.dtype, param_dtype=self.param_dtype, name="decoder"
    )
    axis_angle, translation = decoder(features)
    return axis_angle[:, 0], translation[:, 0]
