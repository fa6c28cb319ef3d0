"""Checkpoints: the newest ones and the best by score, written atomically in the background.

Orbax writes a checkpoint under another name and renames it when it is whole, so a kill leaves no
half of one. What it writes has no checksums of the numbers themselves: a disk that turns a bit
would give other weights and no error. So each checkpoint is sealed by the checksums of its files as
soon as it is whole, and a run goes on from the newest one that its seal confirms.
"""

import contextlib
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from corda_jax.console import errors_alone
from corda_jax.errors import UserError
from corda_jax.training.history import read_history, scores_of
from corda_jax.training.processes import first_process_first
from corda_jax.training.run_files import whole_checkpoints, write_json

_SEAL = "checksums.json"
_DAMAGED = "damaged"  # folder of a run that damaged checkpoints are moved to
_POLL_SECONDS = 0.05
_TIMEOUT_SECONDS = 300


class Checkpoints:
  """The checkpoints of one run, in `workdir/checkpoints`.

  Args:
    workdir: folder of the run.
    keep_best: how many checkpoints are kept for their score, beside the newest.
    keep_newest: how many are kept because they are new: with 2 or more there is one to go back to.
    read_only: whether nothing is to be changed: another process may be writing there.
    retries: how often a checkpoint that cannot be read is tried again: disks of networks come back.
    retry_seconds: before each.
  """

  def __init__(
    self,
    workdir: Path,
    *,
    keep_best: int = 1,
    keep_newest: int = 2,
    read_only: bool = False,
    retries: int = 0,
    retry_seconds: float = 1.0,
  ):
    """Opens the folder, creating it if needed."""
    self._retries, self._retry_seconds = retries, retry_seconds
    self._workdir, self._read_only = Path(workdir), read_only
    self._folder = (self._workdir / "checkpoints").absolute()
    self._scores = scores_of(read_history(workdir))
    with errors_alone() if read_only else contextlib.nullcontext():  # not what that leaves out
      self._manager = self._open(keep_best, keep_newest)
    self._sealing: threading.Thread | None = None
    self._saving: int | None = None  # the step whose checkpoint is being written
    self._lost = False  # whether it turned out not to be there

  def _open(self, keep_best: int, keep_newest: int) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=_NewestAndBest(keep_newest, keep_best, self._scores),
        cleanup_tmp_directories=not self._read_only,  # what a killed run left half-written
        read_only=self._read_only,
        # Processes wait for each other: one whose disk is full does not come.
        async_options=ocp.AsyncOptions(timeout_secs=_TIMEOUT_SECONDS),
      ),
    )

  def add_score(self, step: int, score: float) -> None:
    """Takes in how the checkpoint of `step` scored; larger is better, not finite is none."""
    if np.isfinite(score):  # sorted, NaN would be the best
      self._scores[step] = score

  def save(self, step: int, state: Any) -> None:
    """Starts writing `state`, a pytree of arrays; it appears under its name when it is whole.

    Raises:
      UserError: this checkpoint, or the one before, cannot be written.
    """
    self.wait()  # one at a time
    self._saving, self._lost = step, False
    with self._told():
      self._manager.save(step, args=ocp.args.StandardSave(state))
    if jax.process_index() == 0:
      self._sealing = threading.Thread(target=self._seal_when_whole, args=(step,), name="seal")
      self._sealing.start()

  def check(self) -> None:
    """Asks, without waiting, how the writing goes.

    Raises:
      UserError: it has failed.
    """
    if self._lost:
      self.wait()

  def wait(self) -> None:
    """Until the last checkpoint is whole and sealed.

    Raises:
      UserError: it cannot be written; told once.
    """
    sealing, self._sealing = self._sealing, None
    if sealing is not None:
      sealing.join()
    lost, self._lost = self._lost, False
    with self._told():
      self._manager.wait_until_finished()
      if lost:  # and the library kept to itself why
        raise OSError("it is not there")

  def latest_step(self) -> int | None:
    """Step of the newest whole checkpoint, or None."""
    return max(whole_checkpoints(self._workdir), default=None)

  def newest_undamaged(self) -> int | None:
    """Step of the newest checkpoint that is as it was written; None where there is no checkpoint.

    Newer ones that are not are told, and moved to `workdir/damaged`.

    Raises:
      UserError: there are checkpoints, and all are damaged.
    """
    with first_process_first("check the checkpoints"):
      if jax.process_index() == 0:
        self._move_damaged()
    self._manager.reload()
    return self.latest_step()

  def _move_damaged(self) -> None:
    steps = sorted(self._manager.all_steps(), reverse=True)
    for step in steps:
      damage = self.damage(step)
      if damage is None:
        return
      if step == steps[-1]:
        raise UserError(
          f"the checkpoint {self._folder / str(step)} is damaged ({damage}), and there is none "
          f"before it: restore it from a copy, or delete {self._folder} to begin again"
        )
      place = self._workdir / _DAMAGED / str(step)
      shutil.rmtree(place, ignore_errors=True)
      place.parent.mkdir(exist_ok=True)
      (self._folder / str(step)).rename(place)
      print(
        f"The checkpoint of step {step} is damaged ({damage}): it lies in {place} now, and the one "
        "before it is taken."
      )

  def damage(self, step: int) -> str | None:
    """What is wrong with the files of a checkpoint, in a few words; None: nothing.

    Raises:
      UserError: they cannot be read, however often it was tried, which tells nothing of them.
    """
    name = f"the checkpoint {self._folder / str(step)}"
    for left in range(self._retries, 0, -1):
      try:
        return self._damage(step)
      except OSError as error:
        print(
          f"{name} cannot be read ({_first_line(error)}): trying again in {self._retry_seconds:g} "
          f"seconds, {left} times at most"
        )
        time.sleep(self._retry_seconds)
    try:
      return self._damage(step)
    except OSError as error:
      raise UserError(
        f"{name} cannot be read ({_first_line(error)}): mend the disk, and give the same command "
        "again"
      ) from error

  def _damage(self, step: int) -> str | None:
    folder = self._folder / str(step)
    seal = folder / _SEAL
    if seal.exists():
      try:
        written = json.loads(seal.read_text())
        found = _checksums(folder)
        differing = sorted(k for k in written.keys() | found if written.get(k) != found.get(k))
      except (ValueError, AttributeError) as error:
        return _first_line(error)
      if not differing:
        return None
      return f"{differing[0]} is " + ("changed" if differing[0] in found else "missing")
    # Killed between the last file and its seal; what can be read is whole.
    try:
      self.restore_arrays(step)
    except UserError as error:
      if isinstance(error.__cause__, OSError) and not isinstance(
        error.__cause__, FileNotFoundError
      ):
        raise error.__cause__ from error
      return str(error.__cause__ and _first_line(error.__cause__))
    if not self._read_only:
      self._seal(step)
    return None

  def restore(self, step: int, like: Any) -> Any:
    """Reads the checkpoint of `step`.

    Args:
      step: of a checkpoint.
      like: a pytree of arrays or ShapeDtypeStructs with shardings, of the wanted structure.

    Raises:
      UserError: the checkpoint is damaged, or holds other arrays than `like`.
    """
    with self._damage_told(step):
      held = _shapes(self._metadata(step))
    wanted = _shapes(like)
    if differing := sorted(
      name for name in held.keys() | wanted if held.get(name) != wanted.get(name)
    ):
      name = differing[0]
      raise UserError(
        f"the checkpoint {self._folder / str(step)} is of another network: {len(differing)} arrays "
        f"differ, as {name}, which is {held.get(name, 'not there')} in it, wanted "
        f"{wanted.get(name, 'none')}: give the configuration that wrote it"
      )
    with self._damage_told(step):
      return self._manager.restore(step, args=ocp.args.StandardRestore(like))

  def restore_arrays(self, step: int) -> dict[str, Any]:
    """Whatever the checkpoint of `step` holds, as nested dictionaries of NumPy arrays.

    Raises:
      UserError: the checkpoint is damaged.
    """
    # Orbax warns of arrays read without shardings, which are meant here.
    with self._damage_told(step), errors_alone(), _reader() as reader:
      kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), self._metadata(step))
      return reader.restore(self._folder / str(step) / "default", restore_args=kinds)

  def _metadata(self, step: int) -> Any:
    """The tree of a checkpoint's arrays, with their shapes in place of them."""
    with errors_alone(), _reader() as reader:
      found = reader.metadata(self._folder / str(step) / "default")
    if found is None or found.item_metadata is None:
      raise ValueError("its list of arrays is missing")
    return found.item_metadata.tree

  @contextlib.contextmanager
  def _damage_told(self, step: int) -> Iterator[None]:
    """Turns what the library raises at a damaged checkpoint into one line."""
    try:
      yield
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
      raise UserError(
        f"the checkpoint {self._folder / str(step)} is damaged ({_first_line(error)}): move that "
        "folder away to use the one before"
      ) from error

  def close(self) -> None:
    """Waits for writes under way.

    Raises:
      UserError: a checkpoint could not be written.
    """
    try:
      self.wait()
    finally:
      self._manager.close()

  def _seal_when_whole(self, step: int) -> None:
    while self._manager.is_saving_in_progress():
      time.sleep(_POLL_SECONDS)
    if (self._folder / str(step)).is_dir():
      self._seal(step)
    else:
      self._lost = True

  def _seal(self, step: int) -> None:
    """Leaves checksums beside the files of a checkpoint; it is good without them, too."""
    folder = self._folder / str(step)
    with contextlib.suppress(OSError):  # a full disk, which the next checkpoint will tell
      write_json(folder / _SEAL, _checksums(folder))

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    """Turns what a full or lost disk makes the library raise into one line."""
    try:
      yield
    except (OSError, ValueError, RuntimeError) as error:
      self._manager.reload()  # without what is not there
      if jax.process_index() == 0:  # else each further try would fill the disk more
        # Of earlier ones, too: a thread of the library may have written on after they were told.
        for path in self._folder.glob("*.orbax-checkpoint-tmp*"):
          shutil.rmtree(path, ignore_errors=True)
      raise UserError(
        f"the checkpoint of step {self._saving} in {self._folder} cannot be written "
        f"({_first_line(error)}): make room or mend the disk; the same command goes on from the "
        "newest whole one"
      ) from error


