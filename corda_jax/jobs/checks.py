"""What is checked before a job begins: the configuration, the folder of the run, files it names.

Nothing here imports TensorFlow or reads a data set, so a mistake is reported within seconds.
"""

from pathlib import Path
from typing import Any

import jax

from corda_jax.errors import UserError
from corda_jax.jobs.depth_experiment import DepthExperiment
from corda_jax.jobs.experiment import Experiment
from corda_jax.jobs.validate import validate_training_data
from corda_jax.pretrained.depth_weights import read_initial_depth_weights
from corda_jax.pretrained.initial_pose import read_initial_pose
from corda_jax.pretrained.torch_checkpoints import read_initial_weights
from corda_jax.training.restore import find_checkpoint
from corda_jax.training.run_files import (
  check_config,
  check_writable,
  has_checkpoints,
  read_config,
  read_json,
)
from corda_jax.training.sharding import check_divisible, check_training_batch, frame_mesh

# Parts of a configuration in which a job must agree with the run that it reads: what else differs
# changes no weight.
_ADAPTATION_PARTS = {
  "evaluate": ("model.", "data.classes.", "method.depth_supervision."),
  "predict": ("model.", "data.classes.", "data.target.height"),
  "export": ("model.", "data.classes.", "data.target.height"),
  "export_torch": ("model.", "data.classes."),
}
_DEPTH_PARTS = {
  "evaluate": (
    *("model.", "depth.min_depth", "depth.max_depth"),
    *("data.target.views", "depth.metres_per_unit"),  # which the errors depend on
  ),
  # What is labelled may be another data set.
  "label_depth": ("model.", "depth.min_depth", "depth.max_depth"),
}


def check_adaptation(config: Any, workdir: Path, mode: str) -> Experiment:
  """Checks a job of the adaptation.

  Args:
    config: the whole configuration.
    workdir: folder of the run; created where the job writes to it.
    mode: the job.

  Returns:
    The experiment of the configuration.

  Raises:
    UserError: the job cannot run.
  """
  experiment = Experiment.from_config(config)
  if mode in ("train", "prepare"):
    validate_training_data(config)
  if mode in ("train", "evaluate"):
    frames = frame_mesh(experiment.mesh, config.evaluation.devices_per_frame)
    check_divisible(frames, config.data.evaluation_batch_size, "data.evaluation_batch_size")
    experiment.state_shapes()  # raises UserError for an invalid network
  if mode == "train":
    _check_training(experiment, workdir)
  elif mode in _ADAPTATION_PARTS:
    check_config(workdir, config.to_dict(), parts=_ADAPTATION_PARTS[mode])
  if mode in ("evaluate", "export", "export_torch"):
    find_checkpoint(workdir, config.evaluation.checkpoint)
  if mode in ("predict", "export") and jax.process_count() > 1:
    raise UserError(f"--mode={mode} runs in one process: leave --multihost out")
  return experiment


def check_depth(config: Any, workdir: Path, mode: str) -> DepthExperiment:
  """Checks a job of the depth stage; arguments and errors are those of `check_adaptation`.

  Returns:
    The experiment of the configuration. Of "label_depth" its views are those of the training, and
    its configuration reads every frame.
  """
  trained = None
  if mode == "label_depth":
    find_checkpoint(workdir, config.evaluation.checkpoint)
    before = read_config(workdir)
    if before.get("task") != "depth":
      raise UserError(f"{workdir} holds no run of the depth stage: name the --workdir of one")
    trained = before["data"]["target"]["views"]
    _check_scale(config, workdir, before)
    if config.data.target.dataset == "folder":
      # Records with neighbours lack the ends of clips, and the adaptation reads every frame.
      config = config.copy_and_resolve_references()
      config.data.target.views = ()
  experiment = DepthExperiment.from_config(config, views=trained)
  if mode == "prepare":
    return experiment
  check_divisible(experiment.mesh, config.data.evaluation_batch_size, "data.evaluation_batch_size")
  experiment.state_shapes()  # raises UserError for invalid networks
  if mode == "train":
    _check_training(experiment, workdir)
  else:
    check_config(workdir, config.to_dict(), parts=_DEPTH_PARTS[mode])
    find_checkpoint(workdir, config.evaluation.checkpoint)
  return experiment


def _check_training(experiment: Experiment | DepthExperiment, workdir: Path) -> None:
  config = experiment.config
  group = config.model.batch_norm_group
  check_training_batch(experiment.mesh, config.data.batch_size, group)
  check_config(workdir, config.to_dict())
  if not has_checkpoints(workdir):  # then the files of weights are read
    if isinstance(experiment, DepthExperiment):
      read_initial_depth_weights(experiment)
    else:
      read_initial_pose(experiment)
      if config.initial_weights:
        read_initial_weights(experiment)
  check_writable(workdir)


def _check_scale(config: Any, workdir: Path, before: dict[str, Any]) -> None:
  """Reports another scale than the training's.

  Raises:
    UserError: metric files are asked of a network that was trained on video alone, which has no
      scale.
  """
  trained, wanted = before["depth"]["metres_per_unit"], config.depth.metres_per_unit
  if wanted != trained:
    print(f"Labels with depth.metres_per_unit {wanted}; trained with {trained}.")
  elif config.label_depth.encoding == "metric" and "right" not in before["data"]["target"]["views"]:
    scale = (read_json(Path(workdir) / "results.json") or {}).get("scale")
    found = f" (by its results: {scale * trained:.4g})" if scale else ""
    raise UserError(
      "label_depth.encoding is 'metric', but the network was trained on video alone, whose scale "
      f"nobody knows: set depth.metres_per_unit{found}, or choose the encoding 'sigmoid'"
    )
