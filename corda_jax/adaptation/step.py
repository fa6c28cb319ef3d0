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

from corda_jax.adaptation import class_mix, pseudo_labels, strong_augmentation
from corda_jax.losses import berhu, cross_entropy, weighted_cross_entropy
from corda_jax.models.build import Normalization
from corda_jax.models.layers import accumulation_dtype
from corda_jax.resize import resize_aligned
from corda_jax.training.state import TrainState, update_teacher

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

# Depth outputs of the network, trained on the target and on the source, by the losses' suffix.
_DEPTH_HEADS = {"": ("D", "D_src"), "_initial": ("initial_D", "initial_D_src")}
_SEMANTIC_HEADS = {"": "S", "_initial": "initial_S"}


def draw(key: jax.Array, source_label: jax.Array, num_classes: int, config: Any) -> dict[str, Any]:
  """Draws everything that is random in a step.

  Args:
    key: PRNG key of this step.
    source_label: integers [B, H, W].
    num_classes: semantic classes.
    config: the `method` part of a configuration.

  Returns:
    "mix_mask" bool[B, H, W] (True: source), "use_jitter" and "use_blur" bool scalars, "jitter" as
    of `draw_jitter`, "blur_sigma" float32[B].
  """
  keys = jax.random.split(key, 5)
  batch = source_label.shape[0]
  present = class_mix.present_classes(source_label, num_classes)
  chosen = class_mix.draw_classes(keys[0], present)
  augmentation = config.strong_augmentation
  return {
    "mix_mask": class_mix.mix_mask(source_label, chosen),
    "use_jitter": jax.random.bernoulli(keys[1], augmentation.jitter_probability),
    "jitter": strong_augmentation.draw_jitter(
      keys[2], batch, strength=augmentation.jitter_strength
    ),
    "use_blur": jax.random.bernoulli(keys[3], augmentation.blur_probability),
    "blur_sigma": strong_augmentation.draw_blur(
      keys[4], batch, sigma_range=tuple(augmentation.blur_sigma)
    ),
  }


def augment(x: jax.Array, draws: Mapping[str, Any], normalization: Normalization) -> jax.Array:
  """Applies the drawn jitter and blur to network inputs [B, H, W, 3]."""

  def jitter(x):
    unit = normalization.to_unit_range(x)
    return normalization.from_unit_range(strong_augmentation.color_jitter(unit, draws["jitter"]))

  def blur(x):
    return strong_augmentation.gaussian_blur(x, draws["blur_sigma"])

  x = jax.lax.cond(draws["use_jitter"], jitter, lambda x: x, x)
  return jax.lax.cond(draws["use_blur"], blur, lambda x: x, x)


def source_losses(outputs: Batch, batch: Batch) -> Metrics:
  """Supervised losses on the source: "ce_src", "berhu_src" and those of the initial predictions."""
  losses = {}
  for suffix, head in _SEMANTIC_HEADS.items():
    if head in outputs:
      losses["ce_src" + suffix] = cross_entropy(outputs[head], batch["source_label"])
  for suffix, (_, source_head) in _DEPTH_HEADS.items():
    if source_head in outputs:
      losses["berhu_src" + suffix] = berhu(
        outputs[source_head][..., 0], batch["source_inverse_depth"]
      )
  return losses


def mixed_losses(
  outputs: Batch,
  mask: jax.Array,
  label: jax.Array,
  inverse_depth: jax.Array,
  confident_fraction: jax.Array,
  config: Any,
) -> Metrics:
  """Losses on the mixed image: "ce_mix", "berhu_mix" and those of the initial predictions.

  Args:
    outputs: predictions at the label's size.
    mask: bool[B, H, W], True where the image shows the source.
    label: [B, H, W], source labels and pseudo-labels.
    inverse_depth: [B, H, W], of both domains, 1 where unknown.
    confident_fraction: scalar, share of confident target pixels.
    config: the `method` part of a configuration.
  """
  depth_weight = None
  if config.depth_weight.enabled and "D" in outputs:
    depth_weight = pseudo_labels.depth_discrepancy_weight(
      outputs["D_src"][..., 0],
      outputs["D"][..., 0],
      inverse_depth,
      floor=config.depth_weight.floor,
    )
  weights = pseudo_labels.pixel_weights(
    mask,
    confident_fraction,
    depth_weight,
    share_depth_weight_across_batch=config.depth_weight.share_across_batch,
  )
  losses = {}
  for suffix, head in _SEMANTIC_HEADS.items():
    if head in outputs:
      losses["ce_mix" + suffix] = weighted_cross_entropy(outputs[head], label, weights)
  for suffix, (target_head, source_head) in _DEPTH_HEADS.items():
    if target_head in outputs:
      prediction = class_mix.mix(mask, outputs[source_head][..., 0], outputs[target_head][..., 0])
      losses["berhu_mix" + suffix] = berhu(prediction, inverse_depth)
  return losses


