"""Base class of loss terms.

A term is a frozen dataclass whose fields are its settings. It reads the student's passes and gives
losses; the step adds them up and differentiates the sum once. docs/adding_a_method.md shows how one
is written.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from corda_jax.losses import cross_entropy
from corda_jax.models.hrda import DETAIL
from corda_jax.training.state import TermState

if TYPE_CHECKING:
  from corda_jax.adaptation.step import AdaptationStep

Maps = Mapping[str, jax.Array]

# Outputs of the network, by the suffix of their losses; the depth heads trained on the target and
# on the source.
SEMANTIC_HEADS = {"": "S", "_initial": "initial_S"}
DEPTH_HEADS = {"": ("D", "D_src"), "_initial": ("initial_D", "initial_D_src")}


class PassInput(NamedTuple):
  """What the student sees in a pass of a term.

  Attributes:
    image: [B, H, W, 3], network input.
    patches: bool[B, h, w], False where a Vision Transformer sees its mask token in place of a
      patch; None: it sees all.
  """

  image: jax.Array
  patches: jax.Array | None = None


class Detail(NamedTuple):
  """The part of the image that a network at two resolutions sees at the full one.

  Attributes:
    corner: int32[2], (top, left) in pixels.
    size: height and width in pixels.
    loss_weight: weight of the losses of what it alone predicts; all others have the rest of 1.
  """

  corner: jax.Array
  size: tuple[int, int]
  loss_weight: float

  def of(self, map_: jax.Array) -> jax.Array:
    """This part of maps [B, H, W]."""
    first = (jnp.zeros_like(self.corner[0]), *self.corner)
    return jax.lax.dynamic_slice(map_, first, (len(map_), *self.size))


class Pass(NamedTuple):
  """One forward pass of the student in training.

  Attributes:
    image: [B, H, W, 3], network input.
    outputs: predictions by name, [B, H, W, C] at the size of the labels, those of the detail at its
      size.
    levels: the encoder's features, [B, h, w, C] each; at two resolutions, of the context.
    detail: where the detail is; None: the network has one resolution.
  """

  image: jax.Array
  outputs: Maps
  levels: tuple[jax.Array, ...]
  detail: Detail | None = None


class Loss(NamedTuple):
  """One loss.

  Attributes:
    value: scalar; shown as a curve.
    weight: in the sum that is minimised.
  """

  value: jax.Array
  weight: float = 1.0


class Found(NamedTuple):
  """What a term gives.

  Attributes:
    losses: by name; names differ between terms.
    metrics: scalars, shown as curves.
    maps: [B, H, W] or images [B, H, W, 3], for pictures.
    batch_stats: new statistics of the term's own network, if it has one.
  """

  losses: dict[str, Loss]
  metrics: dict[str, jax.Array] = {}
  maps: dict[str, Any] = {}
  batch_stats: Any = None


class Context(NamedTuple):
  """What a term reads beside the student's passes.

  Attributes:
    step: network, normalisation, classes, views and the other terms.
    inputs: the batch: "source_image" and "target_image", normalised float [B, H, W, 3], the source
      weakly augmented if `Mixing.weak` does so; "source_frame" and "target_frame", as they were,
      uint8; "source_label" uint8 [B, H, W]; "source_inverse_depth" and "target_inverse_depth",
      float [B, H, W], at least float32; "target_border" int32 [B, 4], pixels of the frame above,
      below, left and right of the crop, where the teacher asks for it; and what the terms'
      `batch_names` add.
    draws: what the term's own `sample` returned.
    mixed: what `Mixing.mix` returned; empty without a mixed pass.
    teacher: the teacher's predictions on the target by name, [B, H, W, C] at the size of the
      labels; empty without a mixed pass.
    state: state of the term's own network, or None.
  """

  step: AdaptationStep | None
  inputs: Maps
  draws: Any = None
  mixed: Maps = {}
  teacher: Maps = {}
  state: TermState | None = None


@dataclasses.dataclass(frozen=True)
class Term(abc.ABC):
  """Base of the terms. All but `losses` have defaults.

  Attributes:
    passes: names of the passes that the term requires. "source" always runs, "mixed" also runs the
      teacher, and others are of images that a term's `images` returns.
  """

  passes: ClassVar[tuple[str, ...]] = ()

  def batch_names(self, step: AdaptationStep) -> tuple[str, ...]:
    """Arrays of the host batch that it reads, beside images, labels and inverse depth."""
    return ()

  def depth_from(self, domain: str) -> str | None:
    """What a domain's depth heads learn from by this term: "files", "views" or None."""
    return None

  def init(self, key: jax.Array, step: AdaptationStep, student: Maps) -> TermState | None:
    """Initial state of the term's own network, if it has one.

    Args:
      key: PRNG key of the whole state: fold in a constant of your own.
      step: network, classes and so on.
      student: the student's first variables, "params" and "batch_stats".
    """
    return None

  def optimizer(self) -> optax.GradientTransformation | None:
    """Of its own network's parameters; None: they are frozen."""
    return None

  def sample(self, key: jax.Array, batch: Maps, step: AdaptationStep) -> Any:
    """Samples what is random in it.

    Args:
      key: PRNG key of the step: fold in a constant of your own.
      batch: batch of the step, as `Context.inputs`.
      step: network, classes and so on.
    """
    return None

  def images(self, context: Context) -> dict[str, PassInput]:
    """What the student sees in its passes beside source and mixed, by the pass's name."""
    return {}

  @abc.abstractmethod
  def losses(self, passes: Mapping[str, Pass], context: Context) -> Found:
    """Its losses.

    Args:
      passes: the student's passes by name.
      context: everything else that a term may read.
    """


def depth_heads(outputs: Maps, domain: str) -> dict[str, jax.Array]:
  """The heads that learn a domain's depth: suffix of their losses → prediction [B, H, W].

  Args:
    outputs: predictions [B, H, W, 1].
    domain: "source" or "target".
  """
  place = ("target", "source").index(domain)
  names = {suffix: heads[place] for suffix, heads in DEPTH_HEADS.items()}
  return {suffix: outputs[name][..., 0] for suffix, name in names.items() if name in outputs}


def semantic_losses(
  seen: Pass, label: jax.Array, weights: jax.Array | None = None, *, mean_over: str
) -> dict[str, Loss]:
  """Cross-entropy of all semantic predictions of a pass.

  Args:
    seen: the pass.
    label: training ids, integers [B, H, W].
    weights: weight of the pixels [B, H, W], if any.
    mean_over: as of `cross_entropy`.

  Returns:
    Suffix of the loss → loss; those of the detail end in "_detail".
  """
  losses, detail = {}, seen.detail
  for suffix, name in SEMANTIC_HEADS.items():
    if name in seen.outputs:
      loss = cross_entropy(seen.outputs[name], label, weights, mean_over=mean_over)
      losses[suffix] = Loss(loss, 1.0 if detail is None else 1 - detail.loss_weight)
    if detail is not None and (name := DETAIL + name) in seen.outputs:
      own = None if weights is None else detail.of(weights)
      loss = cross_entropy(seen.outputs[name], detail.of(label), own, mean_over=mean_over)
      losses[f"{suffix}_detail"] = Loss(loss, detail.loss_weight)
  return losses
