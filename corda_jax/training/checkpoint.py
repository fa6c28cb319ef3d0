"""Checkpoints: the newest ones and the best by score, written atomically in the background.

Orbax writes a checkpoint under a temporary name and renames it when it is complete, so a kill never
leaves a partial one. It stores no checksums of the arrays: a flipped bit would silently change the
weights. So each complete checkpoint is sealed with the checksums of its files, and a run resumes
from the newest one whose seal matches.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from corda_jax.console import errors_alone
from corda_jax.errors import UserError, first_line
from corda_jax.retries import Retries
from corda_jax.training.checkpoint_files import (
  SEAL,
  checksums,
  read_arrays,
  read_metadata,
  shapes_of,
)
from corda_jax.training.history import read_history, scores_of
from corda_jax.training.processes import first_process_first
from corda_jax.training.run_files import whole_checkpoints, write_json

_DAMAGED = "damaged"  # subfolder of a run for damaged checkpoints
_TIMEOUT_SECONDS = 300  # limit of waiting for a process whose disk is full


class Checkpoints:
  """The checkpoints of one run, in `workdir/checkpoints`.

  Args:
    workdir: folder of the run.
    keep_best: number of checkpoints kept for their score, in addition to the newest.
    keep_newest: number of newest checkpoints kept; with 2 or more, one remains if the newest is
      damaged.
    read_only: whether to change nothing; another process may be writing there.
    retries: for reads, since network disks may recover.
  """

  def __init__(
    self,
    workdir: Path,
    *,
    keep_best: int = 1,
    keep_newest: int = 2,
    read_only: bool = False,
    retries: Retries = Retries(0),  # noqa: B008 (it is frozen)
  ):
    self._workdir, self._read_only, self._retries = Path(workdir), read_only, retries
    self._folder = (self._workdir / "checkpoints").absolute()
    self._scores = scores_of(read_history(workdir))
    self._saving: int | None = None  # step whose checkpoint may be incomplete
    # It warns of the options that a reader does not use.
    with errors_alone() if read_only else contextlib.nullcontext():
      options = ocp.CheckpointManagerOptions(
        preservation_policy=_NewestAndBest(keep_newest, keep_best, self._scores),
        cleanup_tmp_directories=not read_only,  # partial checkpoints of a killed run
        read_only=read_only,
        async_options=ocp.AsyncOptions(timeout_secs=_TIMEOUT_SECONDS),
      )
      self._manager = ocp.CheckpointManager(self._folder, options=options)

  def add_score(self, step: int, score: float) -> None:
    """Records the score of a checkpoint; larger is better, non-finite scores are ignored."""
    if np.isfinite(score):  # NaN would be sorted as the best
      self._scores[step] = score

  def save(self, step: int, state: Any) -> None:
    """Starts writing `state`, a pytree of arrays; its folder appears when it is complete.

    Raises:
      UserError: this checkpoint, or the one before, cannot be written.
    """
    self.wait()  # one at a time
    self._saving = step
    with self._one_line():
      self._manager.save(step, args=ocp.args.StandardSave(state))

  def check(self) -> None:
    """Seals the last checkpoint if it is complete; does not wait for it.

    Raises:
      UserError: it cannot be written.
    """
    if self._saving is not None and not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Waits until the last checkpoint is complete and sealed.

    Raises:
      UserError: it cannot be written; raised once.
    """
    with self._one_line():
      self._manager.wait_until_finished()
      step = self._saving
      if step is not None and jax.process_index() == 0:
        if not (self._folder / str(step)).is_dir():  # and the library does not say why
          raise OSError("it is missing")
        self._seal(step)
      self._saving = None

  def newest_undamaged(self) -> int | None:
    """Step of the newest undamaged checkpoint, or None if there is none.

    Newer, damaged ones are reported and moved to `workdir/damaged`.

    Raises:
      UserError: there are checkpoints, but all are damaged.
    """
    with first_process_first("check the checkpoints"):
      steps = sorted(self._manager.all_steps(), reverse=True)
      while jax.process_index() == 0 and steps and (damage := self.damage(steps[0])):
        step, *steps = steps
        folder, place = self._folder / str(step), self._workdir / _DAMAGED / str(step)
        if not steps:
          raise UserError(
            f"the checkpoint {folder} is damaged ({damage}), and no checkpoint precedes it: "
            f"restore it from a copy, or delete {self._folder} to start from scratch"
          )
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(exist_ok=True)
        folder.rename(place)
        print(
          f"The checkpoint of step {step} is damaged ({damage}) and was moved to {place}; the run "
          "resumes from the one before it."
        )
    self._manager.reload()
    return max(whole_checkpoints(self._workdir), default=None)

  def damage(self, step: int) -> str | None:
    """Describes the damage to the files of a checkpoint in a few words; None if they are intact.

    Raises:
      UserError: they cannot be read after all retries, so whether they are intact is unknown.
    """
    name = f"the checkpoint {self._folder / str(step)} cannot be read"
    try:
      return self._retries.call(lambda: self._damage(step), OSError, name, say=print)
    except OSError as error:
      raise UserError(
        f"{name} ({first_line(error)}): repair the disk, and run the same command again"
      ) from error

  def _damage(self, step: int) -> str | None:
    folder = self._folder / str(step)
    if (folder / SEAL).exists():
      try:
        written, found = json.loads((folder / SEAL).read_text()), checksums(folder)
        differing = sorted(k for k in written.keys() | found if written.get(k) != found.get(k))
      except (ValueError, AttributeError) as error:
        return first_line(error)
      changed = differing and differing[0] in found
      return f"{differing[0]} is {'changed' if changed else 'missing'}" if differing else None
    try:  # killed before the seal was written: intact if it can be read
      self.restore_arrays(step)
    except UserError as error:
      cause = error.__cause__
      if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        raise cause from error
      return first_line(cause)
    if not self._read_only:
      self._seal(step)
    return None

  def restore(self, step: int, like: Any) -> Any:
    """Reads the checkpoint of `step`.

    Args:
      step: step of the checkpoint.
      like: pytree of arrays, or of ShapeDtypeStructs with shardings, of the expected structure.

    Raises:
      UserError: the checkpoint is damaged, or its arrays differ from those of `like`.
    """
    with self._damage_in_one_line(step):
      held = shapes_of(read_metadata(self._folder / str(step) / "default"))
    expected = shapes_of(like)
    names = sorted(n for n in held.keys() | expected if held.get(n) != expected.get(n))
    if names:
      raise UserError(
        f"the checkpoint {self._folder / str(step)} is of another network: {len(names)} arrays "
        f"differ, for example {names[0]} has shape {held.get(names[0])}, expected "
        f"{expected.get(names[0])}: use the configuration that wrote it"
      )
    with self._damage_in_one_line(step):
      return self._manager.restore(step, args=ocp.args.StandardRestore(like))

  def restore_arrays(self, step: int) -> dict[str, Any]:
    """All arrays of the checkpoint of `step`, as nested dictionaries of NumPy arrays.

    Raises:
      UserError: the checkpoint is damaged.
    """
    with self._damage_in_one_line(step):
      return read_arrays(self._folder / str(step) / "default")

  def close(self) -> None:
    """Waits for pending writes.

    Raises:
      UserError: a checkpoint could not be written.
    """
    try:
      self.wait()
    finally:
      self._manager.close()

  def _seal(self, step: int) -> None:
    """Writes checksums next to the files of a checkpoint; they are optional."""
    folder = self._folder / str(step)
    with contextlib.suppress(OSError):  # on a full disk, the next checkpoint reports it
      write_json(folder / SEAL, checksums(folder))

  @contextlib.contextmanager
  def _damage_in_one_line(self, step: int) -> Iterator[None]:
    """Turns errors of the library about a damaged checkpoint into a one-line UserError."""
    try:
      yield
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
      raise UserError(
        f"the checkpoint {self._folder / str(step)} is damaged ({first_line(error)}): move that "
        "folder away to use the one before"
      ) from error

  @contextlib.contextmanager
  def _one_line(self) -> Iterator[None]:
    """Turns errors of the library about a full or lost disk into a one-line UserError."""
    try:
      yield
    except (OSError, ValueError, RuntimeError) as error:
      step, self._saving = self._saving, None
      self._manager.reload()  # forget the missing checkpoint
      if jax.process_index() == 0:  # or each retry would fill the disk further
        # Earlier partial checkpoints, too: a thread of the library may have kept writing after
        # their failure was reported.
        for path in self._folder.glob("*.orbax-checkpoint-tmp*"):
          shutil.rmtree(path, ignore_errors=True)
      raise UserError(
        f"the checkpoint of step {step} in {self._folder} cannot be written ({first_line(error)}): "
        "free some space or repair the disk, then run the same command to resume from the newest "
        "complete one"
      ) from error


def best_checkpoint(workdir: Path) -> int | None:
  """Step of the checkpoint with the best score among those that exist, or None."""
  scores = scores_of(read_history(workdir))
  return next(iter(_best_first(whole_checkpoints(workdir), scores)), None)


class _NewestAndBest(PreservationPolicy):
  """Keeps the newest and the best checkpoints; scores arrive after a checkpoint is written."""

  def __init__(self, newest: int, best: int, scores: dict[int, float]):
    self._newest, self._best, self._scores = newest, best, scores

  def should_preserve(self, checkpoints, *, context):
    steps = [info.step for info in checkpoints]
    kept = {*steps[-self._newest :], *_best_first(steps, self._scores)[: self._best]}
    return [step in kept for step in steps]


def _best_first(steps, scores):
  """The steps that have a score, best first; among equals, newest first."""
  return sorted(scores.keys() & set(steps), key=lambda step: (scores[step], step), reverse=True)