def total_loss(losses: Metrics, config: Any) -> jax.Array:
  """Weighted sum of the losses; depth losses weigh little, and differently on the two images."""
  factors = {
    "ce_src": 1.0,
    "ce_mix": 1.0,
    "berhu_src": config.source_depth_loss_weight,
    "berhu_mix": config.mixed_depth_loss_weight,
  }
  return sum(factors[name.removesuffix("_initial")] * losses[name] for name in sorted(losses))


def make_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  normalization: Normalization,
  config: Any,
  num_classes: int,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
  """Builds the pure function of one step.

  Args:
    model: network whose outputs are named as those of `Corda`.
    optimizer: of `build_optimizer`.
    normalization: from uint8 images to network input.
    config: the `method` part of a configuration.
    num_classes: semantic classes.

  Returns:
    step(state, batch, key) → (state, metrics). `batch` holds "source_image", "target_image" uint8
    RGB [B, H, W, 3], "source_label" uint8 [B, H, W], "source_inverse_depth" and
    "target_inverse_depth" float [B, H, W]. Metrics are scalars.
  """

  def step(state, batch, key):
    wide = accumulation_dtype(jax.tree.leaves(state.params)[0].dtype)
    inputs = dict(batch)
    for domain in ("source", "target"):
      inputs[f"{domain}_image"] = normalization.normalize(batch[f"{domain}_image"], wide)
      inputs[f"{domain}_inverse_depth"] = batch[f"{domain}_inverse_depth"].astype(wide)
    draws = draw(jax.random.fold_in(key, state.step), batch["source_label"], num_classes, config)
    return adapt(state, inputs, draws, model, optimizer, normalization, config)

  return step


def adapt(
  state: TrainState,
  inputs: Batch,
  draws: Mapping[str, Any],
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  normalization: Normalization,
  config: Any,
) -> tuple[TrainState, Metrics]:
  """The arithmetic of a step: `inputs` with images as network input, random choices given."""
  size = inputs["source_label"].shape[1:]

  def forward(params, batch_stats, x):
    variables = {"params": params, "batch_stats": batch_stats}
    outputs, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
    wide = {k: v.astype(accumulation_dtype(v.dtype)) for k, v in outputs.items()}
    return wide, updated["batch_stats"]

  def upsample(outputs):
    return {name: resize_aligned(x, size) for name, x in outputs.items()}

  teacher_stats, mixed = state.teacher_batch_stats, None
  if config.adapt:
    outputs, teacher_stats = forward(
      state.teacher_params, state.teacher_batch_stats, inputs["target_image"]
    )
    logits = outputs["S"]
    if "initial_S" in outputs and config.initial_pseudo_label_steps:
      early = state.step < config.initial_pseudo_label_steps
      logits = jnp.where(early, outputs["initial_S"], logits)
    pseudo_label, confident = pseudo_labels.pseudo_labels(
      resize_aligned(logits, size), threshold=config.confidence_threshold
    )
    mask = draws["mix_mask"]
    mixed = {
      "image": class_mix.mix(mask, inputs["source_image"], inputs["target_image"]),
      "label": class_mix.mix(mask, inputs["source_label"].astype(jnp.int32), pseudo_label),
      "inverse_depth": class_mix.mix(
        mask, inputs["source_inverse_depth"], inputs["target_inverse_depth"]
      ),
    }
    mixed["image"] = augment(mixed["image"], draws, normalization)

  def loss_function(params):
    outputs, stats = forward(params, state.batch_stats, inputs["source_image"])
    losses = source_losses(upsample(outputs), inputs)
    if mixed is not None:
      outputs, stats = forward(params, stats, mixed["image"])
      losses |= mixed_losses(
        upsample(outputs), mask, mixed["label"], mixed["inverse_depth"], confident, config
      )
    return total_loss(losses, config), (losses, stats)

  (total, (losses, stats)), gradients = jax.value_and_grad(loss_function, has_aux=True)(
    state.params
  )
  updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics = {**losses, "total": total, "gradient_norm": optax.tree.norm(gradients)}
  if mixed is not None:
    metrics |= {"confident_fraction": confident}
  state = state.replace(
    step=state.step + 1,
    params=params,
    batch_stats=stats,
    optimizer_state=optimizer_state,
    teacher_params=update_teacher(state.teacher_params, params, state.step, config.teacher_decay),
    teacher_batch_stats=teacher_stats,
  )
  return state, metrics
