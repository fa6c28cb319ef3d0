"""The command: reads a configuration and runs one job.

    python -m corda_jax.main --config=configs/demo.py --workdir=runs/demo

With main_depth.py, which it calls for the depth stage, and main_curves.py, which writes the curves,
the only module of the package that imports TensorFlow: it reads the data.
"""

import functools
import logging as python_logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines import quiet_tensorflow  # noqa: F401  # isort: skip (before all its users)

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from PIL import Image

from corda_jax import main_depth
from corda_jax.errors import UserError, shown
from corda_jax.jobs.depth_experiment import DepthExperiment
from corda_jax.jobs.evaluate import Evaluator, evaluate
from corda_jax.jobs.experiment import Experiment
from corda_jax.jobs.export import export
from corda_jax.jobs.initial_pose import read_initial_pose
from corda_jax.jobs.predict import predict
from corda_jax.jobs.report import write_report
from corda_jax.jobs.restore import find_checkpoint
from corda_jax.jobs.torch_checkpoints import (
  check_no_checkpoints,
  export_torch,
  import_torch,
  read_initial_weights,
)
from corda_jax.jobs.train import train
from corda_jax.main_curves import curves_writer, told_not_raised
from corda_jax.main_flags import parse_flags
from corda_jax.training.preemption import EXIT_CODE, Preempted
from corda_jax.training.processes import first_process_first, join_processes
from corda_jax.training.run_files import check_config, has_checkpoints, record_config
from corda_jax.training.sharding import check_divisible, check_training_batch, frame_mesh
from corda_jax.training.state import TrainState
from corda_jax.visualize import contact_sheet, training_sheet
from data_pipelines.batches import evaluation_batches, train_batches
from data_pipelines.inverse_depth import to_disparity
from data_pipelines.provide import provide

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, curves, results.")
# What the two tasks of configurations can do.
_TASK_MODES = {
  "adaptation": (
    *("prepare", "train", "evaluate", "predict", "export", "report"),
    *("import_torch", "export_torch"),
  ),
  "depth": ("prepare", "train", "evaluate", "label_depth", "report"),
}
_MODES = sorted({mode for modes in _TASK_MODES.values() for mode in modes})
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "The job.")
_MULTIHOST = flags.DEFINE_bool(
  "multihost", False, "Join the other processes of this run, on this host or on others."
)


def run(config: Any, workdir: Path, mode: str) -> None:
  """Provides the data and runs the job `mode` in `workdir`.

  Raises:
    UserError: the configuration, the data or the folder will not do.
  """
  task = config.get("task", "adaptation")
  if mode not in _TASK_MODES.get(task, ()):
    raise UserError(
      f"--mode={mode} does not go with a configuration of task {task!r}, wanted "
      + "; ".join(f"{', '.join(modes)} ({task!r})" for task, modes in _TASK_MODES.items())
    )
  if mode == "prepare":
    _prepare(config, task)
  elif mode == "report":
    print(f"Report: {write_report(workdir, config.to_dict())}")
  elif task == "depth":
    main_depth.run(config, workdir, mode, _check_writable)
  elif mode in ("import_torch", "export_torch"):
    _convert_weights(Experiment.from_config(config), workdir, mode)
  elif mode in ("predict", "export"):
    _use(Experiment.from_config(config), workdir, mode)
  else:
    _train_or_evaluate(Experiment.from_config(config), workdir, mode)


def _prepare(config: Any, task: str) -> None:
  """Makes the records of the data sets, and tells what is in them."""
  (DepthExperiment if task == "depth" else Experiment).from_config(config)
  domains = ("target",) if task == "depth" else ("source", "target")
  for domain, builder in zip(
    domains, provide(config.data, domains, self_supervised=task == "depth"), strict=True
  ):
    print(f"{domain}: {os.fspath(builder.data_path)}", *builder.report.lines(), sep="\n  ")


