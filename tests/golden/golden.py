"""Inputs and weights behind the reference values in this folder, rebuilt from names and seeds.

Nothing large is stored: a tensor's values follow from its name. Everything is float64, so a float64
run of an implementation can be compared tightly (relative error near 1e-6), a float32 run loosely.
"""

import zlib

import numpy as np

IMAGE_MEAN_BGR = np.array((104.00698793, 116.66876762, 122.67891434))
IGNORE = 255


def standard_normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Float64 normal draws that depend on `name` alone."""
  random = np.random.RandomState(zlib.crc32(name.encode()))
  return random.standard_normal(shape if shape else (1,)).reshape(shape)


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Value of the tensor `name` of a state dict.

  Names and layouts are PyTorch's: convolutions are O, I, H, W.
  """
  x = standard_normal(name, shape)
  leaf = name.rsplit(".", 1)[1]
  if leaf == "running_mean":
    x = 0.1 * x
  elif leaf == "running_var":
    x = np.exp(0.2 * x)
  elif len(shape) == 4:
    x = x * np.sqrt(2.0 / np.prod(shape[1:]))
  elif leaf == "weight":  # batch-norm scale
    x = 1 + 0.1 * x
  else:  # bias
    x = 0.1 * x
  # Louder semantic classifiers, so that some pixels pass the confidence threshold.
  return 4 * x if "heads.S." in name or "conv_out.S." in name else x


def probe(name: str, value: np.ndarray) -> float:
  """Inner product with fixed random numbers: notices any change of `value`, or of its layout."""
  return float((value * standard_normal("probe:" + name, value.shape)).sum())


def forward_image(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
  """(B, H, W, 3) network input of the `eval/*` and `train/*` outputs and of `final_eval/S`."""
  return np.random.RandomState(seed + 1000).uniform(-110, 140, (*shape, 3))


def step_batch(seed: int, shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
  """Batch of step i of a file: call with `seed + i`.

  Images are BGR minus the mean, inverse depth is 1 where invalid.
  """
  batch, height, width = shape
  random = np.random.RandomState(seed)

  def image():
    return random.uniform(0, 255, (batch, height, width, 3)) - IMAGE_MEAN_BGR

  def label():
    coarse = random.randint(0, 20, (batch, -(-height // 12), -(-width // 12)))
    fine = coarse.repeat(12, axis=1).repeat(12, axis=2)[:, :height, :width]
    return np.where(fine == 19, IGNORE, fine)

  def inverse_depth():
    y = random.uniform(1.2, 12.0, (batch, height, width))
    y[random.uniform(size=y.shape) < 0.15] = 1.0
    return y

  out = dict(
    source_image=image(),
    source_label=label(),
    source_inverse_depth=inverse_depth(),
    target_image=image(),
    target_inverse_depth=inverse_depth(),
  )
  masks = []
  for labels in out["source_label"]:
    classes = np.unique(labels)
    chosen = random.choice(classes, (len(classes) + 1) // 2, replace=False)
    masks.append(np.isin(labels, chosen))
  out["mix_mask"] = np.stack(masks)  # True where the mixed image shows the source
  return out
