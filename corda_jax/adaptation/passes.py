"""Forward passes of student and teacher in training."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.adaptation.terms.base import Context, Pass
from corda_jax.models.layers import accumulation_dtype
from corda_jax.resize import resize
from corda_jax.training.state import TrainState


class Passed(NamedTuple):
  """The student's passes by name, in order, and its statistics after them."""

  passes: dict[str, Pass]
  batch_stats: Any


def student_passes(
  model: nn.Module,
  state: TrainState,
  contexts: Mapping[str, Context],
  kept: Mapping[str, Any] = MappingProxyType({}),
) -> Passed:
  """The student sees the source, the mixed image if there is one, and those of the terms.

  Each once, in this order; statistics go from one pass to the next.

  Args:
    model: the network.
    state: state whose student it is.
    contexts: contexts of the terms, by name.
    kept: what stochastic depth and dropout keep, by pass: results of the network's `sample_kept`;
      of other passes, everything.

  Raises:
    ValueError: two passes have one name, or a term requires a pass that has no image.
  """
  context = next(iter(contexts.values()))
  images = {"source": context.inputs["source_image"]}
  if context.mixed:
    images["mixed"] = context.mixed["image"]
  for name, term in context.step.terms.items():
    own = term.images(contexts[name])
    if taken := own.keys() & images.keys():
      raise ValueError(f"terms.{name} names a pass {min(taken)!r}, which exists: rename it")
    images |= own
  for name, term in context.step.terms.items():
    if missing := set(term.passes) - images.keys():
      raise ValueError(
        f"terms.{name} requires the pass {min(missing)!r}, but no term returns its image: return "
        "it from `images`"
      )
  size = context.inputs["source_label"].shape[1:]
  sizing = {"size": size, "method": model.resize_outputs}
  passes, stats = {}, state.batch_stats
  if context.mixed and context.step.one_student_pass:
    with jax.named_scope("student"):
      # In turn, so that every device's share of the batch holds images of both.
      both = jnp.stack([images["source"], images["mixed"]], axis=1)
      both = both.reshape(-1, *both.shape[2:])
      variables = {"params": state.params, "batch_stats": stats}
      kept_of_both = jax.tree.map(
        lambda *x: jnp.stack(x, axis=1).reshape(-1, *x[0].shape[1:]),
        kept.get("source"),
        kept.get("mixed"),
      )
      *found, stats = forward(model.for_domains(2), variables, both, kept=kept_of_both)
    for first, name in enumerate(("source", "mixed")):
      part = jax.tree.map(lambda x, first=first: x[first::2], found)
      passes[name] = _pass_of(images.pop(name), *part, **sizing)
  for name, image in images.items():
    with jax.named_scope(name):
      variables = {"params": state.params, "batch_stats": stats}
      *found, stats = forward(model, variables, image, kept=kept.get(name))
      passes[name] = _pass_of(image, *found, **sizing)
  return Passed(passes, stats)


def forward(
  model: nn.Module,
  variables: Any,
  x: jax.Array,
  *,
  by_batch: bool = True,
  kept: Mapping[str, Any] | None = None,
) -> tuple[dict[str, jax.Array], tuple[jax.Array, ...], Any]:
  """Outputs of the network, at least float32, the encoder's levels, and updated statistics."""
  dropped = {"kept": kept} if kept else {}
  mutable = ["batch_stats", "intermediates"]
  outputs, updated = model.apply(variables, x, train=by_batch, mutable=mutable, **dropped)
  wide = {name: y.astype(accumulation_dtype(y.dtype)) for name, y in outputs.items()}
  levels = updated.get("intermediates", {}).get("levels", ((),))[0]
  return wide, tuple(levels), updated.get("batch_stats", {})


def _pass_of(
  image: jax.Array,
  outputs: Mapping[str, jax.Array],
  levels: Any,
  *,
  size: tuple[int, int],
  method: str,
) -> Pass:
  sized = {name: resize(y, size, method) for name, y in outputs.items()}
  return Pass(image, sized, levels)
