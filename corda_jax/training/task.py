"""What a task is to the loop that trains it, to evaluation and to the command."""

import abc
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from corda_jax.configuration import build
from corda_jax.models.operations import at_matmul_precision
from corda_jax.training.settings import Running
from corda_jax.training.sharding import (
  batch_sharded,
  replicated,
  replicated_key,
  shardings_of,
  with_shardings,
)

HostBatch = Mapping[str, np.ndarray]
Batches = Callable[[], Iterable[HostBatch]]  # each call goes once through them


class Need(NamedTuple):
  """Frames that a job reads.

  Attributes:
    domain: "source" or "target".
    split: split of that domain.
    contents: any of "image", "label", "inverse_depth", "views".
    measured: whether at least one frame must have depth, for evaluation.
  """

  domain: str
  split: str
  contents: tuple[str, ...]
  measured: bool = False


class Evaluation(NamedTuple):
  """How a state scored.

  Attributes:
    result: JSON-ready values, for `results.json`.
    score: larger is better; the best checkpoint is kept by it.
    curves: name → value.
    line: for the console while training.
    table: for the console at the end.
  """

  result: dict[str, Any]
  score: float
  curves: dict[str, float]
  line: str
  table: str


class Feed(Protocol):
  """Where batches come from: `data_pipelines.feed.Feed`."""

  def provide(self, needs: Sequence[Need]) -> list[Any]:
    """Prepares what is missing; the builder of each need's records, which has their report."""

  def train(self, start: int) -> Iterator[HostBatch]:
    """Batches for the step after `start` and all after it."""

  def frames(self, need: Need, spread: int = 0) -> Iterable[HostBatch]:
    """Whole frames, once through; `spread`: so many, at equal distances; 0: as configured."""


class Writer(Protocol):
  """Where curves go beside the history; an `OSError` is reported and does not stop the run."""

  def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a point to each curve."""

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Adds pictures, uint8 RGB [N, H, W, 3]."""


