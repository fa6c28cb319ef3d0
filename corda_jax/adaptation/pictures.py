"""What a training step makes of its batch, for pictures."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from corda_jax.adaptation import pseudo_labels
from corda_jax.adaptation.step import AdaptationStep
from corda_jax.resize import resize
from corda_jax.training.state import TrainState


def step_maps(
  step: AdaptationStep, state: TrainState, batch: Mapping[str, jax.Array], key: jax.Array
) -> dict[str, jax.Array]:
  """What a step sees.

  Returns:
    "prediction" uint8[B, H, W] of the student on the mixed image (without adaptation: on the
    source's) and, with depth heads, "inverse_depth", "source_inverse_depth" (by the target's and
    by the source's head) and "difficulty" [B, H, W], see `difficulty`; with adaptation "image"
    [B, H, W, 3], RGB 0..1, mixed and augmented, "label" uint8[B, H, W], mixed of the source's
    labels and the pseudo-labels, "mask" bool[B, H, W] (True: source), "pseudo_label"
    uint8[B, H, W], all of them, with the teacher's "confidence" [B, H, W], 0..1, "pixel_weight"
    [B, H, W], with a masked pass "masked_image" [B, H, W, 3], RGB 0..1, and, with depth heads, the
    teacher's on the target, "teacher_inverse_depth" and "teacher_source_inverse_depth" [B, H, W].
  """
  inputs, draws = step.prepare(state, batch, key)
  # What only the update needs is never computed: nothing asks for it.
  found = step.adapt(state, inputs, draws)[2]
  outputs = found["outputs"]
  shown = {"prediction": outputs["S"].argmax(-1).astype(jnp.uint8)}
  if "D" in outputs:
    target, source = outputs["D"][..., 0], outputs["D_src"][..., 0]
    shown |= {"inverse_depth": target, "source_inverse_depth": source}
    shown["difficulty"] = pseudo_labels.difficulty(source, target)
  for name in {"image", "masked_image"} & found.keys():
    image = step.normalization.to_unit_range(found[name][..., :3])
    shown[name] = image[..., ::-1] if step.normalization.bgr else image
  if "image" in found:
    shown |= {name: found[name].astype(jnp.uint8) for name in ("label", "pseudo_label")}
    shown |= {name: found[name] for name in ("mask", "confidence")}
    shown["pixel_weight"] = jnp.broadcast_to(found["pixel_weight"], found["label"].shape)
    teacher = found["teacher_outputs"]
    for head, name in (("D", "inverse_depth"), ("D_src", "source_inverse_depth")):
      if head in teacher:
        size = found["label"].shape[1:]
        depth = resize(teacher[head], size, step.model.resize_outputs)
        shown[f"teacher_{name}"] = depth[..., 0]
  return shown
