"""One training step: teacher → mix → student passes → terms → optimiser → teacher.

Of DACS (Tranheden et al., WACV 2021), CorDA (Wang et al., ICCV 2021), DAFormer, HRDA and MIC (Hoyer
et al., 2022 and 2023); their losses are terms (`adaptation/terms/`), and a method is a list of
them. Everything is pure; what is random is sampled by `prepare` from the key and the step's number,
and used by `adapt`, so that tests can give it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax
from flax import linen as nn
from jax.sharding import Sharding

from corda_jax.adaptation.mixing import Mixing
from corda_jax.adaptation.passes import Passed, forward, student_passes
from corda_jax.adaptation.teacher import Teacher
from corda_jax.adaptation.terms.base import Context, Found, Loss, Pass, Term
from corda_jax.models.depth_guided import network_input
from corda_jax.models.layers import accumulation_dtype
from corda_jax.models.normalization import Normalization
from corda_jax.resize import resize
from corda_jax.training.state import (
  TermState,
  TrainState,
  create_train_state,
  skip_unless_finite,
)

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Maps = dict[str, jax.Array]
Draws = Mapping[str, Any]

# Folded into the key of a step: for what is random in the network, one more for each pass, and for
# the weak augmentation.
_PASSES, _WEAK = 1000, 3000


class Taught(NamedTuple):
  """What the teacher gives a step; without adaptation both maps are empty.

  Attributes:
    outputs: its predictions on the target by name, at the output stride.
    batch_stats: its statistics after that pass.
    mixed: result of `Mixing.mix`.
  """

  outputs: Maps
  batch_stats: Any
  mixed: Maps


@dataclasses.dataclass(frozen=True, eq=False)  # hashed as itself, so that it can be jitted
class AdaptationStep:
  """The pure function step(state, batch, key) → (state, metrics), and what it is made of.

  `batch` holds "source_image", "target_image" uint8 RGB [B, H, W, 3], "source_label" uint8
  [B, H, W], "source_inverse_depth" and "target_inverse_depth" float [B, H, W], and what the
  `batch_names` of the teacher and of the terms say. Metrics are scalars. A step whose loss or
  gradients are not finite changes nothing but the count of steps.

  Attributes:
    model: network whose outputs are named as those of `Corda`.
    optimizer: optimiser of its parameters.
    normalization: from uint8 images to network input.
    num_classes: semantic classes.
    terms: what the student learns from, by name.
    teacher: labels the target.
    mixing: makes the mixed image.
    views: images beside a frame, by "source" and "target": of "right", "previous", "next".
    one_student_pass: whether the student sees source and mixed images as one batch, each still
      normalised by its own statistics, and not one after the other. The results are the same.
    gradient_sharding: sharding of the parameters over the devices, and so of their gradients; None,
      on one device, leaves it to the compiler.
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  normalization: Normalization
  num_classes: int
  terms: Mapping[str, Term]
  teacher: Teacher = Teacher()
  mixing: Mixing = Mixing()
  views: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=lambda: {"source": (), "target": ()}
  )
  one_student_pass: bool = False
  gradient_sharding: Sharding | None = None

  @property
  def adapts(self) -> bool:
    """Whether a term asks for the mixed image, and so for the teacher."""
    return any("mixed" in term.passes for term in self.terms.values())

  @property
  def passes(self) -> tuple[str, ...]:
    """Names of the student's passes; source and mixed come first."""
    of_terms = {name: None for term in self.terms.values() for name in term.passes}
    return tuple(dict.fromkeys(("source", *("mixed",) * self.adapts, *of_terms)))

  def depth_from(self, domain: str) -> frozenset[str]:
    """What a domain's depth heads learn from, of "files" and "views"."""
    found = {term.depth_from(domain) for term in self.terms.values()}
    return frozenset(found - {None})

  def create_state(self, key: jax.Array) -> TrainState:
    """A fresh state, by a function that can be traced."""
    state = create_train_state(self.model, self.optimizer, key)
    student = {"params": state.params, "batch_stats": state.batch_stats}
    return state.replace(terms=self.create_term_states(key, student))

  def create_term_states(self, key: jax.Array, student: Any) -> dict[str, TermState]:
    """Fresh states of the terms' networks, by the term's name.

    Args:
      key: PRNG key of the whole state.
      student: the student's first variables.
    """
    made = {name: term.init(key, self, student) for name, term in self.terms.items()}
    return {name: each for name, each in made.items() if each is not None}

  def __call__(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
    """The state after one step, and metrics."""
    inputs, draws = self.prepare(state, batch, key)
    after, metrics, _ = self.adapt(state, inputs, draws)
    with jax.named_scope("optimizer"):  # the compiler makes one of this choice and of the update
      return skip_unless_finite(state, after, metrics)

  def prepare(
    self, state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs and the random choices of `adapt`.

    Returns:
      The batch, but "DOMAIN_image" as network input, "DOMAIN_frame" as it was, and inverse depths
      of the type of the statistics; and what `Mixing.sample` gives, with "terms", by name, what
      their `sample` gives, "passes", by name, what the network's `sample` gives, and "weak", by
      domain, what that of `Mixing.weak` gives.
    """
    wide = accumulation_dtype(jax.tree.leaves(state.params)[0].dtype)
    inputs: dict[str, Any] = dict(batch)
    for domain in ("source", "target"):
      frame = batch[f"{domain}_image"]
      inputs[f"{domain}_frame"] = frame
      depth = batch[f"{domain}_inverse_depth"].astype(wide)
      inputs[f"{domain}_inverse_depth"] = depth
      inputs[f"{domain}_image"] = network_input(
        self.model, self.normalization.normalize(frame, wide), depth
      )
    key = jax.random.fold_in(key, state.step)
    draws = self.mixing.sample(key, batch["source_label"], self.num_classes)
    draws["terms"] = {name: term.sample(key, inputs, self) for name, term in self.terms.items()}
    shape = batch["source_label"].shape
    draws["passes"] = {
      name: self.model.sample(jax.random.fold_in(key, _PASSES + index), shape)
      for index, name in enumerate(self.passes)
    }
    weak = jax.random.split(jax.random.fold_in(key, _WEAK), (2, 4))
    draws["weak"] = {
      domain: self.mixing.weak.sample(list(keys), shape[0])
      for domain, keys in zip(("source", "target"), weak, strict=True)
    }
    return inputs, draws

  def adapt(
    self, state: TrainState, inputs: Batch, draws: Draws
  ) -> tuple[TrainState, Metrics, Maps]:
    """The arithmetic of a step, random choices given.

    Args:
      state: before the step.
      inputs: inputs of `prepare`.
      draws: random choices of `prepare`.

    Returns:
      The next state, scalar metrics, and maps: those of the terms and of `Mixing.mix`, "outputs",
      the student's predictions on the mixed image (without adaptation: on the source's) at the size
      of the labels, and "teacher_outputs", the teacher's on the target at the output stride.
    """
    state, inputs, taught = self.teach(state, inputs, draws)
    trained = {name: term for name, term in state.terms.items() if term.optimizer_state is not None}

    def total_loss(params, term_params):
      terms = {name: trained[name].replace(params=own) for name, own in term_params.items()}
      student = state.replace(params=params, terms=state.terms | terms)
      found, passed = self.student_losses(student, inputs, draws, taught)
      return sum(weighted(found.losses).values()), (found, passed)

    term_params = {name: term.params for name, term in trained.items()}
    (total, (found, passed)), gradients = jax.value_and_grad(
      total_loss, argnums=(0, 1), has_aux=True
    )(state.params, term_params)
    with jax.named_scope("optimizer"):
      # Whole on every device until their norm is computed, also where the optimiser's state is
      # split: otherwise the norm would cost a collective for each of them.
      if self.gradient_sharding is not None:
        own = jax.lax.with_sharding_constraint(gradients[0], self.gradient_sharding)
        gradients = (own, gradients[1])
      gradient_norm = optax.tree.norm(gradients)
    losses = {name: loss.value for name, loss in found.losses.items()}
    metrics = losses | found.metrics | {"total": total, "gradient_norm": gradient_norm}
    terms = {
      name: term.replace(batch_stats=found.batch_stats.get(name, term.batch_stats))
      for name, term in state.terms.items()
    }
    state = state.replace(batch_stats=passed.batch_stats, terms=terms)
    if self.teacher.statistics == "own":
      state = state.replace(teacher_batch_stats=taught.batch_stats)
    with jax.named_scope("optimizer"):
      state = self._update(state, *gradients)
    shown = passed.passes["mixed" if self.adapts else "source"]
    maps = {"outputs": shown.outputs, "teacher_outputs": taught.outputs}
    return state, metrics, taught.mixed | found.maps | maps

  def teach(
    self, state: TrainState, inputs: Batch, draws: Draws
  ) -> tuple[TrainState, dict[str, Any], Taught]:
    """The teacher labels the target; images are mixed.

    Returns:
      The state, whose teacher has followed the student if it does so before the step, the inputs,
      whose source is weakly augmented, and what the teacher gives.
    """
    if self.teacher.update == "before":
      state = state.replace(**self.teacher.follow(state, state.params))
    weak = {
      domain: self.mixing.weak.augment(
        inputs[f"{domain}_image"], draws.get("weak", {}).get(domain, {}), self.normalization
      )
      for domain in ("source", "target")
    }
    seen = {**inputs, "source_image": weak["source"]}
    if not self.adapts:
      return state, seen, Taught({}, state.teacher_batch_stats, {})
    # The scopes name the parts in profiles and counts of operations.
    with jax.named_scope("teacher"):
      outputs, stats = self.ask_teacher(state, inputs["target_image"])
      labels = self.teacher.label(outputs, state.step, inputs, self.model.resize_outputs)
    mixed = self.mixing.mix(
      labels,
      {**inputs, "target_image": weak["target"]},
      draws,
      normalization=self.normalization,
      num_classes=self.num_classes,
      step=state.step,
    )
    return state, seen, Taught(outputs, stats, mixed)

  def ask_teacher(self, state: TrainState, x: jax.Array) -> tuple[Maps, Any]:
    """The teacher's predictions, also on mirror images if it is to see them, and its statistics."""
    by_batch, outputs = self.teacher.normalization == "batch", {}
    stats = state.teacher_batch_stats
    views = {"": x} | ({"mirrored_": x[:, :, ::-1]} if self.teacher.mirror else {})
    for prefix, view in views.items():
      variables = {"params": state.teacher_params, "batch_stats": stats}
      found, _, stats = forward(self.model, variables, view, by_batch=by_batch)
      outputs |= {prefix + name: y for name, y in found.items()}
    return outputs, stats

  def contexts(
    self, state: TrainState, inputs: Batch, draws: Draws, taught: Taught
  ) -> dict[str, Context]:
    """What each term reads beside the student's passes."""
    size = inputs["source_label"].shape[1:]
    with jax.named_scope("teacher"):
      teacher = {
        name: resize(x, size, self.model.resize_outputs) for name, x in taught.outputs.items()
      }
    return {
      name: Context(
        self,
        inputs,
        draws=draws["terms"][name],
        mixed=taught.mixed,
        teacher=teacher,
        state=state.terms.get(name),
      )
      for name in self.terms
    }

  def student_losses(
    self, state: TrainState, inputs: Batch, draws: Draws, taught: Taught
  ) -> tuple[Found, Passed]:
    """What the terms find in the student's passes, and these.

    Args:
      state: whose student it is, and whose states of terms.
      inputs: as `teach` returns them.
      draws: random choices of `prepare`.
      taught: what the teacher gives.
    """
    contexts = self.contexts(state, inputs, draws, taught)
    passed = student_passes(self.model, state, contexts, draws.get("passes", {}))
    return self.find_losses(passed.passes, contexts), passed

  def find_losses(self, passes: Mapping[str, Pass], contexts: Mapping[str, Context]) -> Found:
    """What all terms find, together; statistics of their networks by the term's name.

    Raises:
      ValueError: two terms give losses of one name.
    """
    every = Found({}, {}, {}, {})
    for name, term in self.terms.items():
      with jax.named_scope(name):
        found = term.losses(passes, contexts[name])
      if doubled := found.losses.keys() & every.losses.keys():
        raise ValueError(
          f"two terms give a loss of the name {min(doubled)!r}, one of them {name!r}"
        )
      every.losses.update(found.losses)
      every.metrics.update(found.metrics)
      every.maps.update(found.maps)
      if found.batch_stats is not None:
        every.batch_stats[name] = found.batch_stats
    return every

  def weighted_losses(
    self, params: Any, state: TrainState, batch: Batch, key: jax.Array
  ) -> Metrics:
    """What a step minimises: scalars by name, as they are added, whose sum is its "total".

    Args:
      params: parameters of the student; all else is the state's.
      state: before the step.
      batch: as for a step.
      key: as for a step.
    """
    inputs, draws = self.prepare(state, batch, key)
    state, inputs, taught = self.teach(state, inputs, draws)
    found, _ = self.student_losses(state.replace(params=params), inputs, draws, taught)
    return weighted(found.losses)

  def _update(self, state: TrainState, gradients: Any, term_gradients: Any) -> TrainState:
    """The state after a step: new parameters and, from them, the teacher's."""
    updates, optimizer_state = self.optimizer.update(gradients, state.optimizer_state, state.params)
    params = optax.apply_updates(state.params, updates)
    terms = dict(state.terms)
    for name, own in term_gradients.items():
      before = terms[name]
      updates, moments = (
        self.terms[name].optimizer().update(own, before.optimizer_state, before.params)
      )
      after = optax.apply_updates(before.params, updates)
      terms[name] = before.replace(params=after, optimizer_state=moments)
    return state.replace(
      step=state.step + 1,
      params=params,
      optimizer_state=optimizer_state,
      terms=terms,
      **(self.teacher.follow(state, params) if self.teacher.update == "after" else {}),
    )


def weighted(losses: Mapping[str, Loss]) -> Metrics:
  """Losses as they are added, in an order that no list of terms changes."""
  return {name: losses[name].weight * losses[name].value for name in sorted(losses)}