class Task(abc.ABC):
  """An experiment as the training loop, evaluation and the command line see it.

  Attributes:
    config: the whole configuration.
    mesh: devices, along the batch axis.
    step: the pure function of (state, batch, key) → (state, metrics), with `create_state`.
    modes: modes of the command that the task supports.
    domains: data sets that training reads.
    sections: sections of the configuration, beside the fields of `Running`.
    read_by: mode → beginnings of the fields in which a job must agree with the run that it reads.
    shown: (words, metric, format) of what training's live line shows.
    of_a_run: whether jobs read or write the folder of a run.
  """

  config: Any
  mesh: Mesh
  step: Any
  modes: ClassVar[tuple[str, ...]]
  domains: ClassVar[tuple[str, ...]]
  sections: ClassVar[tuple[str, ...]]
  read_by: ClassVar[Mapping[str, tuple[str, ...]]]
  shown: ClassVar[Sequence[tuple[str, str, str]]]
  of_a_run: ClassVar[bool] = True

  @abc.abstractmethod
  def needs(self, mode: str) -> list[Need]:
    """Frames that a job reads; those of training's domains first, those of evaluation last."""

  @abc.abstractmethod
  def pictured(self, mode: str) -> Need:
    """Frames that the contact sheet of an evaluation shows."""

  @abc.abstractmethod
  def check_training(self) -> None:
    """Raises UserError where the data sets lack what training needs."""

  @abc.abstractmethod
  def check_initial(self) -> None:
    """Raises UserError where a file of weights, which a fresh run starts from, cannot be used."""

  @abc.abstractmethod
  def fresh_state(self) -> Any:
    """The state that a run begins with, pretrained weights loaded."""

  @abc.abstractmethod
  def batch_inputs(self, batch: HostBatch) -> dict[str, np.ndarray]:
    """The arrays of a host batch that the step reads."""

  @abc.abstractmethod
  def learning_rates(self) -> Callable[[int], dict[str, float]]:
    """Updates made so far → learning rates of the next by the names of their curves."""

  @abc.abstractmethod
  def evaluate(self, state: Any, batches: Batches) -> Evaluation:
    """Scores a state by the validation set."""

  @abc.abstractmethod
  def draw_evaluation(self, state: Any, batches: Batches, *, path: Path, title: str) -> None:
    """Writes the contact sheet of frames; all processes compute it, the first writes.

    Args:
      state: state to draw.
      batches: frames of `pictured`, at least `config.evaluation.pictures` frames of it.
      path: path of the PNG file.
      title: title of the sheet.
    """

  @abc.abstractmethod
  def draw_training(
    self, state: Any, batch: Any, key: jax.Array, *, path: Path, title: str
  ) -> None:
    """Writes a contact sheet of the inputs and outputs of a training step, as above.

    Args:
      state: state before the step.
      batch: arrays on the devices.
      key: PRNG key of the run.
      path: path of the PNG file.
      title: title of the sheet.
    """

  @property
  @abc.abstractmethod
  def evaluated_network(self) -> str:
    """What evaluations measure, as pictures name it."""

  @property
  def images_per_step(self) -> int:
    """Crops that a step reads, for the rate."""
    return len(self.domains) * self.config.data.batch_size

  def create_state(self, key: jax.Array) -> Any:
    """A state of random weights, by a function that can be traced."""
    return self.step.create_state(key)

  def at_precision(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with matrix products as `compute.matmul_precision` says."""
    return at_matmul_precision(function, self.config.compute.matmul_precision)

  def make_step(self) -> Callable[..., Any]:
    """The pure step, not compiled."""
    return self.at_precision(self.step)

  def initial_state(self) -> Any:
    """A state of random weights, on the devices as `state_shapes` says."""
    shapes = self.state_shapes
    # Hundreds of random arrays, computed once: on a CPU, optimising that takes far longer.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    create = jax.jit(
      self.create_state, out_shardings=shardings_of(shapes), compiler_options=options
    )
    return create(replicated_key(self.mesh, self.config.seed))  # compiled once for all seeds

  @functools.cached_property  # a large network is traced for seconds
  def state_shapes(self) -> Any:
    """Shapes, dtypes and shardings of the state, without computing it."""
    shapes = jax.eval_shape(self.create_state, jax.random.key(0))
    return with_shardings(self.mesh, shapes, split=self.config.compute.shard_state)

  def compile_step(self) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """The jitted step: the batch is split over the mesh, the state is donated."""
    return compile_step(self.make_step(), self.mesh, shardings_of(self.state_shapes))

  def compile_for_frames(self, function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """A jitted function of (variables, batch) whose results every process gets.

    Args:
      function: pure.
      mesh: whose batch axis frames are split over; variables stay as they are.
    """
    return jax.jit(
      self.at_precision(function),
      in_shardings=(None, batch_sharded(mesh)),
      out_shardings=replicated(mesh),
    )


def build_sections(config: Any, sections: Sequence[str]) -> dict[str, Any]:
  """The parts of a configuration by the names of their sections, "" for the fields of none.

  Those of networks and of terms are left out: they are built with what they have in common.

  Args:
    config: the whole configuration.
    sections: sections of the configuration, beside the fields of `Running`.

  Raises:
    UserError: a value cannot work, or a field is unknown.
  """
  top = {name: value for name, value in config.items() if name not in sections}
  single = [name for name in sections if name not in ("model", "terms")]
  parts = {name: build(config[name], name) for name in single}
  return {"": build(top, default=Running)} | parts


def compile_step(
  step: Callable[..., tuple[Any, dict[str, jax.Array]]], mesh: Mesh, state_shardings: Any = None
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
  """Jits step(state, batch, key): the batch is split over the mesh, the state is donated.

  Args:
    step: the pure function.
    mesh: devices.
    state_shardings: how the state is stored on them; None: every device holds all of it.
  """
  everywhere, split = replicated(mesh), batch_sharded(mesh)
  of_state = everywhere if state_shardings is None else state_shardings
  return jax.jit(
    step,
    in_shardings=(of_state, split, everywhere),
    out_shardings=(of_state, everywhere),
    donate_argnums=0,
  )