def _use(experiment: Experiment, workdir: Path, mode: str) -> None:
  """Runs one of the jobs that take a trained network to other images, or elsewhere."""
  check_config(
    workdir, experiment.config.to_dict(), parts=("model.", "data.classes.", "data.target.height")
  )
  if jax.process_count() > 1:
    raise UserError(f"--mode={mode} wants one process: leave --multihost out")
  if mode == "predict":
    predict(experiment, workdir, encode_depth=to_disparity)
  else:
    export(experiment, workdir)


def _train_or_evaluate(experiment: Experiment, workdir: Path, mode: str) -> None:
  """Runs one of the jobs that need the data sets."""
  config = experiment.config
  frames = frame_mesh(experiment.mesh, config.evaluation.devices_per_frame)
  check_divisible(frames, config.data.evaluation_batch_size, "data.evaluation_batch_size")
  experiment.state_shapes()  # a network that cannot be is told before data are prepared for hours
  if mode == "train":
    group = config.model.batch_norm_group
    check_training_batch(experiment.mesh, config.data.batch_size, group)
    check_config(workdir, config.to_dict())
    if not has_checkpoints(workdir):  # and so is a wrong file
      read_initial_pose(experiment)
      if config.initial_weights:
        read_initial_weights(experiment)
    _check_writable(workdir)
    with first_process_first("provide the data"):
      provide(config.data)
    record_config(workdir, config.to_dict())
  else:
    check_config(
      workdir, config.to_dict(), parts=("model.", "data.classes.", "method.depth_supervision.")
    )
    find_checkpoint(workdir, config.evaluation.checkpoint)
    with first_process_first("provide the data"):
      provide(config.data, ("target",))

  processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
  validation = functools.partial(
    evaluation_batches,
    config.data,
    contents=experiment.evaluated_contents,
    limit=config.evaluation.max_frames or None,
    **processes,
  )
  if mode == "evaluate":
    state, result = evaluate(experiment, workdir, validation)
    _write_pictures(experiment, workdir, state, result, validation)
    return
  print(_parameter_overview(experiment.state_shapes().params))
  with curves_writer(workdir) as writer:
    state, result = train(
      experiment,
      workdir,
      train_batches=lambda step: train_batches(
        config.data, seed=config.seed, start_step=step, **processes
      ),
      evaluation_batches=validation,
      write_scalars=writer.write_scalars,
      show=functools.partial(_show_training, experiment, workdir, writer),
    )
    with told_not_raised("pictures"):
      sheet = _write_pictures(experiment, workdir, state, result, validation)
      if sheet is not None:
        images = np.asarray(Image.open(sheet))[None, ..., :3]
        writer.write_images(result["step"], {"target": images})
  if jax.process_index() == 0:
    print(f"Results: {workdir / 'results.json'}")
    with told_not_raised("the report"):
      print(f"Report: {write_report(workdir, config.to_dict())}")
    print(f"Curves: tensorboard --logdir {workdir / 'tensorboard'}")


def _convert_weights(experiment: Experiment, workdir: Path, mode: str) -> None:
  """Runs one of the two jobs that need no data."""
  config = experiment.config.to_dict()
  if mode == "export_torch":
    check_config(workdir, config, parts=("model.", "data.classes."))
    export_torch(experiment, workdir)
    return
  check_config(workdir, config)
  weights = read_initial_weights(experiment)
  _check_writable(workdir)
  check_no_checkpoints(workdir)
  record_config(workdir, config)  # before there is a checkpoint that it must tell of
  import_torch(experiment, workdir, weights)


