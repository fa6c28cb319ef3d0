"""Starts runs from PyTorch's files, and turns checkpoints into such files and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax.errors import UserError
from corda_jax.locks import only_writer
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.pretrained.matching import find_state_dicts, format_report, match, unused_branches
from corda_jax.pretrained.names.networks import (
  constants,
  hub_tensors,
  licence_note,
  table_of,
  under_table_names,
)
from corda_jax.pretrained.safetensors_format import read_weights_file, write_safetensors
from corda_jax.pretrained.torch_format import read_torch_file
from corda_jax.pretrained.torch_write import write_torch_file
from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.restore import restore_state
from corda_jax.training.run_files import check_writable, has_checkpoints, record_config
from corda_jax.training.sharding import replicated_key, shardings_of
from corda_jax.training.state import TrainState

if TYPE_CHECKING:
  from corda_jax.adaptation.task import AdaptationTask

Variables = dict[str, Any]

_KEPT = "imported.pth"  # in the folder of a run: see `InitialWeights.kept`

_RELEASED_DILATIONS = (6, 12)  # dilations of the branches that the released code sums


class InitialWeights(NamedTuple):
  """The contents of a file for the network of a task.

  Attributes:
    student: {"params": …, "batch_stats": …}, without what the file lacks.
    teacher: the same variables of the teacher, or None.
    missing: how many of the network's tensors the student lacks.
    kept: contents that the network has no place for and an export writes back: "iteration", "model"
      and "ema_model", with unused branches of classifiers and batch counts.
    summary: what was loaded, what was left and why, in lines for the console.
  """

  student: Variables
  teacher: Variables | None
  missing: int
  kept: dict[str, Any]
  summary: str


def read_initial_weights(task: AdaptationTask) -> InitialWeights:
  """Reads the file `config.initial_weights`.

  Raises:
    UserError: no file is named, it cannot be read, or it does not fit the network.
  """
  config = task.config
  path = config.initial_weights
  if not path:
    raise UserError("initial_weights is '', expected a file: set --config.initial_weights=FILE.pth")
  tree = read_weights_file(path)
  shapes = task.state_shapes
  template = {"params": shapes.params, "batch_stats": shapes.batch_stats}
  model = task.model
  table, options = table_of(model), {"classifier_dilations": _dilations(model)}
  try:
    found = find_state_dicts(tree)
    found = found._replace(student=under_table_names(found.student, model))
    student, report = match(found.student, template, table, **options)
    lines = [f"Weights of {path}", format_report(report, "student")]
    if found.iteration is not None:
      lines[0] += f", written at step {found.iteration}"
    missing, left = len(report.missing), report.left
    kept = {
      "iteration": found.iteration or 0,
      "model": found.counts[0] | {name: found.student[name] for name in unused_branches(report)},
    }
    teacher = None
    if found.teacher is not None:
      tensors = under_table_names(found.teacher, model)
      teacher, report = match(tensors, template, table, **options)
      unused = {name: tensors[name] for name in unused_branches(report)}
      kept["ema_model"] = found.counts[1] | unused
      lines.append(format_report(report, "teacher").splitlines()[0])
    lines.extend(filter(None, [licence_note(model, left)]))
  except UserError as error:
    raise UserError(f"{path} does not fit the network: {error}") from error
  return InitialWeights(student, teacher, missing, kept, "\n".join(lines))


def initial_state(task: AdaptationTask) -> TrainState:
  """Fresh state of a training run, with `config.initial_weights` if set.

  The teacher starts as a copy of the student, whatever the file holds, as in the release: its
  first update makes it a copy anyway.
  """
  if not task.config.initial_weights:
    return task.initial_state()
  weights = read_initial_weights(task)
  print(weights.summary)
  return _filled(task, weights.student, {})


def _filled(task: AdaptationTask, student: Variables, teacher: Variables) -> TrainState:
  """Fresh state with these variables; the teacher takes the student's where `teacher` has none."""
  state = task.initial_state()
  student = merged({"params": state.params, "batch_stats": state.batch_stats}, student)
  teacher = merged(student, teacher)

  def copy(trees):
    # Training donates the student's buffers; neither the teacher nor the file's arrays share them.
    return jax.tree.map(jnp.copy, trees)

  fields = {
    "params": student["params"],
    "batch_stats": student["batch_stats"],
    "teacher_params": teacher["params"],
    "teacher_batch_stats": teacher["batch_stats"],
  }
  places = shardings_of({name: getattr(state, name) for name in fields})
  state = state.replace(**jax.jit(copy, out_shardings=places)(fields))
  if not state.terms:
    return state
  terms = jax.jit(task.step.create_term_states, out_shardings=shardings_of(state.terms))
  return state.replace(terms=terms(replicated_key(task.mesh, task.config.seed), student))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Variables:
  """Nested variables: those of `over`, completed from `base`."""
  return {
    name: merged(value, over.get(name, {})) if isinstance(value, Mapping) else over.get(name, value)
    for name, value in base.items()
  }


