"""Inputs and weights behind the DAFormer, HRDA and MIC reference values, rebuilt from names and seeds.

NumPy alone. `standard_normal`, `probe` and the rule of `parameter` are those of `golden.py`; added are a rule for
matrices (linear layers, which CorDA's networks have none of), louder classifiers, batches and all random choices.
Everything is float64. Arrays are NHWC, parameters keep PyTorch's names and layouts.
"""

import zlib

import numpy as np

MEAN_RGB = np.array((123.675, 116.28, 103.53))
STD_RGB = np.array((58.395, 57.12, 57.375))
IGNORE = 255


def _random(name: str) -> np.random.RandomState:
  return np.random.RandomState(zlib.crc32(name.encode()))


def standard_normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Float64 normal draws that depend on `name` alone (as in `golden.py`)."""
  return _random(name).standard_normal(shape if shape else (1,)).reshape(shape)


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Value of the tensor `name` of a state dict; convolutions are O, I, H, W, matrices O, I.

  As `golden.parameter`, but for matrices (there is no rule for them there) and for the classifiers `conv_seg`, which
  are louder, so that some pixels pass the confidence threshold (the scale attention's is not).
  """
  x = standard_normal(name, shape)
  leaf = name.rsplit(".", 1)[1]
  if leaf == "running_mean":
    x = 0.1 * x
  elif leaf == "running_var":
    x = np.exp(0.2 * x)
  elif len(shape) in (2, 4):
    x = x * np.sqrt(2.0 / np.prod(shape[1:]))
  elif leaf == "weight":  # scale of a normalisation
    x = 1 + 0.1 * x
  else:  # bias
    x = 0.1 * x
  loud = name.endswith("conv_seg.weight") and "scale_attention" not in name
  return 4 * x if loud else x


def probe(name: str, value: np.ndarray) -> float:
  """Inner product with fixed random numbers (as in `golden.py`)."""
  return float((value * standard_normal("probe:" + name, value.shape)).sum())


def forward_image(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
  """(B, H, W, 3) network input of all outputs that are not part of a training step."""
  return np.random.RandomState(seed + 1000).uniform(-2.0, 2.5, (*shape, 3))


def keep_path(name: str, branch: str, batch: int, drop_probability: float) -> np.ndarray:
  """Bool[B]: which images keep the branch ("attn" or "mlp") of the block `name`, such as "backbone.block1.0"."""
  u = _random(f"droppath:{name}:{branch}").uniform(size=batch)
  return np.floor(1 - drop_probability + u) > 0


def keep_channel(name: str, batch: int, channels: int, probability: float) -> np.ndarray:
  """Bool[B, C]: channels that the head `name`, such as "decode_head", does not drop before its classifier."""
  return _random(f"dropout2d:{name}").uniform(size=(batch, channels)) >= probability


def step_batch(seed: int, shape: tuple[int, int, int], block: int) -> dict[str, np.ndarray]:
  """Batch of step i of a file: call with `seed + i`.

  Images are RGB, normalised by MEAN_RGB and STD_RGB; labels int64 [B, H, W], 0..18 and 255, constant on squares of
  `block` pixels.
  """
  batch, height, width = shape
  random = np.random.RandomState(seed)

  def image():
    coarse = random.uniform(0, 255, (batch, -(-height // block), -(-width // block), 3))
    smooth = coarse.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width]
    x = 0.5 * smooth + 0.5 * random.uniform(0, 255, (batch, height, width, 3))
    return (x - MEAN_RGB) / STD_RGB

  coarse = random.randint(0, 20, (batch, -(-height // block), -(-width // block)))
  label = coarse.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width]
  return dict(
    source_image=image(), target_image=image(), source_label=np.where(label == 19, IGNORE, label)
  )


def mix_mask(seed: int, labels: np.ndarray) -> np.ndarray:
  """Bool[B, H, W], True where the mixed image shows the source. For step i call with `seed + i`.

  As released, the classes to choose from are those of the whole batch, 255 among them.
  """
  random = np.random.RandomState(seed + 2000)
  masks = []
  for label in labels:
    classes = np.unique(labels)
    chosen = classes[random.choice(len(classes), (len(classes) + 1) // 2, replace=False)]
    masks.append(np.isin(label, chosen))
  return np.stack(masks)


def crop_boxes(
  seed: int, size: tuple[int, int], crop: tuple[int, int], divisible: int, count: int
) -> np.ndarray:
  """Int[count, 4] of (y1, y2, x1, x2): detail crops of the student's passes of a step, in their order.

  For step i call with `seed + i`.
  """
  random = np.random.RandomState(seed + 3000)
  boxes = []
  for _ in range(count):
    y, x = (random.randint(0, (n - c + 1) // divisible) * divisible for n, c in zip(size, crop))
    boxes.append((y, y + crop[0], x, x + crop[1]))
  return np.array(boxes)


def block_uniform(seed: int, shape: tuple[int, int, int], block: int) -> np.ndarray:
  """Draws [B, h, w] behind the mask of MIC: a block is kept where they exceed the ratio. For step i: `seed + i`."""
  batch, height, width = shape
  grid = (batch, round(height / block), round(width / block))
  return np.random.RandomState(seed + 4000).uniform(size=grid)


def valid_mask(shape: tuple[int, int, int], margins: tuple[int, int, int, int]) -> np.ndarray:
  """Uint8[B, H, W]: 0 within the margins (top, bottom, left, right), which differ by image: i + 1 halves of them."""
  batch, height, width = shape
  mask = np.ones(shape, np.uint8)
  for i in range(batch):
    top, bottom, left, right = (m * (i + 1) // 2 for m in margins)
    mask[i, :top] = 0
    mask[i, height - bottom :] = 0
    mask[i, :, :left] = 0
    mask[i, :, width - right :] = 0
  return mask


def jitter(seed: int, images: int, shared: bool) -> dict[str, np.ndarray]:
  """Colour jitter and blur of the mixed images (`shared=False`) or of the masked ones (`shared=True`).

  Factors [4, images]: brightness, contrast, saturation (around 1) and hue (turns); "order" [images, 4] of them (0
  brightness, 1 contrast, 2 saturation, 3 hue) and "sigma" [images] of the blur. Mixed images have each their own order and
  sigma; the masked ones have one of both. For step i call with `seed + i`.
  """
  random = np.random.RandomState(seed + (6000 if shared else 5000))
  factors = random.uniform(-0.2, 0.2, (4, images)) + np.array([[1.0], [1.0], [1.0], [0.0]])
  draws = 1 if shared else images
  order = np.stack([random.permutation(4) for _ in range(draws)])
  sigma = random.uniform(0.15, 1.15, draws)
  repeat = images // draws
  return dict(factors=factors, order=order.repeat(repeat, axis=0), sigma=sigma.repeat(repeat))
