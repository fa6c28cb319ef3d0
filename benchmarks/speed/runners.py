"""What a benchmark times in turn: our training step, and references that are commands."""

import contextlib
import dataclasses
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.motion import image_names
from corda_jax.errors import UserError, first_line
from corda_jax.training.sharding import check_training_batch, put_batch, replicated_key

# Errors that concern one runner: the others continue.
FAILURES = (jax.errors.JaxRuntimeError, UserError)


class Runner(Protocol):
  """Something whose steps can be timed."""

  name: str

  def run(self, steps: int) -> float:
    """Seconds that so many steps take."""


@dataclasses.dataclass
class JaxStep:
  """The compiled training step of a configuration, on random batches in memory.

  Attributes:
    name: name of its row.
    task: what is trained.
    compiled: the step.
    compile_seconds: seconds of tracing and compiling, without a cache.
    xla_operations: floating-point operations by XLA's count, before it optimises; None where XLA
      reports none, as on GPUs.
  """

  name: str
  task: AdaptationTask
  compiled: jax.stages.Compiled
  compile_seconds: float
  xla_operations: float | None
  _state: Any
  _batches: list[dict[str, jax.Array]]
  _key: jax.Array

  @classmethod
  def build(cls, name: str, config: Any) -> "JaxStep":
    """Compiles the step of `config` and makes its state and its batches."""
    task = AdaptationTask.from_config(config)
    check_training_batch(task.mesh, config.data.batch_size, config.model.batch_norm_group)
    state = task.initial_state()
    classes = len(task.classes)
    batches = [put_batch(task.mesh, random_batch(config.data, classes, seed)) for seed in range(2)]
    key = replicated_key(task.mesh, config.seed)
    with _no_compilation_cache():
      started = time.perf_counter()
      lowered = task.compile_step().lower(state, batches[0], key)
      compiled = lowered.compile()
      seconds = time.perf_counter() - started
    operations = (lowered.cost_analysis() or {}).get("flops")
    return cls(name, task, compiled, seconds, operations, state, batches, key)

  def traced(self) -> tuple[Any, ...]:
    """The step as a pure function, and its arguments."""
    return self.task.make_step(), self._state, self._batches[0], self._key

  def run(self, steps: int) -> float:
    """Seconds that so many steps take; as in training, nothing waits between them."""
    started = time.perf_counter()
    for number in range(steps):
      batch = self._batches[number % len(self._batches)]
      self._state, metrics = self.compiled(self._state, batch, self._key)
    jax.block_until_ready(metrics)
    return time.perf_counter() - started


@contextlib.contextmanager
def _no_compilation_cache() -> Iterator[None]:
  enabled = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  _decide_again()
  try:
    yield
  finally:
    jax.config.update("jax_enable_compilation_cache", enabled)
    _decide_again()


def _decide_again() -> None:
  """Resets JAX's decision to use a cache, made at the first compilation."""
  with contextlib.suppress(ImportError):  # experimental: where it is gone, the cache stays in use
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()