def is_imported(workdir: Path) -> bool:
  """Whether the run in a folder began by an import."""
  return (workdir / _KEPT).exists()


def import_torch(task: AdaptationTask, workdir: Path, *, whole: bool = False) -> None:
  """Writes `config.initial_weights` as the checkpoint of step 0 in `workdir`, to evaluate or train.

  The step is 0 whatever the file says: momentum is not imported, and a finished run would leave
  nothing to train. Without a teacher in the file, the teacher is a copy of the student. Contents
  that the network has no place for are kept in `workdir/imported.pth` for an export.

  Args:
    task: network, mesh and configuration.
    workdir: folder of the run; created.
    whole: whether the file must have all tensors of the network.

  Raises:
    UserError: the file cannot be read or does not fit, it lacks tensors that it must have, there
      are checkpoints in `workdir` already, or it cannot be written.
  """
  _check_empty(workdir)
  weights = read_initial_weights(task)
  print(weights.summary)
  if whole and weights.missing:
    raise UserError(
      f"{task.config.initial_weights} lacks {weights.missing} tensors of the network, which would "
      "have random values: train it first, or name a file of the whole network"
    )
  check_writable(workdir)
  if weights.teacher is None:
    print("teacher: not in the file, a copy of the student")
  if weights.missing:
    print(
      f"warning: {weights.missing} tensors of the network keep random values; scores mean nothing "
      "until it is trained"
    )
  with only_writer(workdir / ".run.lock", otherwise="choose another --workdir"):
    _check_empty(workdir)  # again: another process may have trained there meanwhile
    record_config(workdir, task.config.to_dict())
    write_torch_file(workdir / _KEPT, weights.kept)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(0, _filled(task, weights.student, weights.teacher or {}))
    checkpoints.close()
  print(f"Checkpoint: {workdir / 'checkpoints' / '0'}")


def _check_empty(workdir: Path) -> None:
  """Raises UserError if `workdir` already has checkpoints, which an import must not mix with."""
  if has_checkpoints(workdir):
    raise UserError(f"{workdir} already holds checkpoints: choose another --workdir")


def export_torch(task: AdaptationTask, workdir: Path) -> Path:
  """Writes `workdir/corda.pth`, whose "model" and "ema_model" the released modules load strictly.

  Also writes `corda.safetensors`, with the network that `evaluation.network` names, and, where
  Hugging Face's transformers has the encoder, `hub/model.safetensors` with its names there.

  Args:
    task: network, mesh and configuration; `evaluation` selects the checkpoint.
    workdir: folder of the run.

  Returns:
    Path of `corda.pth`.

  Raises:
    UserError: there is no such checkpoint.
  """
  config = task.config
  state = restore_state(task, workdir)
  step = int(state.step)
  path = workdir / "corda.pth"
  if jax.process_index() > 0:
    return path

  table = table_of(task.model)
  kept = read_torch_file(workdir / _KEPT) if (workdir / _KEPT).exists() else {}

  def tensors(params, batch_stats, kept):
    variables = {"params": params, "batch_stats": batch_stats}
    state = table.state_dict(variables, steps=step) | constants(task.model)
    counts = {n: np.asarray(x + step) for n, x in kept.items() if n.endswith("num_batches_tracked")}
    return state | kept | counts

  student = tensors(state.params, state.batch_stats, kept.get("model", {}))
  teacher = tensors(
    state.teacher_params, state.teacher_batch_stats, kept.get("ema_model", kept.get("model", {}))
  )
  iteration = kept.get("iteration", 0) + step
  write_torch_file(path, {"model": student, "ema_model": teacher, "iteration": iteration})
  evaluated = teacher if config.evaluation.network == "teacher" else student
  write_safetensors(path.with_suffix(".safetensors"), evaluated)
  if of_hub := hub_tensors(evaluated, task.model):
    (workdir / "hub").mkdir(exist_ok=True)
    write_safetensors(workdir / "hub" / "model.safetensors", of_hub)
    print(f"{workdir / 'hub' / 'model.safetensors'}: {len(of_hub)} tensors under the Hub's names")
  print(f"{path}: {len(student)} tensors each of student and teacher after {iteration} steps")
  if _dilations(task.model) not in ((), _RELEASED_DILATIONS):
    print(
      f"note: the released code sums branches of dilations {_RELEASED_DILATIONS}, this network has "
      f"{_dilations(task.model)}: there it would predict something else"
    )
  return path


def _dilations(model: Corda) -> tuple[int, ...]:
  """Branches of DeepLab's classifier, if the network has one."""
  return tuple(model.decoder.dilations) if isinstance(model.decoder, DeepLabDecoder) else ()
