"""One training step: source, teacher, mixed image, update.

CorDA (Wang et al., ICCV 2021) on top of DACS (Tranheden et al., WACV 2021). Everything is pure;
what is random is drawn by `draw` from the key and the step's number, and used by `adapt`, so that
tests can give the draws.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Sharding

from corda_jax.adaptation import class_mix, pseudo_labels
from corda_jax.adaptation.draws import augment, draw
from corda_jax.adaptation.joint_depth import JointDepth, domain_losses, scenes
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
from corda_jax.training.state import TrainState, skip_unless_finite, update_teacher

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Maps = dict[str, jax.Array]


def mix_domains(
  outputs: Maps,
  step: jax.Array,
  inputs: Batch,
  draws: Mapping[str, Any],
  normalization: Normalization,
  config: Any,
) -> Maps:
  """Pastes source classes onto the target, and gives the target the teacher's labels.

  Args:
    outputs: the teacher's predictions on the target, at the output stride.
    step: int32 scalar, number of the step.
    inputs: of `adapt`.
    draws: of `draw`.
    normalization: between network inputs and colours.
    config: the `method` part of a configuration.

  Returns:
    "mask" bool[B, H, W] (True: source), "image" [B, H, W, 3] as network input, augmented, "label"
    int32[B, H, W], "inverse_depth" [B, H, W], "pseudo_label" int32[B, H, W] of the target and its
    "confidence" [B, H, W], "confident_fraction" [B, 1, 1] or, over pixels, [B, H, W].
  """
  size = inputs["source_label"].shape[1:]
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
      "image": augment(image, draws, normalization, config.strong_augmentation),
      "label": class_mix.mix(mask, inputs["source_label"].astype(jnp.int32), label),
      "inverse_depth": class_mix.mix(
        mask, inputs["source_inverse_depth"], inputs["target_inverse_depth"]
      ),
      "pseudo_label": label,
      "confidence": confidence,
      "confident_fraction": fraction,
    }


def make_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  normalization: Normalization,
  config: Any,
  num_classes: int,
  joint: JointDepth | None = None,
  one_student_pass: bool = False,
  gradient_sharding: Sharding | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
  """Builds the pure function of one step.

  Args:
    model: network whose outputs are named as those of `Corda`.
    optimizer: of `build_optimizer`.
    normalization: from uint8 images to network input.
    config: the `method` part of a configuration.
    num_classes: semantic classes.
    joint: the photometric part of the step, if a domain has such supervision.
    one_student_pass: of `adapt`.
    gradient_sharding: of `adapt`.

  Returns:
    step(state, batch, key) → (state, metrics). `batch` holds "source_image", "target_image" uint8
    RGB [B, H, W, 3], "source_label" uint8 [B, H, W], "source_inverse_depth" and
    "target_inverse_depth" float [B, H, W], and what `scenes` reads. Metrics are scalars. A step
    whose loss or gradients are not finite changes nothing but the count of steps.
  """

  def step(state, batch, key):
    inputs, draws = _prepare(state, batch, key, normalization, config, num_classes, joint)
    after, metrics, _ = adapt(
      state, inputs, draws, model, optimizer, normalization, config, joint, one_student_pass,
      gradient_sharding,
    )  # fmt: skip
    with jax.named_scope("optimizer"):  # the compiler makes one of this choice and of the update
      return skip_unless_finite(state, after, metrics)

  return step


def make_maps(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  normalization: Normalization,
  config: Any,
  num_classes: int,
  joint: JointDepth | None = None,
) -> Callable[[TrainState, Batch, jax.Array], Maps]:
  """Builds the pure function of what a step sees; arguments are those of `make_step`.

  Returns:
    maps(state, batch, key) → "prediction" uint8[B, H, W] of the student on the mixed image (without
    adaptation: on the source's) and, with depth heads, "inverse_depth", "source_inverse_depth" (by
    the target's and by the source's head) and "difficulty" [B, H, W], see `difficulty`; with
    adaptation "image" [B, H, W, 3], RGB 0..1, mixed and augmented, "label" uint8[B, H, W], mixed of
    the source's labels and the pseudo-labels, "mask" bool[B, H, W] (True: source), "pseudo_label"
    uint8[B, H, W], all of them, with the teacher's "confidence" [B, H, W], 0..1, "pixel_weight"
    [B, H, W] and, with depth heads, the teacher's on the target, "teacher_inverse_depth" and
    "teacher_source_inverse_depth" [B, H, W].
  """

  def maps(state, batch, key):
    inputs, draws = _prepare(state, batch, key, normalization, config, num_classes, joint)
    # What only the update needs is never computed: nothing asks for it.
    found = adapt(state, inputs, draws, model, optimizer, normalization, config, joint)[2]
    outputs = found["outputs"]
    shown = {"prediction": outputs["S"].argmax(-1).astype(jnp.uint8)}
    if "D" in outputs:
      target, source = outputs["D"][..., 0], outputs["D_src"][..., 0]
      shown |= {"inverse_depth": target, "source_inverse_depth": source}
      shown["difficulty"] = pseudo_labels.difficulty(source, target)
    if "image" in found:
      image = normalization.to_unit_range(found["image"])
      shown["image"] = image[..., ::-1] if normalization.bgr else image
      shown |= {name: found[name].astype(jnp.uint8) for name in ("label", "pseudo_label")}
      shown |= {name: found[name] for name in ("mask", "confidence")}
      shown["pixel_weight"] = jnp.broadcast_to(found["pixel_weight"], found["label"].shape)
      teacher = found["teacher_outputs"]
      for head, name in (("D", "inverse_depth"), ("D_src", "source_inverse_depth")):
        if head in teacher:
          depth = resize_aligned(teacher[head], found["label"].shape[1:])
          shown[f"teacher_{name}"] = depth[..., 0]
    return shown

  return maps


def make_losses(
  model: nn.Module,
  normalization: Normalization,
  config: Any,
  num_classes: int,
  joint: JointDepth | None = None,
) -> Callable[[Any, TrainState, Batch, jax.Array], Metrics]:
  """Builds the pure function of what a step minimises; arguments are those of `make_step`.

  Returns:
    losses(params, state, batch, key) → the losses by name, as they are added: scalars whose sum is
    the step's "total", of the student's `params` and, for all else, of the state.
  """

  def losses(params, state, batch, key):
    inputs, draws = _prepare(state, batch, key, normalization, config, num_classes, joint)
    teacher_outputs, _, mixed = _teach(state, inputs, draws, model, normalization, config)
    found = _losses(
      params, None if state.pose is None else state.pose.params, state, inputs, draws, mixed,
      teacher_outputs, model, normalization, config, joint, one_student_pass=False,
    )[1][0]  # fmt: skip
    return weighted_losses(found, config)

  return losses


def _prepare(state, batch, key, normalization, config, num_classes, joint):
  """Inputs and draws of `adapt`."""
  wide = accumulation_dtype(jax.tree.leaves(state.params)[0].dtype)
  inputs = dict(batch)
  for domain in ("source", "target"):
    inputs[f"{domain}_image"] = normalization.normalize(batch[f"{domain}_image"], wide)
    inputs[f"{domain}_inverse_depth"] = batch[f"{domain}_inverse_depth"].astype(wide)
  inputs["scenes"] = {} if joint is None else scenes(batch, joint, wide)
  draws = draw(jax.random.fold_in(key, state.step), batch["source_label"], num_classes, config)
  return inputs, draws


def adapt(
  state: TrainState,
  inputs: Batch,
  draws: Mapping[str, Any],
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  normalization: Normalization,
  config: Any,
  joint: JointDepth | None = None,
  one_student_pass: bool = False,
  gradient_sharding: Sharding | None = None,
) -> tuple[TrainState, Metrics, Maps]:
  """The arithmetic of a step: `inputs` with images as network input, random choices given.

  Args:
    state: before the step.
    inputs: the batch of `make_step`, but images as network input, inverse depths of the type of the
      statistics, and "scenes", of `scenes`.
    draws: of `draw`.
    model: of `make_step`.
    optimizer: of `make_step`.
    normalization: of `make_step`.
    config: of `make_step`.
    joint: of `make_step`.
    one_student_pass: whether the student sees source and mixed images as one batch, each still
      normalised by its own statistics, and not one after the other. The results are the same.
    gradient_sharding: of the parameters over the devices, and so of their gradients; None, on one
      device, leaves it to the compiler.

  Returns:
    The next state, scalar metrics, and maps: "outputs", the student's predictions by name on the
    mixed image, at its size, "teacher_outputs", the teacher's on the target at the output stride,
    those of `mix_domains`, "pixel_weight" and, where there is one, "depth_weight". Without
    adaptation "outputs" are of the source image, and the teacher has none.
  """
  teacher_outputs, teacher_stats, mixed = _teach(state, inputs, draws, model, normalization, config)

  def loss_function(params, pose_params):
    return _losses(
      params, pose_params, state, inputs, draws, mixed, teacher_outputs, model, normalization,
      config, joint, one_student_pass,
    )  # fmt: skip

  pose_params = None if state.pose is None else state.pose.params
  (total, (losses, stats, pose, weighing)), (gradients, pose_gradients) = jax.value_and_grad(
    loss_function, argnums=(0, 1), has_aux=True
  )(state.params, pose_params)
  with jax.named_scope("optimizer"):
    # Whole on every device until their norm is computed, also where the optimiser's state is split:
    # otherwise the norm would cost a collective for each of them.
    if gradient_sharding is not None:
      gradients = jax.lax.with_sharding_constraint(gradients, gradient_sharding)
    gradient_norm = optax.tree.norm((gradients, pose_gradients))
  metrics = {**losses, "total": total, "gradient_norm": gradient_norm}
  if mixed:
    metrics["confident_fraction"] = mixed["confident_fraction"].mean()
  if weighing.get("depth_weight") is not None:
    metrics["depth_weight"] = weighing["depth_weight"].mean()
  state = state.replace(batch_stats=stats, pose=pose)
  if config.teacher_statistics == "own":
    state = state.replace(teacher_batch_stats=teacher_stats)
  with jax.named_scope("optimizer"):
    state = _update(state, gradients, pose_gradients, optimizer, config, joint)
  return state, metrics, mixed | weighing | {"teacher_outputs": teacher_outputs}


def _teach(state, inputs, draws, model, normalization, config):
  """The teacher's outputs and statistics, and what `mix_domains` makes of them."""
  if not config.adapt:
    return {}, state.teacher_batch_stats, {}
  # The scopes name the parts in profiles and counts of operations.
  with jax.named_scope("teacher"):
    outputs, stats = _forward(
      model,
      state.teacher_params,
      state.teacher_batch_stats,
      inputs["target_image"],
      by_batch=config.teacher_normalization == "batch",
    )
  return outputs, stats, mix_domains(outputs, state.step, inputs, draws, normalization, config)


