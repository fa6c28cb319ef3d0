"""What a task is to the loop that trains it: a state, and a pure step on a mesh of devices."""

import abc
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from corda_jax.models.operations import at_matmul_precision
from corda_jax.training.sharding import (
  batch_sharded,
  replicated,
  replicated_key,
  shardings_of,
  with_shardings,
)


class Task(abc.ABC):
  """Base of the adaptation's and of the depth stage's experiment.

  Attributes:
    config: the whole configuration.
    mesh: devices, along the batch axis.
  """

  config: Any
  mesh: Mesh

  @property
  @abc.abstractmethod
  def step(self) -> Callable[..., Any]:
    """The pure function of (state, batch, key) → (state, metrics), with its parts."""

  @abc.abstractmethod
  def create_state(self, key: jax.Array) -> Any:
    """A fresh state, by a function that can be traced."""

  def at_precision(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with matrix products as `compute.matmul_precision` says."""
    return at_matmul_precision(function, self.config.compute.matmul_precision)

  def make_step(self) -> Callable[..., Any]:
    """The pure step, not compiled."""
    return self.at_precision(self.step)

  def initial_state(self) -> Any:
    """A fresh state, on the devices as `state_shapes` says."""
    create = jax.jit(self.create_state, out_shardings=shardings_of(self.state_shapes()))
    return create(replicated_key(self.mesh, self.config.seed))  # compiled once for all seeds

  def state_shapes(self) -> Any:
    """Shapes, dtypes and shardings of the state, without computing it."""
    shapes = jax.eval_shape(self.create_state, jax.random.key(0))
    return with_shardings(self.mesh, shapes, split=self.config.compute.shard_state)

  def compile_step(self) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """The jitted step: the batch is split over the mesh, the state is donated."""
    return compile_step(self.make_step(), self.mesh, shardings_of(self.state_shapes()))


def compile_step(
  step: Callable[..., tuple[Any, dict[str, jax.Array]]], mesh: Mesh, state_shardings: Any = None
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
  """Jits step(state, batch, key): the batch is split over the mesh, the state is donated.

  Args:
    step: the pure function.
    mesh: devices.
    state_shardings: how the state lies on them; None: every device holds all of it.
  """
  everywhere, split = replicated(mesh), batch_sharded(mesh)
  of_state = everywhere if state_shardings is None else state_shardings
  return jax.jit(
    step,
    in_shardings=(of_state, split, everywhere),
    out_shardings=(of_state, everywhere),
    donate_argnums=0,
  )