def _write_pictures(
  experiment: Experiment,
  workdir: Path,
  state: TrainState,
  result: Mapping[str, Any],
  validation: Callable[[], Iterable[Mapping[str, Any]]],
) -> Path | None:
  """Writes the contact sheet of a result; its path, or None where another process writes it."""
  count = experiment.config.evaluation.pictures
  if count < 1:
    return None
  pictures = Evaluator(experiment).pictures(state, validation(), count)
  if jax.process_index() > 0:
    return None
  network = experiment.config.evaluation.network
  sheet = workdir / "pictures" / f"{network}_step_{result['step']:06d}.png"
  sheet.parent.mkdir(exist_ok=True)
  title = (
    f"{workdir.name}: frames of the target's validation set, {network} after {result['step']} "
    f"steps, mIoU {result['miou']:.1f} %"
  )
  contact_sheet(pictures, title, sheet, experiment.classes)
  print(f"Pictures: {sheet}")
  return sheet


def _show_training(
  experiment: Experiment, workdir: Path, writer: Any, step: int, pictures: dict[str, np.ndarray]
) -> None:
  """Writes the sheet of what a training step sees, and shows it in TensorBoard."""
  sheet = workdir / "pictures" / f"train_step_{step:06d}.png"
  sheet.parent.mkdir(exist_ok=True)
  title = f"{workdir.name}: what training sees in step {step}"
  training_sheet(pictures, title, sheet, experiment.classes)
  writer.write_images(step, {"train": np.asarray(Image.open(sheet))[None, ..., :3]})


def _check_writable(workdir: Path) -> None:
  if ":/" in os.fspath(workdir):  # of "gs://…" Path leaves one slash
    raise UserError(
      f"--workdir={workdir} is no folder of this machine: checkpoints are written and checked on a "
      "disk; mount the bucket (gcsfuse, s3fs) and name the folder. Records may lie in a bucket: "
      "data.records_dir"
    )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    # Of a name of its own: several processes ask at once, in containers all of number 1.
    tempfile.TemporaryFile(dir=workdir).close()
  except OSError as error:
    raise UserError(
      f"--workdir={workdir} cannot be written ({error.strerror}): name a folder that can"
    ) from error


def _parameter_overview(params: Any) -> str:
  """Sizes of the parts of a network: the encoder's blocks, and all other modules."""
  parts: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = [key.key for key in path]
    part = "/".join(names[: 2 if names[0] == "encoder" else 1])
    parts[part] = parts.get(part, 0) + leaf.size
  parts["parameters in all"] = sum(parts.values())
  return "\n".join(f"{part:<24} {size:>12,}" for part, size in parts.items())


def main(arguments: list[str]) -> None:
  """Runs the job of the flags; a mistake of the user's ends in one line and exit code 1.

  SIGTERM ends a training with 143, when its state is saved; Ctrl-C ends any job with 130.
  """
  try:
    if len(arguments) > 1:
      raise UserError(f"unknown argument {arguments[1]!r}: flags begin with --")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # heard while steps are made: see `Profile`
    if _MULTIHOST.value:
      join_processes()
      if jax.process_index() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the first process tells for all)
    run(_CONFIG.value, Path(_WORKDIR.value or ""), _MODE.value)
  except (UserError, OSError) as error:  # OSError: a full disk, a folder that cannot be read
    sys.exit(f"error: {shown(error)}")
  except Preempted as stop:
    print(f"\n{stop}, which is saved. The same command goes on from it.", file=sys.stderr)
    sys.exit(EXIT_CODE)
  except KeyboardInterrupt:
    print("\nStopped. The same command goes on from the newest checkpoint.", file=sys.stderr)
    sys.exit(130)


def _parse_flags(arguments: list[str]) -> list[str]:
  try:
    return parse_flags(arguments, flags.FLAGS)
  except UserError as error:
    sys.exit(f"error: {shown(error)}")


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  flags.register_multi_flags_validator(
    ["workdir", "mode"],
    lambda values: values["workdir"] or values["mode"] == "prepare",
    message="--workdir is missing: name the folder of the run",
  )
  logging.set_verbosity(logging.WARNING)
  # Where a checkpoint fails, Orbax leaves tasks whose errors were told already.
  python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
  jax.config.config_with_absl()
  app.run(main, flags_parser=_parse_flags)
