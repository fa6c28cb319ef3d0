"""Scores a network on the target's validation set."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from corda_jax.adaptation.depth_heads import head_to_metres
from corda_jax.adaptation.scores import scores
from corda_jax.depth.scores import DepthErrors, known_metres
from corda_jax.inference.views import as_evaluated, class_map, depth_maps, make_views
from corda_jax.metrics import confusion_matrix
from corda_jax.models.depth_guided import network_input, sees_depth
from corda_jax.models.layers import accumulation_dtype
from corda_jax.resize import resize, resize_nearest
from corda_jax.training.evaluate import gathered, measured
from corda_jax.training.sharding import BATCH_AXIS, PIXEL_AXIS, frame_mesh, put_batch
from corda_jax.training.state import TrainState

if TYPE_CHECKING:
  from corda_jax.adaptation.task import AdaptationTask


class Evaluator:
  """Evaluates states of one task; compiles once for each size of labels.

  Args:
    task: network, mesh and configuration.
  """

  def __init__(self, task: AdaptationTask):
    """Prepares the compiled functions."""
    self._task = task
    model, normalization = task.model, task.normalization
    config, num_classes = task.config.evaluation, len(task.classes)
    measures_depth = task.has_depth_heads
    wide = accumulation_dtype(jnp.dtype(task.config.model.param_dtype))
    self._mesh = mesh = frame_mesh(task.mesh, config.devices_per_frame)

    def constrain(x, *axes):
      return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))

    def apply(variables, x):
      x = constrain(x, BATCH_AXIS, PIXEL_AXIS)  # the compiler has neighbours exchange their borders

      def predict(x):
        outputs = model.apply(variables, x, train=False)
        return {name: outputs[name].astype(wide) for name in ("S", "D", "D_src") if name in outputs}

      return as_evaluated(predict, config, method=model.resize_outputs)(x)

    def classify(variables, x, size):
      views = make_views(
        lambda x: apply(variables, x)["S"], x, scales=tuple(config.scales), flip=config.flip
      )
      # Every column of a class map needs logits of all rows; these are small.
      views = jax.tree.map(lambda logits: constrain(logits, BATCH_AXIS), views)
      return class_map(
        views,
        size,
        lambda columns: constrain(columns, PIXEL_AXIS),
        method=model.resize_outputs,
      )

    def measure(variables, batch):
      images, labels, valid = batch["image"], batch["label"], batch["valid"]
      if config.label_size == "input":
        labels = resize_nearest(labels, images.shape[1:3])
      x = network_input(model, normalization.normalize(images, wide), batch.get("inverse_depth"))
      counts = confusion_matrix(labels, classify(variables, x, labels.shape[1:]), num_classes)
      found = {
        "confusion": jnp.where(valid[:, None, None], counts, 0).sum(0),
        "frames": valid.sum(),
      }
      if measures_depth and "inverse_depth" in batch:
        # The compiler merges this pass with the equal view.
        depth = apply(variables, x)["D"]
        head = resize(depth, images.shape[1:3], model.resize_outputs)[..., 0]
        found["depth"] = head_to_metres(head)
        found |= {name: batch[name] for name in ("inverse_depth", "valid")}
      return found

    def draw(variables, batch):
      images = batch["image"]
      size = images.shape[1:3]
      x = network_input(model, normalization.normalize(images, wide), batch.get("inverse_depth"))
      pictures = {"prediction": classify(variables, x, size)}
      # The compiler merges this pass with the equal view, and drops it where there is no depth.
      outputs = apply(variables, x)
      return pictures | depth_maps(outputs, x, size, method=model.resize_outputs)

    # Every process gets all results: they all measure all frames.
    self._measure = task.compile_for_frames(measure, mesh)
    self._draw = task.compile_for_frames(draw, mesh)

  def _depth_names(self, batch: Mapping[str, Any]) -> set[str]:
    """The inverse depth of a batch, where it is seen or measured."""
    used = self._task.has_depth_heads or sees_depth(self._task.model)
    return {"inverse_depth"} & batch.keys() if used else set()

  def _variables(self, state: TrainState) -> dict[str, Any]:
    return network_variables(state, self._task.config.evaluation.network)

  def traced_for(self, state: TrainState, batch: Mapping[str, Any]) -> jax.stages.Traced:
    """What `confusion` makes of one batch, traced, for those who count its operations."""
    return self._measure.trace(self._variables(state), put_batch(self._mesh, batch))

  def confusion(
    self, state: TrainState, batches: Iterable[Mapping[str, Any]]
  ) -> tuple[np.ndarray, int]:
    """Counts pixels over all `batches`.

    Args:
      state: state of the task.
      batches: host batches with "image" uint8 [B, H, W, 3], "label" uint8 [B, H', W'] and "valid"
        bool [B], False for frames that only fill a batch; for networks that see depth also
        "inverse_depth" [B, H, W].

    Returns:
      int64[num_classes, num_classes], [true, predicted], and the number of frames, of all
      processes.
    """
    matrix, frames, _ = self._counts(state, batches)
    return matrix, frames

  def _counts(
    self, state: TrainState, batches: Iterable[Mapping[str, Any]]
  ) -> tuple[np.ndarray, int, dict[str, Any] | None]:
    """What `confusion` gives, and errors of the depth head where batches have depth."""
    variables, config = self._variables(state), self._task.config

    def measure(batch):
      names = {"image", "label", "valid", *self._depth_names(batch)}
      return self._measure(variables, put_batch(self._mesh, {name: batch[name] for name in names}))

    matrix = np.zeros((len(self._task.classes),) * 2, np.int64)
    frames, errors = 0, DepthErrors(config.evaluation, video=_by_video(self._task))
    for found in measured(measure, batches):
      matrix += found["confusion"]
      frames += int(found["frames"])
      if "depth" in found:
        for depth, inverse, valid in zip(
          found["depth"], found["inverse_depth"], found["valid"], strict=True
        ):
          if valid:
            errors.add(depth, known_metres(inverse, config.evaluation))
    return matrix, frames, errors.result()

  def score(self, state: TrainState, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores and the protocol that they were measured by, as JSON-ready values.

    Args:
      state: state of the task.
      batches: as for `confusion`; with "inverse_depth" [B, H, W], the depth head that learns the
        target's is measured by it.

    Returns:
      What `scores.scores` gives, "depth", where it is measured, as `DepthErrors.result` gives it,
      and "network", "input_size" ([height, width] in pixels), "label_size", "flip", "scales",
      "resize_via_input", "window", "window_stride" and "frames", the number of them.
    """
    config, target = self._task.config.evaluation, self._task.config.data.target
    matrix, frames, depth = self._counts(state, batches)
    protocol = {
      "network": config.network,
      "input_size": [target.height, target.width],
      "label_size": config.label_size,
      "flip": config.flip,
      "scales": list(config.scales),
      "resize_via_input": config.resize_via_input,
      "window": list(config.window),
      "window_stride": list(config.window_stride) if any(config.window) else None,
      "frames": frames,
    }
    result = protocol | scores(
      matrix,
      config.classes,
      classes=self._task.classes,
      named_sets=config.class_sets,
    )
    return result if depth is None else result | {"depth": depth}

  def pictures(
    self, state: TrainState, batches: Iterable[Mapping[str, Any]], count: int
  ) -> dict[str, np.ndarray]:
    """Predictions on the first frames, at most `count` of them, for a contact sheet.

    Returns:
      "image", "label", "prediction" and what `views.depth_maps` makes, stacked; "label"
      at the size of the image.
    """
    variables = self._variables(state)
    # So many batches for every process alike: they compute the pictures together.
    frames = self._task.config.data.evaluation_batch_size

    def drawn():
      for batch in itertools.islice(batches, -(-count // frames)):
        seen = {name: batch[name] for name in ("image", *self._depth_names(batch))}
        made = dict(self._draw(variables, put_batch(self._mesh, seen)))
        made["image"] = np.asarray(batch["image"])
        made["label"] = resize_nearest(np.asarray(batch["label"]), made["image"].shape[1:3])
        yield made, batch["valid"]

    return {name: value[:count] for name, value in gathered(drawn()).items()}


def network_variables(state: TrainState, network: str) -> dict[str, Any]:
  """Parameters and statistics of the "student" or of the "teacher"."""
  if network == "teacher":
    return {"params": state.teacher_params, "batch_stats": state.teacher_batch_stats}
  return {"params": state.params, "batch_stats": state.batch_stats}


def _by_video(task: AdaptationTask) -> bool:
  """Whether the target's depth heads learn from video alone."""
  views = task.step.views["target"]
  return task.step.depth_from("target") == {"views"} and "right" not in views
