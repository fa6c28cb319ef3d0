"""What the command can do, for every task."""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from corda_jax.adaptation.task import AdaptationTask
from corda_jax.depth.foundation import DepthAnythingTask, label_depth_anything
from corda_jax.depth.label import label_depth
from corda_jax.depth.task import DepthTask
from corda_jax.errors import UserError
from corda_jax.inference.export import export
from corda_jax.inference.predict import predict
from corda_jax.pretrained.torch_checkpoints import export_torch, import_torch, is_imported
from corda_jax.training import evaluate as evaluation
from corda_jax.training import train_loop
from corda_jax.training.metric_logging import curves_writer, not_fatal
from corda_jax.training.processes import first_process_first
from corda_jax.training.report import write_report
from corda_jax.training.restore import find_checkpoint
from corda_jax.training.run_files import has_checkpoints, read_config, read_json, record_config
from corda_jax.training.task import Feed, Task

TASKS: Mapping[str, type] = {
  "adaptation": AdaptationTask,
  "depth": DepthTask,
  "depth_anything": DepthAnythingTask,
}


def make_task(config: Any, workdir: Path, mode: str) -> Task | DepthAnythingTask:
  """The task of a configuration.

  Args:
    config: the whole configuration.
    workdir: folder of the run.
    mode: the job.

  Raises:
    UserError: there is no such task, the job is none of its, or a value cannot work.
  """
  name = config.get("task", "adaptation")
  if name not in TASKS:
    raise UserError(f"task is {name!r}, expected one of {', '.join(TASKS)}")
  if mode not in TASKS[name].modes:
    raise UserError(
      f"--mode={mode} is not supported by task {name!r}; its modes are "
      f"{', '.join(TASKS[name].modes)}"
    )
  if mode == "label_depth" and name == "depth":
    return _labelling_task(config, workdir)
  return TASKS[name].from_config(config)


def _labelling_task(config: Any, workdir: Path) -> DepthTask:
  """A task that reads every frame of a data set, with the views that its network learned from.

  Raises:
    UserError: the folder holds no run of the depth stage, or metric files are asked of a network
      that was trained on video alone, which has no scale.
  """
  find_checkpoint(workdir, config.evaluation.checkpoint)
  before = read_config(workdir)
  if before.get("task") != "depth":
    raise UserError(f"{workdir} is not a run of the depth stage: set --workdir to one")
  views, trained = before["data"]["target"]["views"], before["depth"]["metres_per_unit"]
  if config.depth.metres_per_unit != trained:
    print(
      f"Labels with depth.metres_per_unit {config.depth.metres_per_unit}; trained with {trained}."
    )
  elif config.label_depth.encoding == "metric" and "right" not in views:
    scale = (read_json(Path(workdir) / "results.json") or {}).get("scale")
    found = f" (by its results: {scale * trained:.4g})" if scale else ""
    raise UserError(
      "label_depth.encoding is 'metric', but the network was trained on video alone, which "
      f"has no metric scale: set depth.metres_per_unit{found}, or choose the encoding 'sigmoid'"
    )
  if config.data.target.dataset == "folder":
    # Records with neighbours lack the ends of clips, and the adaptation reads every frame.
    config = config.copy_and_resolve_references()
    config.data.target.views = ()
  return DepthTask.from_config(config, views=views)


def share() -> tuple[int, int]:
  """This process's index, and how many there are."""
  return jax.process_index(), jax.process_count()


def prepare(task: Task, workdir: Path, feed: Feed) -> None:
  """--mode=prepare: files → records."""
  needs = task.needs("prepare")
  for need, builder in zip(needs, feed.provide(needs), strict=True):
    print(f"{need.domain}: {os.fspath(builder.data_path)}", *builder.report.lines(), sep="\n  ")


