"""The interface of encoders."""

from typing import Protocol, runtime_checkable

import jax


@runtime_checkable
class Encoder(Protocol):
  """A Flax module from images to features of several levels.

  An encoder that normalises by batches also has the field `batch_norm_domains`, which
  `Corda.for_domains` sets, and may have `trainable_affine`: False freezes the scales and biases of
  its normalisations. One with stochastic depth has `sample_kept(key, batch)`, whose result
  `features` takes as `kept`.

  Attributes:
    level_strides: stride of each level in pixels of the image, finest first.
  """

  level_strides: tuple[int, ...]

  def features(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
    """Features of all levels, finest first.

    Args:
      x: [B, H, W, C] normalised images; the pose network passes two frames, C = 6.
      train: whether to normalise by the statistics of the batch, and to update the running ones.

    Returns:
      [B, h, w, c] each, with h and w about H and W divided by the level's stride.
    """
