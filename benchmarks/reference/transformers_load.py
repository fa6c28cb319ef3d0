"""Loads what `--mode=export_torch` wrote into Hugging Face's networks, strictly.

    python benchmarks/reference/transformers_load.py RUN/hub/model.safetensors

Needs PyTorch, transformers and safetensors; its Python may differ from the program's. Sizes are
read from the tensors. A tensor that is missing or unexpected is an error.
"""

import re
import sys

from safetensors.torch import load_file
from transformers import (
  Dinov2Config,
  Dinov2Model,
  Dinov2WithRegistersConfig,
  Dinov2WithRegistersModel,
  DINOv3ViTConfig,
  DINOv3ViTModel,
  SegformerConfig,
  SegformerModel,
)


def main() -> None:
  """Builds the network of the file, loads it and says how many tensors it took."""
  state = load_file(sys.argv[1])
  decoder = {name for name in state if name.startswith("decode_head.")}
  state = {n.removeprefix("segformer.encoder."): x for n, x in state.items() if n not in decoder}
  if "embeddings.cls_token" in state:
    model = vision_transformer(state)
  else:
    model = segformer(state)
    state = {f"encoder.{name}": x for name, x in state.items()}
  model.load_state_dict(state, strict=True)
  print(f"{type(model).__name__}: {len(state)} tensors loaded strictly")


def segformer(state):
  """SegFormer's encoder of these tensors."""
  stages = range(1 + max(int(name.split(".")[1]) for name in state))

  def shape(name):
    return state[name].shape

  return SegformerModel(
    SegformerConfig(
      num_encoder_blocks=len(stages),
      hidden_sizes=[shape(f"patch_embeddings.{s}.proj.weight")[0] for s in stages],
      depths=[count(state, rf"block\.{s}\.(\d+)\.") for s in stages],
    )
  )


def vision_transformer(state):
  """DINOv2's or DINOv3's network of these tensors; heads have 64 channels where that divides."""
  width = state["embeddings.cls_token"].shape[-1]
  sizes = {
    "hidden_size": width,
    "num_attention_heads": max(1, width // 64) if width % 64 == 0 else 1,
    "num_hidden_layers": count(state, r"(?:encoder\.)?layer\.(\d+)\."),
  }
  if "embeddings.position_embeddings" not in state:
    registers = state["embeddings.register_tokens"].shape[1]
    hidden = state["layer.0.mlp.up_proj.weight"].shape[0]
    gated = "layer.0.mlp.gate_proj.weight" in state
    return DINOv3ViTModel(
      DINOv3ViTConfig(
        **sizes, num_register_tokens=registers, intermediate_size=hidden, use_gated_mlp=gated
      )
    )
  patch = state["embeddings.patch_embeddings.projection.weight"].shape[-1]
  grid = round((state["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
  sizes |= {"patch_size": patch, "image_size": patch * grid}
  sizes["use_swiglu_ffn"] = "encoder.layer.0.mlp.weights_in.weight" in state
  if "embeddings.register_tokens" not in state:
    return Dinov2Model(Dinov2Config(**sizes))
  registers = state["embeddings.register_tokens"].shape[1]
  return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, num_register_tokens=registers))


def count(state, pattern: str) -> int:
  """Blocks whose numbers the pattern finds at the start of names."""
  return 1 + max(int(found[1]) for name in state if (found := re.match(pattern, name)))


if __name__ == "__main__":
  main()