def train(
  task: Task,
  workdir: Path,
  feed: Feed,
  create_writer: Callable[..., Any],
  *,
  profiler: Callable[..., Any],
) -> None:
  """--mode=train: to the last step, from the newest checkpoint if there is one.

  Args:
    task: what is trained.
    workdir: folder of the run.
    feed: source of batches.
    create_writer: creates clu's metric writer, for `curves_writer`.
    profiler: `clu.periodic_actions.Profile`.
  """
  with first_process_first("provide the data"):
    feed.provide(task.needs("train"))
  record_config(workdir, task.config.to_dict())
  print(_parameter_overview(task.state_shapes.params))
  profile, hooks = task.config.profile, []
  if profile.at_step:
    once = {"every_secs": None, "profile_duration_ms": None}
    folder = str(workdir / "tensorboard")
    hooks = [
      profiler(
        logdir=folder, first_profile=profile.at_step, num_profile_steps=profile.steps, **once
      )
    ]
  with curves_writer(workdir, create_writer) as writer:
    train_loop.train(task, workdir, feed, writer, hooks=hooks)
  if jax.process_index() == 0:
    print(f"Results: {workdir / 'results.json'}")
    print(f"Pictures: {workdir / 'pictures'}")
    with not_fatal("the report"):
      report(task, workdir)
    print(f"Curves: tensorboard --logdir {workdir / 'tensorboard'}")


def evaluate(task: Task, workdir: Path, feed: Feed) -> None:
  """--mode=evaluate: scores a checkpoint, and shows frames of it."""
  need, shown = task.needs("evaluate")[-1], task.pictured("evaluate")
  with first_process_first("provide the data"):
    feed.provide([need])
  state, result = evaluation.evaluate(task, workdir, lambda: feed.frames(need))
  spread = task.config.evaluation.pictures
  with not_fatal("pictures"):
    frames = functools.partial(feed.frames, shown, spread)
    path = evaluation.draw_evaluation(
      task, workdir, state, result, batches=frames, split=shown.split
    )
    if path is not None:
      print(f"Pictures: {path}")


def label(task: DepthTask | DepthAnythingTask, workdir: Path, feed: Feed) -> None:
  """--mode=label_depth: writes the depth files of a data set."""
  if isinstance(task, DepthAnythingTask):
    label_depth_anything(task, feed)
    return
  with first_process_first("provide the data"):
    feed.provide(task.needs("label_depth"))
  label_depth(task, workdir, feed)


def report(task: Task, workdir: Path) -> None:
  """--mode=report: one page of a run, finished or not."""
  print(f"Report: {write_report(workdir, task.config.to_dict())}")


def import_first(task: Task, workdir: Path, mode: str) -> None:
  """Imports `initial_weights` before a job that reads a checkpoint, if the folder has none.

  So a network that others trained is evaluated, or predicts, by one command.

  Raises:
    UserError: the file cannot be read or does not fit, it is of a part of the network, or the
      folder holds what was imported from another file.
  """
  path = task.config.initial_weights
  if mode not in ("evaluate", "predict", "export") or "import_torch" not in task.modes or not path:
    return
  if not has_checkpoints(workdir):
    import_torch(task, workdir, whole=True)
  elif (before := read_config(workdir).get("initial_weights")) != path and is_imported(workdir):
    raise UserError(
      f"{workdir} holds weights of {before}, but initial_weights is {path!r}: choose another "
      "--workdir"
    )


WITH_DATA = {"prepare": prepare, "evaluate": evaluate, "label_depth": label}
WITHOUT_DATA = {
  "predict": predict,
  "export": export,
  "import_torch": import_torch,
  "export_torch": export_torch,
}


def _parameter_overview(params: Any) -> str:
  """Sizes of the parts of a network: the encoder's blocks, and all other modules."""
  parts: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = [key.key for key in path]
    part = "/".join(names[: 2 if names[0] == "encoder" else 1])
    parts[part] = parts.get(part, 0) + leaf.size
  parts["parameters in all"] = sum(parts.values())
  return "\n".join(f"{part:<24} {size:>12,}" for part, size in parts.items())
