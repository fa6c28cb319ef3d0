"""What a training step carries from one call to the next."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct


@struct.dataclass
class TermState:
  """State of a network that a term brings along.

  Attributes:
    params: its parameters.
    batch_stats: its running statistics.
    optimizer_state: state of its own optimiser; None where its parameters are frozen.
  """

  params: Any
  batch_stats: Any
  optimizer_state: Any


@struct.dataclass
class TrainState:
  """State of one adaptation run; a pytree of arrays, nothing else.

  Attributes:
    step: int32 scalar, updates made so far.
    params: the student's parameters.
    batch_stats: the student's running statistics.
    optimizer_state: state of the optax transformation.
    teacher_params: exponential moving average of `params`.
    teacher_batch_stats: the teacher's running statistics: of its own passes, or averages of the
      student's, as `Teacher.statistics` says.
    terms: the networks that terms bring along, by the term's name.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  optimizer_state: Any
  teacher_params: Any
  teacher_batch_stats: Any
  terms: dict[str, TermState] = struct.field(default_factory=dict)


def create_train_state(
  model: nn.Module, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
  """Fresh state: student and teacher start from the same weights.

  Parameters do not depend on the image size, so a small image initialises them.
  """
  channels = getattr(model, "input_channels", 3)
  variables = model.init(key, jnp.zeros((1, 64, 64, channels), jnp.float32), train=True)
  params, batch_stats = variables["params"], variables.get("batch_stats", {})

  def copy(tree):
    # The student's buffers are donated to each step; a teacher that shared them would lose them.
    return jax.tree.map(jnp.copy, tree)

  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    optimizer_state=optimizer.init(params),
    teacher_params=copy(params),
    teacher_batch_stats=copy(batch_stats),
  )


def create_term_state(variables: Any, optimizer: optax.GradientTransformation | None) -> TermState:
  """Fresh state of a term's network.

  Args:
    variables: variables of the network: "params" and, perhaps, "batch_stats".
    optimizer: optimiser of its parameters; None freezes them.
  """
  params = variables["params"]
  optimizer_state = None if optimizer is None else optimizer.init(params)
  return TermState(params, variables.get("batch_stats", {}), optimizer_state)


def skip_unless_finite(
  before: Any, after: Any, metrics: dict[str, jax.Array]
) -> tuple[Any, dict[str, jax.Array]]:
  """The state after a step whose loss and gradients are finite; else the one before, counted on.

  One pixel that overflows would else turn every weight, the teacher's and the statistics to NaN,
  and no later step could repair them.

  Args:
    before: state before the step, with an attribute `step`.
    after: state after it.
    metrics: scalars of the step, with "total" and "gradient_norm".

  Returns:
    The state, and the metrics with "skipped": 1.0 where the step was not applied, else 0.0.
  """
  finite = jnp.isfinite(metrics["total"]) & jnp.isfinite(metrics["gradient_norm"])
  kept = jax.tree.map(lambda old, new: jnp.where(finite, new, old), before, after)
  skipped = jnp.where(finite, 0.0, 1.0).astype(metrics["total"].dtype)
  return kept.replace(step=after.step), {**metrics, "skipped": skipped}


def update_teacher(teacher: Any, student: Any, step: jax.Array, maximum: float) -> Any:
  """Exponential moving average: keeps min(1 - 1 / (step + 1), maximum) of the teacher.

  Args:
    teacher: parameters of the teacher.
    student: parameters of the student after its update.
    step: integer scalar, updates made before this one; at 0 the teacher becomes the student.
    maximum: 0..1, the share that is kept in the long run.
  """
  # The widest float enabled: float64 runs compare the teacher with reference values.
  keep = jnp.minimum(1 - 1 / (step.astype(jnp.result_type(float)) + 1), maximum)
  return jax.tree.map(lambda t, s: (keep * t + (1 - keep) * s).astype(s.dtype), teacher, student)
