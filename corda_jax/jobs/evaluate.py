"""Scores a network on the target's validation set."""

import json
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
from corda_jax.resize import resize_aligned
from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.sharding import batch_sharded, put_batch, replicated
from corda_jax.training.state import TrainState

CLASS_SETS = {
  "all": None,
  "synthia_16": labels.SYNTHIA_16,
  "synthia_13": labels.SYNTHIA_13,
}


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

    def predict(variables, images):
      return model.apply(variables, normalization.normalize(images), train=False)

    def count(variables, images, labels, valid):
      logits = predict(variables, images)["S"].astype(jnp.float32)
      prediction = resize_aligned(logits, labels.shape[1:]).argmax(-1)
      counts = confusion_matrix(labels, prediction, num_classes)
      return jnp.where(valid[:, None, None], counts, 0).sum(0)

    def draw(variables, images):
      outputs = predict(variables, images)
      size = images.shape[1:3]
      maps = {k: resize_aligned(v.astype(jnp.float32), size) for k, v in outputs.items()}
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
    if network == "student":
      return {"params": state.params, "batch_stats": state.batch_stats}
    if network == "teacher":
      return {"params": state.teacher_params, "batch_stats": state.teacher_batch_stats}
    raise UserError(f"evaluation.network is {network!r}, wanted 'student' or 'teacher'")

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
    """Predictions on the first `count` valid frames of the first batches, for a contact sheet.

    Returns:
      "image", "label", "prediction" and, with depth heads, "inverse_depth" and "difficulty",
      stacked; "label" at the size of the image.
    """
    variables, columns, found = self._variables(state), {}, 0
    for batch in batches:
      if found >= count:
        break
      arrays = put_batch(self._experiment.mesh, {"image": batch["image"]})
      drawn = {k: np.asarray(v) for k, v in self._draw(variables, arrays["image"]).items()}
      drawn["image"] = np.asarray(batch["image"])
      height, width = drawn["image"].shape[1:3]
      label = np.asarray(batch["label"])
      rows = (np.arange(height) + 0.5) * label.shape[1] / height
      columns_ = (np.arange(width) + 0.5) * label.shape[2] / width
      drawn["label"] = label[:, rows.astype(int)][:, :, columns_.astype(int)]
      keep = np.flatnonzero(np.asarray(batch["valid"]))[: count - found]
      for name, value in drawn.items():
        columns.setdefault(name, []).append(value[keep])
      found += len(keep)
    return {name: np.concatenate(values) for name, values in columns.items()}


def scores(confusion: np.ndarray, class_set: str) -> dict[str, Any]:
  """Mean and per-class IoU of a confusion matrix, in percent, as JSON-ready values.

  Args:
    confusion: counts, [true, predicted].
    class_set: key of `CLASS_SETS`: which classes the mean is over.

  Raises:
    UserError: `class_set` is unknown.
  """
  if class_set not in CLASS_SETS:
    raise UserError(f"evaluation.classes is {class_set!r}, wanted one of {sorted(CLASS_SETS)}")
  per_class = 100 * intersection_over_union(confusion)
  names = class_names(len(per_class))
  return {
    "miou": 100 * mean_iou(confusion, CLASS_SETS[class_set]),
    "classes": class_set,
    "iou": {
      name: None if math.isnan(value) else float(value)
      for name, value in zip(names, per_class, strict=True)
    },
    "pixel_accuracy": 100 * float(np.trace(confusion) / max(confusion.sum(), 1)),
  }


def class_names(num_classes: int) -> tuple[str, ...]:
  """Names of the classes, "class 3" and so on where they are not the 19 of Cityscapes."""
  if num_classes == labels.NUM_CLASSES:
    return labels.NAMES
  return tuple(f"class {i}" for i in range(num_classes))


def format_scores(result: Mapping[str, Any]) -> str:
  """A table of per-class IoU with its mean, for the console."""
  width = max(len(name) for name in result["iou"])
  lines = [f"{'class':<{width}}  IoU %"]
  for name, value in result["iou"].items():
    bar = "" if value is None else "█" * round(value / 4)
    shown = "    -" if value is None else f"{value:5.1f}"
    lines.append(f"{name:<{width}}  {shown}  {bar}".rstrip())
  lines.append(f"{'mIoU':<{width}}  {result['miou']:5.1f}  ({result['classes']} classes)")
  lines.append(f"pixel accuracy {result['pixel_accuracy']:.1f} %")
  return "\n".join(lines)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
  """Writes `value` to `path` whole or not at all."""
  partial = path.with_name(path.name + ".partial")
  partial.write_text(json.dumps(value, indent=2) + "\n")
  partial.replace(path)


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
    UserError: there is no such checkpoint, or a word of the configuration is unknown.
  """
  config = experiment.config.evaluation
  state = _restore(experiment, workdir, config.checkpoint)
  confusion = Evaluator(experiment).confusion(state, batches())
  result = {"step": int(state.step), "network": config.network}
  result |= scores(confusion, config.classes)
  print(format_scores(result))
  if jax.process_index() == 0:
    write_json(Path(workdir) / "evaluation.json", result)
  return state, result


def _restore(experiment: Experiment, workdir: Path, which: str) -> TrainState:
  if which not in ("latest", "best"):
    raise UserError(f"evaluation.checkpoint is {which!r}, wanted 'latest' or 'best'")
  folder = Path(workdir) / "checkpoints"
  if not folder.is_dir():
    raise UserError(f"no checkpoints in {workdir}: train there first, or name another --workdir")
  checkpoints = Checkpoints(workdir)
  try:
    step = checkpoints.latest_step() if which == "latest" else checkpoints.best_step()
    if step is None:
      raise UserError(f"no {which} checkpoint in {folder}: train there first")
    return checkpoints.restore(step, experiment.state_shapes())
  finally:
    checkpoints.close()