def _update(state, gradients, pose_gradients, optimizer, config, joint):
  """The state after a step: new parameters and, from them, the teacher's."""
  updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
  params = optax.apply_updates(state.params, updates)

  def average(teacher, student):
    return update_teacher(teacher, student, state.step, config.teacher_decay)

  teacher_stats = state.teacher_batch_stats
  if config.teacher_statistics == "average":
    teacher_stats = average(teacher_stats, state.batch_stats)
  pose = state.pose
  if pose is not None:
    moves, pose_optimizer_state = joint.pose_optimizer.update(
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


def _forward(model, params, batch_stats, x, *, by_batch=True):
  """Outputs of the network, at least float32, and its updated statistics."""
  variables = {"params": params, "batch_stats": batch_stats}
  outputs, updated = model.apply(variables, x, train=by_batch, mutable=["batch_stats"])
  wide = {k: v.astype(accumulation_dtype(v.dtype)) for k, v in outputs.items()}
  return wide, updated["batch_stats"]


def _student_forward(model, params, batch_stats, source, mixed, one_pass):
  """`_forward` of the source, and of the mixed image if there is one (else None).

  Returns:
    The two outputs, and the statistics that first the source has updated, then the mixed image.
  """
  if mixed is not None and one_pass:
    with jax.named_scope("student"):
      model = model.clone(encoder=model.encoder.clone(batch_norm_domains=2))
      # In turn, so that every device's share of the batch holds images of both.
      images = jnp.stack([source, mixed], axis=1).reshape(-1, *source.shape[1:])
      outputs, stats = _forward(model, params, batch_stats, images)
      return *({name: x[first::2] for name, x in outputs.items()} for first in range(2)), stats
  with jax.named_scope("source"):
    outputs, stats = _forward(model, params, batch_stats, source)
  if mixed is None:
    return outputs, None, stats
  with jax.named_scope("mixed"):
    return outputs, *_forward(model, params, stats, mixed)


def _losses(
  params, pose_params, state, inputs, draws, mixed, teacher_outputs, model, normalization, config,
  joint, one_student_pass,
):  # fmt: skip
  """The student's passes: total loss; all losses, statistics, pose state, and how pixels weigh."""

  def upsample(outputs):
    size = inputs["source_label"].shape[1:]
    return {name: resize_aligned(x, size) for name, x in outputs.items()}

  def photometric(domain, outputs, image, mask, pose):
    # Other domains pass through with no loss.
    return domain_losses(
      domain,
      depth_heads(outputs, domain),
      inputs.get("scenes", {}).get(domain),
      normalization.to_unit_range(image),
      mask,
      joint,
      pose,
      pose_params,
      config.photometric,
      draws["noise"][domain],
    )

  outputs, mixed_outputs, stats = _student_forward(
    model, params, state.batch_stats, inputs["source_image"], mixed.get("image"), one_student_pass
  )
  with jax.named_scope("source"):
    outputs = upsample(outputs)
    losses, weighing = source_losses(outputs, inputs, config), {"outputs": outputs}
    found, pose = photometric("source", outputs, inputs["source_image"], None, state.pose)
    losses |= {"photometric_src" + suffix: loss for suffix, loss in found.items()}
  if mixed:
    with jax.named_scope("mixed"):
      outputs = upsample(mixed_outputs)
      weights, depth_weight = mixed_weights(
        outputs, upsample(teacher_outputs), mixed, inputs["target_inverse_depth"], config
      )
      losses |= mixed_losses(outputs, mixed, weights, config)
      # The target's depth is predicted where the mixed image shows the target.
      found, pose = photometric("target", outputs, mixed["image"], ~mixed["mask"], pose)
      losses |= {"photometric_mix" + suffix: loss for suffix, loss in found.items()}
    weighing = {"pixel_weight": weights, "depth_weight": depth_weight, "outputs": outputs}
  return total_loss(losses, config), (losses, stats, pose, weighing)
