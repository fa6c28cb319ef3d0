"""Weights and inputs behind the reference values of foundation encoders, rebuilt from names and seeds.

Numpy only. Values follow from a tensor's name, as in `golden.py`; the rule is the same for convolutions,
normalisation scales and biases, and is extended by what transformers add: matrices, tokens, layer scales.
Names and layouts are those of the original PyTorch releases; `to_huggingface` gives the files that
the Hugging Face Hub has of the same networks.
"""

import re
import zlib

import numpy as np

_TOKENS = {"cls_token", "pos_embed", "register_tokens", "storage_tokens", "mask_token"}


def standard_normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Float64 normal draws that depend on `name` alone (as in golden.py)."""
  random = np.random.RandomState(zlib.crc32(name.encode()))
  return random.standard_normal(shape if shape else (1,)).reshape(shape)


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Float64 value of the tensor `name` (PyTorch layouts: convolutions O, I, H, W; matrices O, I)."""
  x = standard_normal(name, shape)
  leaf = name.rsplit(".", 1)[-1]
  if leaf in _TOKENS:
    return 0.5 * x
  if leaf == "gamma":  # layer scale
    return 0.5 + 0.1 * x
  if name.endswith("output_conv2.2.weight"):  # a quiet depth, most of it above zero
    return 0.02 * x
  if name.endswith("output_conv2.2.bias"):
    return 0.5 + 0.1 * x
  if leaf == "weight" and len(shape) == 2:
    return x * np.sqrt(1.0 / shape[1])
  if leaf == "running_mean":
    return 0.1 * x
  if leaf == "running_var":
    return np.exp(0.2 * x)
  if len(shape) == 4:
    return x * np.sqrt(2.0 / np.prod(shape[1:]))
  if leaf == "weight":  # normalisation scale
    return 1 + 0.1 * x
  return 0.1 * x  # bias


def tensors(shapes: dict[str, tuple[int, ...]], prefix: str) -> dict[str, np.ndarray]:
  """All tensors of a network: `prefix` enters the seeds, not the names."""
  return {name: parameter(prefix + name, shape) for name, shape in shapes.items()}


