"""One training step: teacher → mix → student passes → losses → optimiser → teacher.

CorDA (Wang et al., ICCV 2021) on top of DACS (Tranheden et al., WACV 2021). Everything is pure;
what is random is drawn by `draw` from the key and the step's number, and used by `adapt`, so that
tests can give the draws.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Sharding

from corda_jax.adaptation import class_mix, pseudo_labels
from corda_jax.adaptation.draws import augment, draw
from corda_jax.adaptation.joint_depth import JointDepth, Prediction, scenes
from corda_jax.adaptation.objective import (
  depth_heads,
  mixed_losses,
  mixed_weights,
  source_losses,
  total_loss,
  weighted_losses,
)
from corda_jax.models.build import Normalization
from corda_jax.models.layers import accumulation_dtype
from corda_jax.resize import resize_aligned
from corda_jax.training.state import PoseState, TrainState, skip_unless_finite, update_teacher

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Maps = dict[str, jax.Array]
Draws = Mapping[str, Any]


class Taught(NamedTuple):
  """What the teacher gives a step; without adaptation both maps are empty.

  Attributes:
    outputs: its predictions on the target by name, at the output stride.
    batch_stats: its statistics after that pass.
    mixed: of `AdaptationStep.mix`.
  """

  outputs: Maps
  batch_stats: Any
  mixed: Maps


class _Found(NamedTuple):
  """What the losses give beside their sum.

  Attributes:
    losses: scalars by name, unweighted.
    batch_stats: the student's, after its passes.
    pose: state of the pose network after its passes.
    maps: "outputs", the student's predictions on the mixed image, at its size, "pixel_weight" and,
      where there is one, "depth_weight"; without adaptation "outputs" on the source.
  """

  losses: Metrics
  batch_stats: Any
  pose: PoseState | None
  maps: Maps


@dataclasses.dataclass(frozen=True, eq=False)  # hashed as itself, so that it can be jitted
class AdaptationStep:
  """The pure function step(state, batch, key) → (state, metrics), and what it is made of.

  `batch` holds "source_image", "target_image" uint8 RGB [B, H, W, 3], "source_label" uint8
  [B, H, W], "source_inverse_depth" and "target_inverse_depth" float [B, H, W], and what `scenes`
  reads. Metrics are scalars. A step whose loss or gradients are not finite changes nothing but the
  count of steps.

  Attributes:
    model: network whose outputs are named as those of `Corda`.
    optimizer: of its parameters.
    normalization: from uint8 images to network input.
    config: the `method` part of a configuration.
    num_classes: semantic classes.
    joint: the photometric part of the step, if a domain has such supervision.
    one_student_pass: whether the student sees source and mixed images as one batch, each still
      normalised by its own statistics, and not one after the other. The results are the same.
    gradient_sharding: of the parameters over the devices, and so of their gradients; None, on one
      device, leaves it to the compiler.
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  normalization: Normalization
  config: Any
  num_classes: int
  joint: JointDepth | None = None
  one_student_pass: bool = False
  gradient_sharding: Sharding | None = None

  def __call__(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
    """The state after one step, and metrics."""
    inputs, draws = self.prepare(state, batch, key)
    after, metrics, _ = self.adapt(state, inputs, draws)
    with jax.named_scope("optimizer"):  # the compiler makes one of this choice and of the update
      return skip_unless_finite(state, after, metrics)

  def maps(self, state: TrainState, batch: Batch, key: jax.Array) -> Maps:
    """What a step sees.

    Returns:
      "prediction" uint8[B, H, W] of the student on the mixed image (without adaptation: on the
      source's) and, with depth heads, "inverse_depth", "source_inverse_depth" (by the target's and
      by the source's head) and "difficulty" [B, H, W], see `difficulty`; with adaptation "image"
      [B, H, W, 3], RGB 0..1, mixed and augmented, "label" uint8[B, H, W], mixed of the source's
      labels and the pseudo-labels, "mask" bool[B, H, W] (True: source), "pseudo_label"
      uint8[B, H, W], all of them, with the teacher's "confidence" [B, H, W], 0..1, "pixel_weight"
      [B, H, W] and, with depth heads, the teacher's on the target, "teacher_inverse_depth" and
      "teacher_source_inverse_depth" [B, H, W].
    """
    inputs, draws = self.prepare(state, batch, key)
    # What only the update needs is never computed: nothing asks for it.
    found = self.adapt(state, inputs, draws)[2]
    outputs = found["outputs"]
    shown = {"prediction": outputs["S"].argmax(-1).astype(jnp.uint8)}
    if "D" in outputs:
      target, source = outputs["D"][..., 0], outputs["D_src"][..., 0]
      shown |= {"inverse_depth": target, "source_inverse_depth": source}
      shown["difficulty"] = pseudo_labels.difficulty(source, target)
    if "image" in found:
      image = self.normalization.to_unit_range(found["image"])
      shown["image"] = image[..., ::-1] if self.normalization.bgr else image
      shown |= {name: found[name].astype(jnp.uint8) for name in ("label", "pseudo_label")}
      shown |= {name: found[name] for name in ("mask", "confidence")}
      shown["pixel_weight"] = jnp.broadcast_to(found["pixel_weight"], found["label"].shape)
      teacher = found["teacher_outputs"]
      for head, name in (("D", "inverse_depth"), ("D_src", "source_inverse_depth")):
        if head in teacher:
          depth = resize_aligned(teacher[head], found["label"].shape[1:])
          shown[f"teacher_{name}"] = depth[..., 0]
    return shown

  def losses(self, params: Any, state: TrainState, batch: Batch, key: jax.Array) -> Metrics:
    """What a step minimises: scalars by name, as they are added, whose sum is its "total".

    Args:
      params: of the student; all else is the state's.
      state: before the step.
      batch: as for a step.
      key: as for a step.
    """
    inputs, draws = self.prepare(state, batch, key)
    taught = self.teach(state, inputs, draws)
    found = self._find_losses(state.replace(params=params), inputs, draws, taught)
    return weighted_losses(found.losses, self.config)

  def prepare(
    self, state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs and the random choices of `adapt`."""
    wide = accumulation_dtype(jax.tree.leaves(state.params)[0].dtype)
    inputs: dict[str, Any] = dict(batch)
    for domain in ("source", "target"):
      image = self.normalization.normalize(batch[f"{domain}_image"], wide)
      inputs[f"{domain}_image"] = image
      inputs[f"{domain}_inverse_depth"] = batch[f"{domain}_inverse_depth"].astype(wide)
    inputs["scenes"] = {} if self.joint is None else scenes(batch, self.joint, wide)
    key = jax.random.fold_in(key, state.step)
    return inputs, draw(key, batch["source_label"], self.num_classes, self.config)

  def adapt(
    self, state: TrainState, inputs: Batch, draws: Draws
  ) -> tuple[TrainState, Metrics, Maps]:
    """The arithmetic of a step, random choices given.

    Args:
      state: before the step.
      inputs: the batch, but images as network input, inverse depths of the type of the statistics,
        and "scenes", of `scenes`.
      draws: of `draw`.

    Returns:
      The next state, scalar metrics, and maps: those of `_Found` and of `mix`, and
      "teacher_outputs", the teacher's predictions on the target at the output stride.
    """
    taught = self.teach(state, inputs, draws)

    def loss_function(params, pose_params):
      pose = state.pose and state.pose.replace(params=pose_params)
      student = state.replace(params=params, pose=pose)
      found = self._find_losses(student, inputs, draws, taught)
      return total_loss(found.losses, self.config), found

    pose_params = None if state.pose is None else state.pose.params
    (total, found), (gradients, pose_gradients) = jax.value_and_grad(
      loss_function, argnums=(0, 1), has_aux=True
    )(state.params, pose_params)
    with jax.named_scope("optimizer"):
      # Whole on every device until their norm is computed, also where the optimiser's state is
      # split: otherwise the norm would cost a collective for each of them.
      if self.gradient_sharding is not None:
        gradients = jax.lax.with_sharding_constraint(gradients, self.gradient_sharding)
      gradient_norm = optax.tree.norm((gradients, pose_gradients))
    metrics = {**found.losses, "total": total, "gradient_norm": gradient_norm}
    if taught.mixed:
      metrics["confident_fraction"] = taught.mixed["confident_fraction"].mean()
    if found.maps.get("depth_weight") is not None:
      metrics["depth_weight"] = found.maps["depth_weight"].mean()
    state = state.replace(batch_stats=found.batch_stats, pose=found.pose)
    if self.config.teacher_statistics == "own":
      state = state.replace(teacher_batch_stats=taught.batch_stats)
    with jax.named_scope("optimizer"):
      state = self._update(state, gradients, pose_gradients)
    return state, metrics, taught.mixed | found.maps | {"teacher_outputs": taught.outputs}

  def teach(self, state: TrainState, inputs: Batch, draws: Draws) -> Taught:
    """The teacher labels the target; images are mixed."""
    if not self.config.adapt:
      return Taught({}, state.teacher_batch_stats, {})
    # The scopes name the parts in profiles and counts of operations.
    with jax.named_scope("teacher"):
      outputs, stats = _forward(
        self.model,
        {"params": state.teacher_params, "batch_stats": state.teacher_batch_stats},
        inputs["target_image"],
        by_batch=self.config.teacher_normalization == "batch",
      )
    return Taught(outputs, stats, self.mix(outputs, state.step, inputs, draws))

  def mix(self, outputs: Maps, step: jax.Array, inputs: Batch, draws: Draws) -> Maps:
    """Pastes source classes onto the target, and gives the target the teacher's labels.

    Args:
      outputs: the teacher's predictions on the target, at the output stride.
      step: int32 scalar, number of the step.
      inputs: of `adapt`.
      draws: of `draw`.

    Returns:
      "mask" bool[B, H, W] (True: source), "image" [B, H, W, 3] as network input, augmented, "label"
      int32[B, H, W], "inverse_depth" [B, H, W], "pseudo_label" int32[B, H, W] of the target and its
      "confidence" [B, H, W], "confident_fraction" [B, 1, 1] or, over pixels, [B, H, W].
    """
    config, size = self.config, inputs["source_label"].shape[1:]
    with jax.named_scope("teacher"):
      logits = outputs["S"]
      if "initial_S" in outputs and config.initial_pseudo_label_steps:
        early = step < config.initial_pseudo_label_steps
        logits = jnp.where(early, outputs["initial_S"], logits)
      label, confidence = pseudo_labels.pseudo_labels(resize_aligned(logits, size))
      fraction = pseudo_labels.confident_fraction(
        confidence, threshold=config.confidence_threshold, over=config.confident_fraction_over
      )
    mask = draws["mix_mask"]
    with jax.named_scope("mixed"):
      image = class_mix.mix(mask, inputs["source_image"], inputs["target_image"])
      return {
        "mask": mask,
        "image": augment(image, draws, self.normalization, config.strong_augmentation),
        "label": class_mix.mix(mask, inputs["source_label"].astype(jnp.int32), label),
        "inverse_depth": class_mix.mix(
          mask, inputs["source_inverse_depth"], inputs["target_inverse_depth"]
        ),
        "pseudo_label": label,
        "confidence": confidence,
        "confident_fraction": fraction,
      }

  def weigh(
    self, student: Maps, teacher: Maps, mixed: Maps, inputs: Batch
  ) -> tuple[jax.Array, jax.Array | None]:
    """How much every pixel of the mixed image counts; see `mixed_weights`."""
    return mixed_weights(student, teacher, mixed, inputs["target_inverse_depth"], self.config)

  def _find_losses(self, state: TrainState, inputs: Batch, draws: Draws, taught: Taught) -> _Found:
    """The student's passes and their losses, of the parameters in `state`."""
    mixed, pose = taught.mixed, state.pose

    def upsample(outputs):
      size = inputs["source_label"].shape[1:]
      return {name: resize_aligned(x, size) for name, x in outputs.items()}

    def photometric(domain, outputs, image, mask):
      nonlocal pose
      if self.joint is None or domain not in self.joint.views:
        return {}
      image = self.normalization.to_unit_range(image)
      prediction = Prediction(depth_heads(outputs, domain), image, mask)
      found, pose = self.joint.losses(
        domain, prediction, inputs["scenes"][domain], pose, key=draws["noise"][domain]
      )
      return found

    outputs, mixed_outputs, stats = self._student_passes(
      state, inputs["source_image"], mixed.get("image")
    )
    with jax.named_scope("source"):
      outputs = upsample(outputs)
      losses, maps = source_losses(outputs, inputs, self.config), {"outputs": outputs}
      found = photometric("source", outputs, inputs["source_image"], None)
      losses |= {"photometric_src" + suffix: loss for suffix, loss in found.items()}
    if mixed:
      with jax.named_scope("mixed"):
        outputs = upsample(mixed_outputs)
        weights, depth_weight = self.weigh(outputs, upsample(taught.outputs), mixed, inputs)
        losses |= mixed_losses(outputs, mixed, weights, self.config)
        # The target's depth is predicted where the mixed image shows the target.
        found = photometric("target", outputs, mixed["image"], ~mixed["mask"])
        losses |= {"photometric_mix" + suffix: loss for suffix, loss in found.items()}
      maps = {"pixel_weight": weights, "depth_weight": depth_weight, "outputs": outputs}
    return _Found(losses, stats, pose, maps)

  def _student_passes(
    self, state: TrainState, source: jax.Array, mixed: jax.Array | None
  ) -> tuple[Maps, Maps | None, Any]:
    """Outputs on the source, and on the mixed image if there is one (else None), at the stride.

    Returns:
      Both, and the statistics that first the source has updated, then the mixed image.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    if mixed is not None and self.one_student_pass:
      with jax.named_scope("student"):
        model = self.model.clone(encoder=self.model.encoder.clone(batch_norm_domains=2))
        # In turn, so that every device's share of the batch holds images of both.
        images = jnp.stack([source, mixed], axis=1).reshape(-1, *source.shape[1:])
        outputs, stats = _forward(model, variables, images)
        return *({name: x[first::2] for name, x in outputs.items()} for first in range(2)), stats
    with jax.named_scope("source"):
      outputs, stats = _forward(self.model, variables, source)
    if mixed is None:
      return outputs, None, stats
    with jax.named_scope("mixed"):
      return outputs, *_forward(self.model, variables | {"batch_stats": stats}, mixed)

  def _update(self, state: TrainState, gradients: Any, pose_gradients: Any) -> TrainState:
    """The state after a step: new parameters and, from them, the teacher's."""
    updates, optimizer_state = self.optimizer.update(gradients, state.optimizer_state, state.params)
    params = optax.apply_updates(state.params, updates)

    def average(teacher, student):
      return update_teacher(teacher, student, state.step, self.config.teacher_decay)

    teacher_stats = state.teacher_batch_stats
    if self.config.teacher_statistics == "average":
      teacher_stats = average(teacher_stats, state.batch_stats)
    pose = state.pose
    if pose is not None:
      moves, pose_optimizer_state = self.joint.pose_optimizer.update(
        pose_gradients, pose.optimizer_state, pose.params
      )
      pose = pose.replace(
        params=optax.apply_updates(pose.params, moves), optimizer_state=pose_optimizer_state
      )
    return state.replace(
      step=state.step + 1,
      params=params,
      optimizer_state=optimizer_state,
      teacher_params=average(state.teacher_params, params),
      teacher_batch_stats=teacher_stats,
      pose=pose,
    )


def _forward(
  model: nn.Module, variables: Any, x: jax.Array, *, by_batch: bool = True
) -> tuple[Maps, Any]:
  """Outputs of the network, at least float32, and its updated statistics."""
  outputs, updated = model.apply(variables, x, train=by_batch, mutable=["batch_stats"])
  wide = {k: v.astype(accumulation_dtype(v.dtype)) for k, v in outputs.items()}
  return wide, updated["batch_stats"]
