"""The interface of decoders."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax


@runtime_checkable
class Decoder(Protocol):
  """From the encoder's levels to a feature of each task, and from a feature to predictions.

  Both functions are called inside the network's `__call__`, which owns the parameters. A decoder
  with the field `dropout` also has `width`: so many channels of the semantic feature are dropped at
  that rate before the final prediction.
  """

  def features(self, levels: Sequence[jax.Array], task: str, *, train: bool) -> jax.Array:
    """The feature of a task.

    Args:
      levels: features of the encoder, [B, h, w, C] each, finest first.
      task: "S" (semantics) or "D" (depth); modules are named by it.
      train: whether to normalise by the statistics of the batch, and to update the running ones.

    Returns:
      [B, h, w, c]; of one size for all tasks.
    """

  def predict(self, x: jax.Array, name: str, channels: int, *, initial: float = 0.0) -> jax.Array:
    """Predictions from a feature.

    Args:
      x: [B, h, w, c], a feature or a level of the encoder.
      name: name of the module.
      channels: channels of the result.
      initial: mean prediction of fresh weights.

    Returns:
      [B, h, w, channels], at least float32.
    """
