"""The training loop of all tasks: steps, curves, evaluations, checkpoints, resuming."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from corda_jax.errors import Preempted, UserError
from corda_jax.retries import Retries
from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.evaluate import draw_evaluation
from corda_jax.training.history import History
from corda_jax.training.metric_logging import not_fatal
from corda_jax.training.preemption import Preemption
from corda_jax.training.progress import Progress
from corda_jax.training.run_files import whole_checkpoints, write_json
from corda_jax.training.sharding import put_batch, replicated_key
from corda_jax.training.skipped import SkippedSteps, remove_report
from corda_jax.training.task import Evaluation, Feed, HostBatch, Task, Writer


def train(
  task: Task,
  workdir: Path,
  feed: Feed,
  writer: Writer,
  *,
  hooks: Sequence[Callable[[int], Any]] = (),
) -> tuple[Any, Evaluation]:
  """Trains until `config.num_steps`, from the newest checkpoint in `workdir` if there is one.

  A state is saved before it is evaluated, so a failing evaluation loses nothing; a run that resumes
  from it makes the missing evaluation.

  Args:
    task: task to train.
    workdir: existing folder for checkpoints, `history.jsonl`, pictures and `results.json`.
    feed: source of batches.
    writer: writer of curves and pictures.
    hooks: functions called after each step with its number, such as `clu.periodic_actions`.

  Returns:
    The last state and its evaluation, whose result is also in `results.json`.

  Raises:
    Preempted: SIGTERM or SIGHUP was received; the state is saved.
    UserError: too many steps in a row were skipped, or a checkpoint cannot be written.
  """
  with Preemption() as preemption:
    return _Run(task, Path(workdir), writer, preemption).finish(feed, hooks)


class _Run:
  """One run of `train`, from its newest checkpoint to its end."""

  def __init__(self, task, workdir, writer, preemption):
    config = self._config = task.config
    self._task, self._workdir = task, workdir
    self._writer, self._preemption = writer, preemption
    self._history = History(workdir)
    self._rates = task.learning_rates()
    self._retries = Retries(config.faults.retries, config.faults.retry_seconds)
    self._checkpoints = Checkpoints(
      workdir,
      keep_best=config.keep_best,
      keep_newest=config.keep_newest,
      retries=self._retries,
    )
    self._state, self._first = self._initial_or_restored()
    self._history.rewind(self._first)
    self._evaluation: Evaluation | None = None
    # Frames of the batches whose metrics were not read yet, by step.
    self._frames: dict[int, dict[str, list[str]]] = {}
    self._progress = Progress(
      self._first,
      config.num_steps,
      task.images_per_step,
      shown=task.shown,
      on_read=SkippedSteps(
        workdir,
        config.faults.skipped_steps,
        frames_of=self._frames.__getitem__,
        checkpoints=self._whole_checkpoints,
        say=lambda text: self._progress.message(text),
      ).read,
    )
    self._not_fatal = functools.partial(
      not_fatal, then="the run continues", say=self._progress.message
    )

  def _initial_or_restored(self):
    newest = self._checkpoints.newest_undamaged()
    if newest is None:
      return self._task.fresh_state(), 0
    print(f"Resuming from the checkpoint of step {newest}.")
    return self._checkpoints.restore(newest, self._task.state_shapes), newest

  def _whole_checkpoints(self):
    # A checkpoint that cannot be written is not listed; the caller reports another error.
    with contextlib.suppress(UserError):
      self._checkpoints.wait()
    return whole_checkpoints(self._workdir)

  def finish(self, feed, hooks):
    """Trains to the end, evaluates, and writes the results."""
    self._feed, self._hooks = feed, hooks
    last = self._config.num_steps
    with contextlib.ExitStack() as closing:  # each is closed, even if another fails
      for each in (self._checkpoints, self._progress):
        closing.callback(each.close)
      due = 0 < self._first < last and self._due(self._first, "evaluate")
      # The run was stopped before its evaluation.
      if due and not self._history.evaluated(self._first):
        self._evaluate(self._first)
      if self._first < last:
        self._train(feed.train(self._first))
      else:
        print(f"The run in {self._workdir} is complete at step {self._first}.")
        self._evaluate(self._first)
    print(self._evaluation.table)
    if jax.process_index() == 0:
      write_json(self._workdir / "results.json", self._evaluation.result)
      remove_report(self._workdir)
    return self._state, self._evaluation

  def _train(self, batches):
    task = self._task
    key, train_step = replicated_key(task.mesh, task.config.seed), task.compile_step()
    owed = None  # step of a report that is due, made while the device runs the next step
    for step in range(self._first + 1, task.config.num_steps + 1):
      since = time.monotonic()
      host_batch = next(batches)
      batch = put_batch(task.mesh, task.batch_inputs(host_batch))
      waited = time.monotonic() - since
      self._frames[step] = _frames(host_batch)
      if self._due(step, "draw"):  # with the state before the step
        self._draw_training(step, batch, key)
      self._state, metrics = train_step(self._state, batch, key)
      self._progress.update(step, metrics, waited=waited)
      for hook in self._hooks:
        with self._not_fatal("a profile"):
          hook(step)
      if owed is not None:
        self._report(owed)
      owed = step if self._due(step, "log") else None
      stop = self._preemption.reached(step)
      evaluate = self._due(step, "evaluate")
      save = stop or evaluate or self._due(step, "checkpoint")
      if save:  # the reports of a step precede its checkpoint
        self._report(step)
        owed = None
        self._save(step, must=stop or step == task.config.num_steps)
      else:
        self._check_checkpoint(step)
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
    """Reports the metrics of the steps up to `until` that were not reported yet."""
    means = self._progress.report(until)
    for step in [step for step in self._frames if step <= until]:
      del self._frames[step]
    if means:
      curves = {f"train/{name}": value for name, value in means.items()}
      curves |= self._rates(until - 1)
      with self._not_fatal("TensorBoard's curves"):
        self._writer.write_scalars(until, curves)
      with self._not_fatal("the history"):
        self._history.add_curves(until, curves)

  def _draw_training(self, step, batch, key):
    """Writes the sheet of a training batch."""
    self._progress.stop_clock()
    path = self._workdir / "pictures" / f"train_step_{step:06d}.png"
    title = f"{self._workdir.name}: what training sees in step {step}"
    with self._not_fatal("pictures"):
      path.parent.mkdir(exist_ok=True)
      self._task.draw_training(self._state, batch, key, path=path, title=title)
      self._show(step, "train", path)

  def _draw_evaluation(self, step, evaluation):
    """Writes the sheet of evaluated frames."""
    need, count = self._task.pictured("train"), self._config.evaluation.pictures
    with self._not_fatal("pictures"):
      path = draw_evaluation(
        self._task,
        self._workdir,
        self._state,
        evaluation,
        batches=lambda: self._feed.frames(need, spread=count),
        split=need.split,
      )
      self._show(step, self._task.evaluated_network, path)

  def _show(self, step, name, path):
    if path is not None and jax.process_index() == 0:
      self._writer.write_images(step, {name: np.asarray(Image.open(path))[None, ..., :3]})

  def _save(self, step, *, must=False):
    """Saves the state; retries, and then stops or continues without it, as `faults` says."""
    self._check_checkpoint(step, wait=True)

    def save():
      self._checkpoints.save(step, self._state)
      if must:  # the other checkpoints are checked later
        self._checkpoints.wait()

    self._persist(step, save, must=must)

  def _check_checkpoint(self, step, *, wait=False):
    """Saves again at once if the checkpoint that was being written has failed."""
    try:
      (self._checkpoints.wait if wait else self._checkpoints.check)()
    except UserError as error:
      if self._stops_at_once():
        raise
      self._progress.message(f"step {step}: {error}")

      def save():
        self._checkpoints.save(step, self._state)
        self._checkpoints.wait()

      self._persist(step, save)

  def _persist(self, step, save, *, must=False):
    """Saves, with the retries that `faults` allows."""
    faults = self._config.faults
    try:
      if self._stops_at_once():
        save()
      else:
        self._retries.call(save, UserError, f"step {step}", say=self._progress.message)
    except UserError as error:
      if must or faults.failed_save == "stop" or jax.process_count() > 1:
        raise
      self._progress.message(f"step {step}: {error}; training continues without this checkpoint")

  def _stops_at_once(self):
    """Whether to stop without retries; several processes would retry at different times."""
    faults = self._config.faults
    return jax.process_count() > 1 or (faults.failed_save == "stop" and not faults.retries)

  def _evaluate(self, step):
    """Evaluates the saved state and reports its score."""
    self._progress.stop_clock()

    need = self._task.needs("train")[-1]

    def batches():
      for batch in self._feed.frames(need):
        if self._preemption.asked:
          raise Preempted(step, self._preemption.signal_name)
        yield batch

    evaluation = self._task.evaluate(self._state, batches)
    evaluation = evaluation._replace(result={"step": step, **evaluation.result})
    self._draw_evaluation(step, evaluation)
    with self._not_fatal("TensorBoard's curves"):
      self._writer.write_scalars(step, evaluation.curves)
    if not self._history.evaluated(step):  # after all else: a run killed before it evaluates again
      with self._not_fatal("the history"):
        self._history.add_evaluation(step, evaluation.score, evaluation.result, evaluation.curves)
    self._checkpoints.add_score(step, evaluation.score)
    self._progress.message(f"step {step}: {evaluation.line}")
    self._evaluation = evaluation


def _frames(batch: HostBatch) -> dict[str, list[str]]:
  """Names of the frames in a batch by domain, if it has them."""
  return {
    name.removesuffix("_name"): [str(each) for each in value]
    for name, value in batch.items()
    if name.endswith("_name")
  }