def random_batch(data: Any, num_classes: int, seed: int) -> dict[str, np.ndarray]:
  """A batch of noise, in the types and sizes that the step reads; labels are blocks of 8 pixels.

  Args:
    data: the `data` part of a configuration.
    num_classes: semantic classes.
    seed: seed of the noise.
  """
  random = np.random.RandomState(seed)
  shape = (data.batch_size, data.crop_height, data.crop_width)
  coarse = random.randint(0, num_classes, (shape[0], -(-shape[1] // 8), -(-shape[2] // 8)))
  label = coarse.repeat(8, 1).repeat(8, 2)[:, : shape[1], : shape[2]]
  batch = {"source_label": label.astype(np.uint8)}
  for domain in ("source", "target"):
    views = data[domain].views
    for name in image_names(views):
      batch[f"{domain}_{name}"] = random.randint(0, 256, (*shape, 3)).astype(np.uint8)
    if views:
      camera = (shape[2], shape[2], shape[2] / 2, shape[1] / 2)
      batch[f"{domain}_intrinsics"] = np.tile(np.float32(camera), (shape[0], 1))
      batch[f"{domain}_baseline"] = np.full(shape[0], 0.2, np.float32)
    batch[f"{domain}_inverse_depth"] = random.uniform(2, 100, shape).astype(np.float32)
    batch[f"{domain}_border"] = random.randint(0, 64, (shape[0], 4)).astype(np.int32)
  return batch


class Reference:
  """Another program that does the same work, started once and timed in turn with ours.

  It prints a line, anything, when it is ready. Then it reads lines, each a number of steps, makes
  that many and answers with a line: the seconds that they took. It ends with its input.
  """

  def __init__(self, name: str, command: str) -> None:
    """Starts `command` and waits until it is ready.

    Raises:
      UserError: it cannot be started or ends.
    """
    self.name = name
    try:
      self._process = subprocess.Popen(
        shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
      )
    except (OSError, ValueError) as error:  # ValueError: a quote that does not end
      raise UserError(f"--reference {name} cannot be started: {error}") from error
    self._answer()

  @staticmethod
  def parts_of_option(text: str) -> tuple[str, str]:
    """Name and command of an option "NAME=COMMAND".

    Raises:
      UserError: a part is missing.
    """
    name, _, command = text.partition("=")
    if not (name and command.strip()):
      raise UserError(f"--reference is {text!r}, expected NAME=COMMAND")
    return name, command

  def __enter__(self) -> "Reference":
    """Itself; it ends with the context."""
    return self

  def __exit__(self, *_: object) -> None:
    """Ends the reference, which reads that nothing more will come."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.wait()

  def run(self, steps: int) -> float:
    """Seconds that so many steps take, as the reference gives them.

    Raises:
      UserError: it ended, or answers with something else.
    """
    with contextlib.suppress(BrokenPipeError):  # the missing answer says so
      self._process.stdin.write(f"{steps}\n")
      self._process.stdin.flush()
    answer = self._answer()
    try:
      return float(answer)
    except ValueError as error:
      raise UserError(f"--reference {self.name} answers {answer!r}, expected seconds") from error

  def _answer(self) -> str:
    line = self._process.stdout.readline()
    if not line:
      raise UserError(f"--reference {self.name} ended with code {self._process.wait()}")
    return line


def time_in_turn(
  runners: Sequence[Runner],
  *,
  rounds: int,
  steps: int,
  after_round: Callable[[dict[str, list[float]]], None] = lambda seconds: None,
) -> tuple[dict[str, list[float]], dict[str, str]]:
  """Seconds a step of every runner, one value a round, after a round that does not count.

  In turn, so that other load on the machine affects all of them alike.

  Args:
    runners: runners with different names.
    rounds: number of rounds that count.
    steps: number of steps per timing.
    after_round: function that gets the results so far.

  Returns:
    Name → seconds a step, of the runners that ran to the end; name → why, of those that failed,
    for example for lack of memory, and were left out from then on.
  """
  seconds = {runner.name: [] for runner in runners}
  if len(seconds) < len(runners):
    raise UserError(f"two runners have one name: {', '.join(runner.name for runner in runners)}")
  failed = {}
  for round_number in range(rounds + 1):
    for runner in runners:
      if runner.name in failed:
        continue
      try:
        taken = runner.run(steps) / steps
      except FAILURES as error:
        failed[runner.name] = first_line(error)
        del seconds[runner.name]
        continue
      if round_number:
        seconds[runner.name].append(taken)
    after_round(seconds)
  return seconds, failed


def device_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
  """What the devices are: "H200 (gpu)"; of a CPU its model, where the system gives it."""
  device = jax.devices()[0]
  name = device.device_kind
  if device.platform == "cpu" and cpuinfo.exists():
    model = re.search(r"^model name\s*:\s*(.+?)\s*$", cpuinfo.read_text(), re.MULTILINE)
    name = model[1] if model else name
  return f"{name} ({device.platform})"


def measured_peak(dtype: Any, size: int, repeats: int = 5) -> float:
  """Operations a second of a product of two random square matrices, on one device.

  Args:
    dtype: type of the matrices.
    size: their rows and columns.
    repeats: the fastest counts.
  """
  keys = jax.random.split(jax.random.key(0))
  a, b = (jax.random.normal(key, (size, size), jnp.dtype(dtype)) for key in keys)
  product = jax.jit(jnp.matmul)
  jax.block_until_ready(product(a, b))
  fastest = float("inf")
  for _ in range(repeats):
    started = time.perf_counter()
    jax.block_until_ready([product(a, b) for _ in range(4)])
    fastest = min(fastest, time.perf_counter() - started)
  return 4 * 2 * size**3 / fastest
