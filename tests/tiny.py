"""A configuration and a batch small enough to compile and run in seconds."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from configs import default

HEIGHT, WIDTH = 17, 25


def get_config(*, adapt: bool = True, **overrides) -> ml_collections.ConfigDict:
  config = default.get_config()
  if not adapt:
    del config.terms.mixed
  config.update_from_flattened_dict(
    {
      "num_steps": 4,
      "log_every": 1,
      "evaluate_every": 2,
      "checkpoint_every": 2,
      "draw_every": 0,
      "evaluation.pictures": 0,
      "data.batch_size": 4,
      "data.evaluation_batch_size": 4,
      "data.crop_height": HEIGHT,
      "data.crop_width": WIDTH,
      "model.kernel_init": "he_normal",
      "model.encoder.stage_sizes": (1, 1),
      "model.encoder.strides": (1, 2),
      "model.encoder.dilations": (1, 2),
      "model.encoder.width": 4,
      "model.encoder.expansion": 2,
      "model.encoder.stem_kernel": 3,
      "model.encoder.stem_pool": False,
      "model.encoder.trainable_affine": True,
      "model.decoder.width": 4,
      "model.decoder.dilations": (1, 2),
      "model.normalization.std": (60.0, 60.0, 60.0),
      "teacher.confidence_threshold": 0.07,
      "optimizer.learning_rate": 0.01,
    }
  )
  config.update_from_flattened_dict(overrides)
  return config


def get_batch(seed: int = 0, size: int = 4) -> dict[str, np.ndarray]:
  """A host batch of `size` pairs, with ignored pixels and pixels without depth."""
  random = np.random.RandomState(seed)
  shape = (size, HEIGHT, WIDTH)

  def image():
    return random.randint(0, 256, (*shape, 3)).astype(np.uint8)

  def label():
    values = random.randint(0, 20, (size, 3, 4)).repeat(8, 1).repeat(8, 2)[:, :HEIGHT, :WIDTH]
    return np.where(values == 19, 255, values).astype(np.uint8)

  def inverse_depth():
    values = random.uniform(1.5, 20, shape)
    return np.where(random.uniform(size=shape) < 0.1, 1, values).astype(np.float32)

  return {
    "source_image": image(),
    "source_label": label(),
    "source_inverse_depth": inverse_depth(),
    "target_image": image(),
    "target_label": label(),
    "target_inverse_depth": inverse_depth(),
  }


def train_batches(start_step: int, size: int = 4):
  """Endless host batches from `start_step` on, as the real pipeline gives them."""
  step = start_step
  while True:
    yield get_batch(step, size)
    step += 1


def evaluation_batches():
  """Two host batches; the second is filled up with a frame that must not count."""
  for seed in (100, 101):
    batch = get_batch(seed)
    valid = np.ones(4, bool)
    valid[3] = seed == 100
    yield {"image": batch["target_image"], "label": batch["target_label"], "valid": valid}


def prepared_step(task, batch):
  """Inputs and draws of a step without augmentation, and the jitted step(state, inputs, draws)."""
  step = dataclasses.replace(task.step, gradient_sharding=None)
  arrays = {name: jnp.asarray(value) for name, value in batch.items()}
  inputs, draws = step.prepare(
    task.initial_state(), arrays, jax.random.key(1)
  )  # pastes ignored pixels
  draws |= {"use_jitter": jnp.asarray(False), "use_blur": jnp.asarray(False)}
  return inputs, draws, jax.jit(step.adapt)


# Overrides of a configuration: the network of DACS, and no adaptation.
PLAIN = {
  "model.initial_semantics_from": "none",
  "model.decoder.width": 0,
  "model.depth": False,
  "model.correlation": False,
}


def turn_a_bit(folder):
  """Damages the largest file in a folder, as a failing disk does: its size stays."""
  largest = max(folder.rglob("*"), key=lambda path: path.stat().st_size)
  contents = bytearray(largest.read_bytes())
  contents[len(contents) // 2] ^= 1
  largest.write_bytes(contents)