def image(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
  """(B, H, W, 3) network input, already normalised."""
  return np.random.RandomState(seed + 1000).uniform(-2.1, 2.6, (*shape, 3))


def features(seed: int, shape: tuple[int, ...]) -> np.ndarray:
  """NHWC input of a decoder alone."""
  return np.random.RandomState(seed + 2000).standard_normal(shape)


def _linear(out: dict, name: str, inputs: int, outputs: int, bias: bool = True) -> None:
  out[f"{name}.weight"] = (outputs, inputs)
  if bias:
    out[f"{name}.bias"] = (outputs,)


def _convolution(
  out: dict, name: str, inputs: int, outputs: int, kernel: int, bias: bool = True
) -> None:
  out[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
  if bias:
    out[f"{name}.bias"] = (outputs,)


def _norm(out: dict, name: str, width: int) -> None:
  out[f"{name}.weight"] = (width,)
  out[f"{name}.bias"] = (width,)


def dinov2_shapes(width, depth, grid, *, patch=14, mlp_ratio=4, registers=0, swiglu=False) -> dict:
  """Name → shape in facebookresearch/dinov2's files. `grid`: patches a side of the position table."""
  out: dict[str, tuple[int, ...]] = {
    "cls_token": (1, 1, width),
    "pos_embed": (1, grid * grid + 1, width),
  }
  if registers:
    out["register_tokens"] = (1, registers, width)
  out["mask_token"] = (1, width)
  _convolution(out, "patch_embed.proj", 3, width, patch)
  for i in range(depth):
    block = f"blocks.{i}"
    _norm(out, f"{block}.norm1", width)
    _linear(out, f"{block}.attn.qkv", width, 3 * width)
    _linear(out, f"{block}.attn.proj", width, width)
    out[f"{block}.ls1.gamma"] = (width,)
    _norm(out, f"{block}.norm2", width)
    if swiglu:
      hidden = (int(int(width * mlp_ratio) * 2 / 3) + 7) // 8 * 8
      _linear(out, f"{block}.mlp.w12", width, 2 * hidden)
      _linear(out, f"{block}.mlp.w3", hidden, width)
    else:
      _linear(out, f"{block}.mlp.fc1", width, int(width * mlp_ratio))
      _linear(out, f"{block}.mlp.fc2", int(width * mlp_ratio), width)
    out[f"{block}.ls2.gamma"] = (width,)
  _norm(out, "norm", width)
  return out


def depth_anything_shapes(width, depth, grid, *, features, out_channels, **encoder) -> dict:
  """Name → shape in Depth-Anything-V2's files: `pretrained.*` and `depth_head.*`."""
  out = {f"pretrained.{k}": v for k, v in dinov2_shapes(width, depth, grid, **encoder).items()}
  for i, channels in enumerate(out_channels):
    _convolution(out, f"depth_head.projects.{i}", width, channels, 1)
  # Transposed convolutions: I, O, H, W; in and out are equal here.
  _convolution(out, "depth_head.resize_layers.0", out_channels[0], out_channels[0], 4)
  _convolution(out, "depth_head.resize_layers.1", out_channels[1], out_channels[1], 2)
  _convolution(out, "depth_head.resize_layers.3", out_channels[3], out_channels[3], 3)
  scratch = "depth_head.scratch"
  for i, channels in enumerate(out_channels):
    _convolution(out, f"{scratch}.layer{i + 1}_rn", channels, features, 3, bias=False)
  for i in range(1, 5):
    _convolution(out, f"{scratch}.refinenet{i}.out_conv", features, features, 1)
    for unit in (1, 2):
      for j in (1, 2):
        _convolution(
          out, f"{scratch}.refinenet{i}.resConfUnit{unit}.conv{j}", features, features, 3
        )
  _convolution(out, f"{scratch}.output_conv1", features, features // 2, 3)
  _convolution(out, f"{scratch}.output_conv2.0", features // 2, 32, 3)
  _convolution(out, f"{scratch}.output_conv2.2", 32, 1, 1)
  return out


def dinov3_shapes(width, depth, heads, *, patch=16, ffn=4, registers=4, swiglu=False) -> dict:
  """Name → shape in facebookresearch/dinov3's files, without the constants (see the README)."""
  out: dict[str, tuple[int, ...]] = {
    "cls_token": (1, 1, width),
    "storage_tokens": (1, registers, width),
  }
  out["mask_token"] = (1, width)
  _convolution(out, "patch_embed.proj", 3, width, patch)
  for i in range(depth):
    block = f"blocks.{i}"
    _norm(out, f"{block}.norm1", width)
    _linear(out, f"{block}.attn.qkv", width, 3 * width)
    _linear(out, f"{block}.attn.proj", width, width)
    out[f"{block}.ls1.gamma"] = (width,)
    _norm(out, f"{block}.norm2", width)
    if swiglu:
      hidden = int(width * ffn * 2 / 3)
      hidden += -hidden % 8
      _linear(out, f"{block}.mlp.w1", width, hidden)
      _linear(out, f"{block}.mlp.w2", width, hidden)
      _linear(out, f"{block}.mlp.w3", hidden, width)
    else:
      _linear(out, f"{block}.mlp.fc1", width, int(width * ffn))
      _linear(out, f"{block}.mlp.fc2", int(width * ffn), width)
    out[f"{block}.ls2.gamma"] = (width,)
  _norm(out, "norm", width)
  return out


def mit_shapes(widths, depths, *, reductions=(8, 4, 2, 1), mlp_ratio=4) -> dict:
  """Name → shape in the ImageNet files of SegFormer's encoder, without the classifier."""
  out: dict[str, tuple[int, ...]] = {}
  inputs = 3
  for s, width in enumerate(widths):
    _convolution(out, f"patch_embed{s + 1}.proj", inputs, width, 7 if s == 0 else 3)
    _norm(out, f"patch_embed{s + 1}.norm", width)
    inputs = width
  for s, width in enumerate(widths):
    for i in range(depths[s]):
      block = f"block{s + 1}.{i}"
      _norm(out, f"{block}.norm1", width)
      _linear(out, f"{block}.attn.q", width, width)
      _linear(out, f"{block}.attn.kv", width, 2 * width)
      _linear(out, f"{block}.attn.proj", width, width)
      if reductions[s] > 1:
        _convolution(out, f"{block}.attn.sr", width, width, reductions[s])
        _norm(out, f"{block}.attn.norm", width)
      _norm(out, f"{block}.norm2", width)
      _linear(out, f"{block}.mlp.fc1", width, mlp_ratio * width)
      out[f"{block}.mlp.dwconv.dwconv.weight"] = (mlp_ratio * width, 1, 3, 3)
      out[f"{block}.mlp.dwconv.dwconv.bias"] = (mlp_ratio * width,)
      _linear(out, f"{block}.mlp.fc2", mlp_ratio * width, width)
    _norm(out, f"norm{s + 1}", width)
  return out


def segformer_head_shapes(widths, width, classes) -> dict:
  """Name → shape of the all-MLP decoder as Hugging Face names it, below `decode_head.`."""
  out: dict[str, tuple[int, ...]] = {}
  for s, inputs in enumerate(widths):
    _linear(out, f"decode_head.linear_c.{s}.proj", inputs, width)
  _convolution(out, "decode_head.linear_fuse", len(widths) * width, width, 1, bias=False)
  _norm(out, "decode_head.batch_norm", width)
  out["decode_head.batch_norm.running_mean"] = (width,)
  out["decode_head.batch_norm.running_var"] = (width,)
  _convolution(out, "decode_head.classifier", width, classes, 1)
  return out


def lightweight_head_shapes(width, classes) -> dict:
  """Name → shape of VFM-UDA's decoder: `upscale.*` and `out.weight`."""
  half, quarter = width // 2, width // 4
  out: dict[str, tuple[int, ...]] = {"upscale.0.weight": (width, half, 2, 2)}  # I, O, H, W
  _norm(out, "upscale.1", half)
  out["upscale.3.weight"] = (half, quarter, 2, 2)  # I, O, H, W
  _norm(out, "upscale.4", quarter)
  out["upscale.5.weight"] = (quarter, quarter, 3, 3)
  _norm(out, "upscale.6", quarter)
  out["out.weight"] = (classes, quarter, 1, 1)
  return out


def to_huggingface(original: dict[str, np.ndarray], network: str) -> dict[str, np.ndarray]:
  """The same tensors under the names of the Hub's files (transformers before 5 in memory, too).

  Args:
    original: name → tensor.
    network: "dinov2" (also with registers), "dinov3", "depth_anything" or "mit".
  """
  rules = {
    "dinov2": _dinov2_rules("", ""),
    "depth_anything": _dinov2_rules("pretrained.", "backbone.") + _DEPTH_HEAD_RULES,
    "dinov3": _DINOV3_RULES,
    "mit": [],
  }[network]
  out: dict[str, np.ndarray] = {}
  for name, value in original.items():
    if network == "mit":
      out.update(_mit_to_huggingface(name, value))
      continue
    for pattern, replacement in rules:
      if re.match(pattern + r"$", name):
        new = re.sub(pattern + r"$", replacement, name)
        break
    else:
      raise KeyError(f"{name}: no rule")
    if "{qkv}" in new:
      names = ("q_proj", "k_proj", "v_proj") if network == "dinov3" else ("query", "key", "value")
      for part, x in zip(names, np.split(value, 3)):
        if not (network == "dinov3" and part == "k_proj" and new.endswith("bias")):
          out[new.replace("{qkv}", part)] = x
    elif network == "dinov3" and name == "mask_token":
      out[new] = value[None]
    elif new != "{none}":
      out[new] = value
  return out


def _dinov2_rules(old: str, new: str) -> list[tuple[str, str]]:
  old = re.escape(old)
  layer = rf"{old}blocks\.(\d+)\."
  to = rf"{new}encoder.layer.\1."
  return [
    (rf"{old}pos_embed", f"{new}embeddings.position_embeddings"),
    (rf"{old}(cls_token|register_tokens|mask_token)", rf"{new}embeddings.\1"),
    (rf"{old}patch_embed\.proj\.(.*)", rf"{new}embeddings.patch_embeddings.projection.\1"),
    (rf"{layer}attn\.qkv\.(.*)", rf"{to}attention.attention.{{qkv}}.\2"),
    (rf"{layer}attn\.proj\.(.*)", rf"{to}attention.output.dense.\2"),
    (rf"{layer}ls([12])\.gamma", rf"{to}layer_scale\2.lambda1"),
    (rf"{layer}mlp\.w12\.(.*)", rf"{to}mlp.weights_in.\2"),
    (rf"{layer}mlp\.w3\.(.*)", rf"{to}mlp.weights_out.\2"),
    (rf"{layer}(norm[12]\..*|mlp\.fc[12]\..*)", rf"{to}\2"),
    (rf"{old}norm\.(.*)", rf"{new}layernorm.\1"),
  ]


_DEPTH_HEAD_RULES = [
  (r"depth_head\.projects\.(\d)\.(.*)", r"neck.reassemble_stage.layers.\1.projection.\2"),
  (r"depth_head\.resize_layers\.(\d)\.(.*)", r"neck.reassemble_stage.layers.\1.resize.\2"),
  *[(rf"depth_head\.scratch\.layer{i + 1}_rn\.(.*)", rf"neck.convs.{i}.\1") for i in range(4)],
  *[
    (
      rf"depth_head\.scratch\.refinenet{i}\.out_conv\.(.*)",
      rf"neck.fusion_stage.layers.{4 - i}.projection.\1",
    )
    for i in range(1, 5)
  ],
  *[
    (
      rf"depth_head\.scratch\.refinenet{i}\.resConfUnit(\d)\.conv(\d)\.(.*)",
      rf"neck.fusion_stage.layers.{4 - i}.residual_layer\1.convolution\2.\3",
    )
    for i in range(1, 5)
  ],
  (r"depth_head\.scratch\.output_conv1\.(.*)", r"head.conv1.\1"),
  (r"depth_head\.scratch\.output_conv2\.0\.(.*)", r"head.conv2.\1"),
  (r"depth_head\.scratch\.output_conv2\.2\.(.*)", r"head.conv3.\1"),
]

_DINOV3_RULES = [
  (r"storage_tokens", "embeddings.register_tokens"),
  (r"(cls_token|mask_token)", r"embeddings.\1"),
  (r"patch_embed\.proj\.(.*)", r"embeddings.patch_embeddings.\1"),
  (r"blocks\.(\d+)\.attn\.qkv\.(.*)", r"layer.\1.attention.{qkv}.\2"),
  (r"blocks\.(\d+)\.attn\.proj\.(.*)", r"layer.\1.attention.o_proj.\2"),
  (r"blocks\.(\d+)\.ls([12])\.gamma", r"layer.\1.layer_scale\2.lambda1"),
  (r"blocks\.(\d+)\.mlp\.(?:fc1|w2)\.(.*)", r"layer.\1.mlp.up_proj.\2"),
  (r"blocks\.(\d+)\.mlp\.(?:fc2|w3)\.(.*)", r"layer.\1.mlp.down_proj.\2"),
  (r"blocks\.(\d+)\.mlp\.w1\.(.*)", r"layer.\1.mlp.gate_proj.\2"),
  (r"blocks\.(\d+)\.(norm[12]\..*)", r"layer.\1.\2"),
  (r"norm\.(.*)", r"norm.\1"),
]


def _mit_to_huggingface(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
  prefix = "segformer.encoder."
  if found := re.match(r"patch_embed(\d)\.(proj|norm)\.(.*)", name):
    stage, part, leaf = found.groups()
    part = {"proj": "proj", "norm": "layer_norm"}[part]
    return {f"{prefix}patch_embeddings.{int(stage) - 1}.{part}.{leaf}": value}
  if found := re.match(r"norm(\d)\.(.*)", name):
    return {f"{prefix}layer_norm.{int(found[1]) - 1}.{found[2]}": value}
  stage, index, rest = re.match(r"block(\d)\.(\d+)\.(.*)", name).groups()
  block = f"{prefix}block.{int(stage) - 1}.{index}."
  part, leaf = rest.rsplit(".", 1)
  if part == "attn.kv":
    key, of_value = np.split(value, 2)
    return {
      f"{block}attention.self.key.{leaf}": key,
      f"{block}attention.self.value.{leaf}": of_value,
    }
  new = {
    "norm1": "layer_norm_1",
    "norm2": "layer_norm_2",
    "attn.q": "attention.self.query",
    "attn.proj": "attention.output.dense",
    "attn.sr": "attention.self.sr",
    "attn.norm": "attention.self.layer_norm",
    "mlp.fc1": "mlp.dense1",
    "mlp.fc2": "mlp.dense2",
    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
  }[part]
  return {f"{block}{new}.{leaf}": value}


# Sizes of the released networks: width, depth, heads; position tables of DINOv2 are 37 x 37 (518 pixels).
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "g": (1536, 40, 24)}
DEPTH_ANYTHING = {  # width of the decoder, channels of the four levels, blocks that are read
  "S": (64, (48, 96, 192, 384), (2, 5, 8, 11)),
  "B": (128, (96, 192, 384, 768), (2, 5, 8, 11)),
  "L": (256, (256, 512, 1024, 1024), (4, 11, 17, 23)),
}
MIT = {  # channels and blocks of the four stages; heads are (1, 2, 5, 8)
  "B0": ((32, 64, 160, 256), (2, 2, 2, 2)),
  "B1": ((64, 128, 320, 512), (2, 2, 2, 2)),
  "B2": ((64, 128, 320, 512), (3, 4, 6, 3)),
  "B3": ((64, 128, 320, 512), (3, 4, 18, 3)),
  "B4": ((64, 128, 320, 512), (3, 8, 27, 3)),
  "B5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
