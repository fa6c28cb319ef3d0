"""The loop that every training job runs in: steps, curves, evaluations, checkpoints, resuming."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from corda_jax.errors import Preempted, UserError
from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.history import History
from corda_jax.training.preemption import Preemption
from corda_jax.training.profile import Profile
from corda_jax.training.progress import Progress
from corda_jax.training.run_files import whole_checkpoints, write_json
from corda_jax.training.sharding import put_batch, replicated_key
from corda_jax.training.skipped import SkippedSteps, remove_report
from corda_jax.training.task import Task

HostBatch = Mapping[str, np.ndarray]
Batches = Callable[[], Iterable[HostBatch]]
Frames = Mapping[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
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


@dataclasses.dataclass(frozen=True)
class TrainingJob:
  """What distinguishes one training job from another.

  Attributes:
    task: what is trained.
    initial_state: makes the state of a fresh run.
    inputs: host batch → the arrays that the step reads.
    evaluate: scores a state by host batches of the validation set, which it may ask for again.
    evaluation_batches: → these, once through.
    rates: step → learning rates by the name of their curve.
    images_per_step: for the rate.
    shown: (words, metric, format) of the live line.
    draw: (step, state, batch, key) → pictures of what the step makes of the batch, every
      `config.draw_every` steps.
  """

  task: Task
  initial_state: Callable[[], Any]
  inputs: Callable[[HostBatch], dict[str, np.ndarray]]
  evaluate: Callable[[Any, Batches], Evaluation]
  evaluation_batches: Batches
  rates: Callable[[int], dict[str, float]]
  images_per_step: int
  shown: Sequence[tuple[str, str, str]]
  draw: Callable[[int, Any, Mapping[str, jax.Array], jax.Array], None] | None = None


def run_training(
  job: TrainingJob,
  workdir: Path,
  *,
  train_batches: Callable[[int], Iterator[HostBatch]],
  write_scalars: Callable[[int, Mapping[str, float]], None],
  show: Callable[[Any, dict[str, Any]], None] | None = None,
) -> tuple[Any, dict[str, Any]]:
  """Trains until `config.num_steps`, from the newest checkpoint in `workdir` if there is one.

  A state is saved before it is evaluated, so whatever happens meanwhile loses nothing; a run that
  goes on from it makes the evaluation that is missing.

  Args:
    job: what is trained and how.
    workdir: existing folder for checkpoints, `history.jsonl` and `results.json`.
    train_batches: first step → host batches for that step and all after it.
    write_scalars: (step, name → value) for curves; its `OSError` is told, and does not end the run.
    show: (state, result) → pictures of it, after each evaluation; the same.

  Returns:
    The last state, and the results that `results.json` holds.

  Raises:
    Preempted: SIGTERM or SIGHUP asked to stop; the state is saved.
    UserError: too many steps in a row were not finite, or a checkpoint cannot be written.
  """
  with Preemption() as preemption:
    run = _Run(job, Path(workdir), write_scalars, show, preemption)
    return run.finish(train_batches)


class _Run:
  """One run of `run_training`, from its newest checkpoint to its end."""

  def __init__(self, job, workdir, write_scalars, show, preemption):
    config = self._config = job.task.config
    self._job, self._workdir, self._show = job, workdir, show
    self._write_scalars, self._preemption = write_scalars, preemption
    self._history = History(workdir)
    self._checkpoints = Checkpoints(
      workdir,
      keep_best=config.keep_best,
      keep_newest=config.keep_newest,
      retries=config.faults.retries,
      retry_seconds=config.faults.retry_seconds,
    )
    self._state, self._first = self._initial_or_restored()
    self._history.rewind(self._first)
    self._evaluation: Evaluation | None = None
    self._profile = Profile(workdir, config.profile, tell=lambda text: self._progress.message(text))
    self._frames: dict[int, Frames] = {}  # of the batches whose metrics were not read yet
    self._progress = Progress(
      self._first,
      config.num_steps,
      job.images_per_step,
      shown=job.shown,
      on_read=SkippedSteps(
        workdir,
        config.faults.skipped_steps,
        frames_of=self._frames.__getitem__,
        checkpoints=self._whole_checkpoints,
        tell=lambda text: self._progress.message(text),
      ).read,
    )

  def _initial_or_restored(self):
    newest = self._checkpoints.newest_undamaged()
    if newest is None:
      return self._job.initial_state(), 0
    print(f"Resuming from the checkpoint of step {newest}.")
    return self._checkpoints.restore(newest, self._job.task.state_shapes()), newest

  def _whole_checkpoints(self):
    with contextlib.suppress(UserError):  # that one cannot be written is told where it is asked for
      self._checkpoints.wait()
    return whole_checkpoints(self._workdir)

  def finish(self, train_batches):
    """Trains to the end, evaluates, and writes the results."""
    last = self._config.num_steps
    with contextlib.ExitStack() as closing:  # each is closed, whatever becomes of the others
      for each in (self._checkpoints, self._progress, self._profile):
        closing.callback(each.close)
      due = 0 < self._first < last and self._due(self._first, "evaluate")
      if due and not self._history.evaluated(self._first):  # something came between
        self._evaluate(self._first)
      if self._first < last:
        self._train(train_batches(self._first))
      else:
        print(f"The run in {self._workdir} is complete at step {self._first}.")
        self._evaluate(self._first)
    print(self._evaluation.table)
    if jax.process_index() == 0:
      write_json(self._workdir / "results.json", self._evaluation.result)
      remove_report(self._workdir)
    return self._state, self._evaluation.result

  def _train(self, batches):
    job = self._job
    key, train_step = replicated_key(job.task.mesh, job.task.config.seed), job.task.compile_step()
    owed = None  # a report, made when the device has the next step to work on
    for step in range(self._first + 1, job.task.config.num_steps + 1):
      since = time.monotonic()
      host_batch = next(batches)
      batch = put_batch(job.task.mesh, job.inputs(host_batch))
      waited = time.monotonic() - since
      self._frames[step] = _frames(host_batch)
      if job.draw is not None and self._due(step, "draw"):  # of the state that the step sees
        self._progress.stop_clock()
        with self._not_fatal("pictures"):
          job.draw(step, self._state, batch, key)
      with self._profile.step(step):
        self._state, metrics = train_step(self._state, batch, key)
        self._progress.update(step, metrics, waited=waited)
      if owed is not None:
        self._report(owed)
      owed = step if self._due(step, "log") else None
      stop = self._preemption.reached(step)
      evaluate = self._due(step, "evaluate")
      save = stop or evaluate or self._due(step, "checkpoint")
      if save:  # all that is told of a step is told before it is saved
        self._report(step)
        owed = None
        self._save(step, must=stop or step == job.task.config.num_steps)
      else:
        self._mend_checkpoint(step)
      if stop:
        raise Preempted(step, self._preemption.signal_name)
      if evaluate:
        self._evaluate(step)

  def _due(self, step, what):
    period = self._config[f"{what}_every"]
    if not period:
      return False
    return step % period == 0 or (step == self._config.num_steps and what != "draw")

  def _report(self, until):
    """Tells the metrics of the steps up to `until` that were not told yet."""
    means = self._progress.report(until)
    for step in [step for step in self._frames if step <= until]:
      del self._frames[step]
    if means:
      curves = {f"train/{name}": value for name, value in means.items()}
      curves |= self._job.rates(until - 1)
      with self._not_fatal("TensorBoard's curves"):
        self._write_scalars(until, curves)
      with self._not_fatal("the history"):
        self._history.add_curves(until, curves)

  @contextlib.contextmanager
  def _not_fatal(self, what):
    """What tells of a run must not end it: a full disk is told, and training goes on."""
    try:
      yield
    except OSError as error:
      reason = next(iter(str(error).splitlines()), type(error).__name__)
      self._progress.message(f"{what} cannot be written ({reason}); the run goes on")

  def _save(self, step, *, must=False):
    """Saves the state; tries again, and stops or goes on without, as `faults` says."""
    before = None
    try:
      self._checkpoints.wait()
    except UserError as error:
      before = error
      self._progress.message(f"step {step}: {error}")
    try:
      if before is not None and self._stops_at_once():
        raise before
      self._checkpoints.save(step, self._state)
      if must or before is not None:  # not trusted to come, as the others are
        self._checkpoints.wait()
    except UserError as error:
      self._save_again(step, error, must=must)

  def _save_again(self, step, error, *, must=False):
    """After a checkpoint failed: tries as often as `faults` says, each time until it is known."""
    faults = self._config.faults
    for _ in range(0 if self._stops_at_once() else faults.retries):
      again = f"trying again in {faults.retry_seconds:g} seconds"
      self._progress.message(f"step {step}: {error}; {again}")
      time.sleep(faults.retry_seconds)
      try:
        self._checkpoints.save(step, self._state)
        self._checkpoints.wait()
        return
      except UserError as next_error:
        error = next_error
    if must or faults.failed_save == "stop" or jax.process_count() > 1:
      raise error
    self._progress.message(f"step {step}: {error}; training goes on without this checkpoint")

  def _stops_at_once(self):
    """Whether nothing is tried again: several processes would each do so at another time."""
    faults = self._config.faults
    return jax.process_count() > 1 or (faults.failed_save == "stop" and not faults.retries)

  def _mend_checkpoint(self, step):
    """Where the one that was being written has failed, saves anew at once."""
    try:
      self._checkpoints.check()
    except UserError as error:
      self._save_again(step, error)

  def _evaluate(self, step):
    """Scores the state, which is saved, and tells how it did."""
    self._progress.stop_clock()

    def batches():
      for batch in self._job.evaluation_batches():
        if self._preemption.asked:
          raise Preempted(step, self._preemption.signal_name)
        yield batch

    evaluation = self._job.evaluate(self._state, batches)
    evaluation = dataclasses.replace(evaluation, result={"step": step, **evaluation.result})
    if self._show is not None:
      with self._not_fatal("pictures"):
        self._show(self._state, evaluation.result)
    with self._not_fatal("TensorBoard's curves"):
      self._write_scalars(step, evaluation.curves)
    if not self._history.evaluated(step):  # last of all: a kill before it has it made again
      with self._not_fatal("the history"):
        self._history.add_evaluation(step, evaluation.score, evaluation.result, evaluation.curves)
    self._checkpoints.add_score(step, evaluation.score)
    self._progress.message(f"step {step}: {evaluation.line}")
    self._evaluation = evaluation


def _frames(batch: HostBatch) -> Frames:
  """Names of a batch's frames by domain, where it holds them."""
  return {
    name.removesuffix("_name"): [str(each) for each in value]
    for name, value in batch.items()
    if name.endswith("_name")
  }
