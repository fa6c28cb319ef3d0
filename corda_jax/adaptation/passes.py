"""Forward passes of student and teacher in training."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.adaptation.terms.base import Context, Detail, Pass, PassInput
from corda_jax.models.hrda import DETAIL
from corda_jax.models.layers import accumulation_dtype
from corda_jax.resize import resize
from corda_jax.training.state import TrainState


class Passed(NamedTuple):
  """What the student's passes give.

  Attributes:
    passes: by name, in order.
    batch_stats: its statistics after them.
  """

  passes: dict[str, Pass]
  batch_stats: Any


def student_passes(
  model: nn.Module,
  state: TrainState,
  contexts: Mapping[str, Context],
  draws: Mapping[str, Any] = MappingProxyType({}),
) -> Passed:
  """The student sees the source, the mixed image if there is one, and those of the terms.

  Each once, in this order; statistics go from one pass to the next.

  Args:
    model: the network.
    state: state whose student it is.
    contexts: contexts of the terms, by name.
    draws: what is random in each pass: results of the network's `sample`; in other passes, nothing.

  Raises:
    ValueError: two passes have one name, or a term requires a pass that has no image.
  """
  context = next(iter(contexts.values()))
  seen = {"source": PassInput(context.inputs["source_image"])}
  if context.mixed:
    seen["mixed"] = PassInput(context.mixed["image"])
  for name, term in context.step.terms.items():
    own = term.images(contexts[name])
    if taken := own.keys() & seen.keys():
      raise ValueError(f"terms.{name} names a pass {min(taken)!r}, which exists: rename it")
    seen |= own
  for name, term in context.step.terms.items():
    if missing := set(term.passes) - seen.keys():
      raise ValueError(
        f"terms.{name} requires the pass {min(missing)!r}, but no term returns its image: return "
        "it from `images`"
      )
  size = context.inputs["source_label"].shape[1:]
  draws = {name: _with_patches(draws.get(name), each.patches) for name, each in seen.items()}
  passes, stats = {}, state.batch_stats
  if context.mixed and context.step.one_student_pass:
    with jax.named_scope("student"):
      # In turn, so that every device's share of the batch holds images of both.
      both = jnp.stack([seen["source"].image, seen["mixed"].image], axis=1)
      both = both.reshape(-1, *both.shape[2:])
      variables = {"params": state.params, "batch_stats": stats}
      of_both = jax.tree.map(
        lambda *x: jnp.stack(x, axis=1).reshape(-1, *x[0].shape[1:]),
        draws["source"],
        draws["mixed"],
      )
      *found, stats = forward(model.for_domains(2), variables, both, draws=of_both)
    for first, name in enumerate(("source", "mixed")):
      part = jax.tree.map(lambda x, first=first: x[first::2], found)
      passes[name] = _pass_of(model, seen.pop(name).image, part, size)
  for name, (image, _) in seen.items():
    with jax.named_scope(name):
      variables = {"params": state.params, "batch_stats": stats}
      *found, stats = forward(model, variables, image, draws=draws[name])
      passes[name] = _pass_of(model, image, found, size, draws=draws[name])
  return Passed(passes, stats)


def forward(
  model: nn.Module,
  variables: Any,
  x: jax.Array,
  *,
  by_batch: bool = True,
  draws: Mapping[str, Any] | None = None,
) -> tuple[dict[str, jax.Array], tuple[jax.Array, ...], Any]:
  """Outputs of the network, at least float32, the encoder's levels, and updated statistics."""
  random = {"draws": draws} if draws else {}
  mutable = ["batch_stats", "intermediates"]
  outputs, updated = model.apply(variables, x, train=by_batch, mutable=mutable, **random)
  wide = {name: y.astype(accumulation_dtype(y.dtype)) for name, y in outputs.items()}
  levels = updated.get("intermediates", {}).get("levels", ((),))[0]
  return wide, tuple(levels), updated.get("batch_stats", {})


def _pass_of(
  model: nn.Module,
  image: jax.Array,
  found: Any,
  size: tuple[int, int],
  *,
  draws: Mapping[str, Any] | None = None,
) -> Pass:
  """A pass from the network's outputs and levels."""
  outputs, levels = found
  detail = None
  if any(name.startswith(DETAIL) for name in outputs):
    crop = model.detail
    detail = Detail(draws["corner"], crop.size(image.shape[1:3]), crop.loss_weight)

  def sized(name, y):
    own = detail.size if name.startswith(DETAIL) else size
    return resize(y, own, model.resize_outputs)

  return Pass(image, {name: sized(name, y) for name, y in outputs.items()}, levels, detail)


def _with_patches(
  draws: Mapping[str, Any] | None, patches: jax.Array | None
) -> Mapping[str, Any] | None:
  """What is random in a pass whose encoder does not see all patches."""
  if patches is None:
    return draws
  draws = dict(draws or {})
  return draws | {"encoder": {**draws.get("encoder", {}), "patches": patches}}
