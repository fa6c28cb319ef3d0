"""A configuration and batches of the depth stage, small enough to compile and run in seconds."""

import ml_collections
import numpy as np

from configs import depth

HEIGHT, WIDTH = 32, 48  # of crops: multiples of the network's stride
FRAME = (35, 50)  # of the frames of evaluation: no multiples
STRIDE = 16


def get_config(views=("right",), **overrides) -> ml_collections.ConfigDict:
  config = depth.get_config()
  for name in ("depth", "pose"):
    encoder = config.model[name].encoder
    encoder.stage_sizes = (1, 1, 1)
    encoder.strides = (1, 2, 2)
    encoder.dilations = (1, 1, 1)
    encoder.block = "basic"
    encoder.expansion = 1
    encoder.width = 4
    encoder.stem_kernel = 3
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
      "data.target.height": FRAME[0],
      "data.target.width": FRAME[1],
      "data.target.views": tuple(views),
      "data.target.depth": "official",
      "model.depth.widths": (4, 4, 4, 4),
      "model.pose.decoder_width": 4,
      "optimizer.learning_rate": 1e-3,
      "optimizer.decay_at": (3,),
    }
  )
  config.update_from_flattened_dict(overrides)
  return config


def get_scene(seed: int = 0, size: int = 4, height: int = HEIGHT, width: int = WIDTH):
  """Images and their views, which are the images moved and noisy, with cameras of their own."""
  random = np.random.RandomState(seed)
  image = random.randint(0, 210, (size, height // 2 + 1, width // 2 + 1, 3))
  image = image.repeat(2, 1).repeat(2, 2)[:, :height, :width]

  def seen(shift):
    return (np.roll(image, shift, 2) + random.randint(0, 40, image.shape)).astype(np.uint8)

  shares = random.uniform([0.6, 0.8, 0.3, 0.3], [0.9, 1.2, 0.7, 0.7], (size, 4))
  return {
    "image": seen(0),
    "right_image": seen(-2),
    "previous_image": seen(1),
    "next_image": seen(-1),
    "intrinsics": (shares * [width, height, width, height]).astype(np.float32),
    "baseline": random.uniform(0.2, 0.4, size).astype(np.float32),
  }


def get_batch(seed: int = 0, size: int = 4) -> dict[str, np.ndarray]:
  """A host batch, with a text that no device takes."""
  batch = {f"target_{name}": value for name, value in get_scene(seed, size).items()}
  return batch | {"target_name": np.array([f"frame{i}" for i in range(size)])}


def train_batches(start_step: int):
  """Endless host batches from `start_step` on."""
  step = start_step
  while True:
    yield get_batch(step)
    step += 1


def evaluation_batches():
  """Two host batches, the second filled up with a frame that must not count; one has no truth."""
  for number, seed in enumerate((100, 101)):
    batch = get_scene(seed, 4, *FRAME)
    random = np.random.RandomState(seed)
    inverse = 655.36 / random.uniform(2, 120, (4, *FRAME))  # some are too far to be measured
    inverse = np.where(random.uniform(size=inverse.shape) < 0.3, 1, inverse)
    inverse[2 * number] = 1 if number else inverse[0]
    valid = np.ones(4, bool)
    valid[3] = number == 0
    batch |= {"inverse_depth": inverse.astype(np.float32), "valid": valid}
    yield batch | {"name": np.array([f"city/frame{number}_{i}" for i in range(4)])}
