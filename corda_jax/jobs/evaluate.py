"""Scores a network on the target's validation set."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corda_jax import labels
from corda_jax.errors import UserError
from corda_jax.jobs.experiment import Experiment
from corda_jax.metrics import confusion_matrix, intersection_over_union, mean_iou
from corda_jax.models.layers import accumulation_dtype
from corda_jax.resize import resize_aligned
from corda_jax.training.checkpoint import Checkpoints, write_json
from corda_jax.training.sharding import batch_sharded, put_batch, replicated
from corda_jax.training.state import TrainState


class Evaluator:
  """Evaluates states of one experiment; compiles once for each size of labels.

  Args:
    experiment: network, mesh and configuration.
  """

  def __init__(self, experiment: Experiment):
    """Prepares the compiled functions."""
    self._experiment = experiment
    model, normalization = experiment.model, experiment.normalization
    num_classes = experiment.config.model.num_classes
    wide = accumulation_dtype(jnp.dtype(experiment.config.model.param_dtype))

    def predict(variables, images):
      outputs = model.apply(variables, normalization.normalize(images, wide), train=False)
      return {name: x.astype(wide) for name, x in outputs.items()}

    def count(variables, images, labels, valid):
      logits = predict(variables, images)["S"]
      prediction = resize_aligned(logits, labels.shape[1:]).argmax(-1)
      counts = confusion_matrix(labels, prediction, num_classes)
      return jnp.where(valid[:, None, None], counts, 0).sum(0)

    def draw(variables, images):
      outputs = predict(variables, images)
      size = images.shape[1:3]
      maps = {k: resize_aligned(v, size) for k, v in outputs.items()}
      pictures = {"prediction": maps["S"].argmax(-1).astype(jnp.uint8)}
      if "D" in maps:
        target, source = maps["D"][..., 0], maps["D_src"][..., 0]
        pictures["inverse_depth"] = target
        # No measured depth is needed here: the target head's own prediction stands for it.
        pictures["difficulty"] = jnp.clip(jnp.abs(source - target) / jnp.maximum(target, 1), 0, 1)
      return pictures

    mesh = experiment.mesh
    everywhere, split = replicated(mesh), batch_sharded(mesh)
    self._count = jax.jit(
      count, in_shardings=(everywhere, split, split, split), out_shardings=everywhere
    )
    self._draw = jax.jit(draw, in_shardings=(everywhere, split), out_shardings=everywhere)

  def _variables(self, state: TrainState) -> dict[str, Any]:
    network = self._experiment.config.evaluation.network
    if network == "teacher":
      return {"params": state.teacher_params, "batch_stats": state.teacher_batch_stats}
    return {"params": state.params, "batch_stats": state.batch_stats}

  def confusion(self, state: TrainState, batches: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Counts pixels over all `batches`.

    Args:
      state: of the experiment.
      batches: host batches with "image" uint8 [B, H, W, 3], "label" uint8 [B, H', W'] and "valid"
        bool [B], False for frames that only fill a batch.

    Returns:
      int64[num_classes, num_classes], [true, predicted].
    """
    variables = self._variables(state)
    total = np.zeros((self._experiment.config.model.num_classes,) * 2, np.int64)
    pending = None
    for batch in batches:
      arrays = put_batch(self._experiment.mesh, {k: batch[k] for k in ("image", "label", "valid")})
      counts = self._count(variables, arrays["image"], arrays["label"], arrays["valid"])
      if pending is not None:  # read one batch late: the device works on while the host reads
        total += np.asarray(pending)
      pending = counts
    if pending is not None:
      total += np.asarray(pending)
    return total

  def pictures(
    self, state: TrainState, batches: Iterable[Mapping[str, Any]], count: int
  ) -> dict[str, np.ndarray]:
    """Predictions on the first frames, at most `count` of them, for a contact sheet.

    Returns:
      "image", "label", "prediction" and, with depth heads, "inverse_depth" and "difficulty",
      stacked; "label" at the size of the image.
    """
    variables = self._variables(state)
    # So many batches for every process alike: they compute the pictures together.
    frames = self._experiment.config.data.evaluation_batch_size
    parts: dict[str, list[np.ndarray]] = {}
    for batch in itertools.islice(batches, -(-count // frames)):
      arrays = put_batch(self._experiment.mesh, {"image": batch["image"]})
      drawn = {name: np.asarray(x) for name, x in self._draw(variables, arrays["image"]).items()}
      drawn["image"] = np.asarray(batch["image"])
      drawn["label"] = _nearest(np.asarray(batch["label"]), drawn["image"].shape[1:3])
      for name, value in drawn.items():
        parts.setdefault(name, []).append(value[: len(batch["valid"])][np.asarray(batch["valid"])])
    return {name: np.concatenate(values)[:count] for name, values in parts.items()}


def _nearest(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Labels [B, H, W] at another size, each pixel from the nearest centre."""
  rows, columns = (
    ((np.arange(wanted) + 0.5) * given / wanted).astype(int)
    for wanted, given in zip(size, label.shape[1:], strict=True)
  )
  return label[:, rows][:, :, columns]


def scores(confusion: np.ndarray, class_set: str) -> dict[str, Any]:
  """Mean and per-class IoU of a confusion matrix, in percent, as JSON-ready values.

  Args:
    confusion: counts, [true, predicted].
    class_set: key of `labels.CLASS_SETS`: which classes the mean is over.
  """
  per_class = 100 * intersection_over_union(confusion)
  return {
    "miou": 100 * mean_iou(confusion, labels.CLASS_SETS[class_set]),
    "classes": class_set,
    "iou": {
      name: None if math.isnan(value) else float(value)
      for name, value in zip(labels.NAMES, per_class, strict=True)
    },
    "pixel_accuracy": 100 * float(np.trace(confusion) / max(confusion.sum(), 1)),
  }


def format_scores(result: Mapping[str, Any]) -> str:
  """A table of per-class IoU with its mean, for the console."""
  width = max(len(name) for name in result["iou"])
  counted = labels.CLASS_SETS[result["classes"]]
  lines = [f"{'class':<{width}}  IoU %"]
  for index, (name, value) in enumerate(result["iou"].items()):
    bar = "" if value is None else "█" * round(value / 4)
    shown = "    -" if value is None else f"{value:5.1f}"
    note = "" if index in counted else "(not in the mean)"
    lines.append(f"{name:<{width}}  {shown}  {bar} {note}".rstrip())
  lines.append(f"{'mIoU':<{width}}  {result['miou']:5.1f}  over {len(counted)} classes")
  lines.append(f"pixel accuracy {result['pixel_accuracy']:.1f} %")
  return "\n".join(lines)


def evaluate(
  experiment: Experiment, workdir: Path, batches: Callable[[], Iterable[Mapping[str, Any]]]
) -> tuple[TrainState, dict[str, Any]]:
  """Scores a checkpoint of the run in `workdir`, and writes `evaluation.json` there.

  Args:
    experiment: network, mesh and configuration; `evaluation` says which checkpoint and network.
    workdir: folder of the run.
    batches: → host batches of the validation set, once through.

  Returns:
    The state of the checkpoint, and the results.

  Raises:
    UserError: there is no such checkpoint.
  """
  config = experiment.config.evaluation
  step = find_checkpoint(workdir, config.checkpoint)
  checkpoints = Checkpoints(workdir)
  try:
    state = checkpoints.restore(step, experiment.state_shapes())
  finally:
    checkpoints.close()
  confusion = Evaluator(experiment).confusion(state, batches())
  result = {"step": int(state.step), "network": config.network}
  result |= scores(confusion, config.classes)
  print(format_scores(result))
  if jax.process_index() == 0:
    write_json(Path(workdir) / "evaluation.json", result)
  return state, result


def find_checkpoint(workdir: Path, which: str) -> int:
  """Step of the "latest" or the "best" checkpoint of the run in `workdir`.

  Raises:
    UserError: there is none.
  """
  folder = Path(workdir) / "checkpoints"
  if not folder.is_dir():
    raise UserError(f"no checkpoints in {workdir}: train there first, or name another --workdir")
  checkpoints = Checkpoints(workdir)
  step = checkpoints.latest_step() if which == "latest" else checkpoints.best_step()
  checkpoints.close()
  if step is None:
    raise UserError(f"no {which} checkpoint in {folder}: train there first")
  return step