def best_checkpoint(workdir: Path) -> int | None:
  """Step of the checkpoint with the best score among those that are there, or None."""
  scores = scores_of(read_history(workdir))
  return next(iter(_best_first(whole_checkpoints(workdir), scores)), None)


def _reader() -> ocp.Checkpointer:
  """Reads by itself, without waiting for other processes, who may not be asked."""
  alone = ocp.options.MultiprocessingOptions(
    primary_host=jax.process_index(),
    active_processes={jax.process_index()},
    barrier_sync_key_prefix=f"alone_{jax.process_index()}",
  )
  return ocp.Checkpointer(
    ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone
  )


class _NewestAndBest(PreservationPolicy):
  """Keeps the newest checkpoints and the best by scores, which come after they are written."""

  def __init__(self, newest: int, best: int, scores: dict[int, float]):
    self._newest, self._best, self._scores = newest, best, scores

  def should_preserve(self, checkpoints, *, context):
    steps = [info.step for info in checkpoints]
    kept = {*steps[-self._newest :], *_best_first(steps, self._scores)[: self._best]}
    return [step in kept for step in steps]


def _best_first(steps, scores):
  """The steps that have a score, the best first, of equals the newest."""
  return sorted(scores.keys() & set(steps), key=lambda step: (scores[step], step), reverse=True)


def _checksums(folder: Path) -> dict[str, str]:
  """SHA-256 by path of all files below a folder but the seal itself."""
  sums = {}
  for path in sorted(folder.rglob("*")):
    if path.is_file() and path.name not in (_SEAL, _SEAL + ".partial"):
      with open(path, "rb") as file:
        sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
  return sums


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Shapes of a tree's arrays by their paths."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _first_line(error: BaseException) -> str:
  return next(iter(str(error).strip().splitlines()), type(error).__name__)
