"""For `benchmarks.speed.encoders`: Hugging Face's encoders in PyTorch, on random images.

Reads numbers of passes, one a line, and answers with the seconds that they took. Needs PyTorch and
transformers; its Python may differ from the benchmark's. Weights are random.
"""

import argparse
import sys
import time

import torch
from transformers import (
  DepthAnythingConfig,
  DepthAnythingForDepthEstimation,
  Dinov2Config,
  Dinov2Model,
  SegformerConfig,
  SegformerModel,
)

_DEPTHS = {
  "B0": (2, 2, 2, 2),
  "B1": (2, 2, 2, 2),
  "B2": (3, 4, 6, 3),
  "B3": (3, 4, 18, 3),
  "B4": (3, 8, 27, 3),
  "B5": (3, 6, 40, 3),
}
_DEPTH_ANYTHING = {  # channels of the decoder and of its levels, and the blocks that are read
  "DA-S": (64, [48, 96, 192, 384], [3, 6, 9, 12]),
  "DA-B": (128, [96, 192, 384, 768], [3, 6, 9, 12]),
  "DA-L": (256, [256, 512, 1024, 1024], [5, 12, 18, 24]),
}
_VITS = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "g": (1536, 40, 24)}


def main() -> None:
  """Builds the network, says that it is ready, and answers."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("network", choices=[*_DEPTHS, *_VITS, *_DEPTH_ANYTHING])
  parser.add_argument("--height", type=int, required=True)
  parser.add_argument("--width", type=int, required=True)
  parser.add_argument("--batch", type=int, default=2)
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
  parser.add_argument("--train", action="store_true", help="with gradients of all parameters")
  options = parser.parse_args()
  torch.manual_seed(0)
  dtype = getattr(torch, options.dtype)
  model = build(options.network).to(options.device, dtype).train(options.train)
  size = (options.batch, 3, options.height, options.width)
  x = torch.randn(size, device=options.device, dtype=dtype)
  print("ready", flush=True)
  for line in sys.stdin:
    started = time.perf_counter()
    for _ in range(int(line)):
      run(model, x, options.train)
    if options.device == "cuda":
      torch.cuda.synchronize()
    print(time.perf_counter() - started, flush=True)


def build(network: str) -> torch.nn.Module:
  """The network, without stochastic depth."""
  if network in _DEPTHS:
    widths = (32, 64, 160, 256) if network == "B0" else (64, 128, 320, 512)
    config = SegformerConfig(
      depths=_DEPTHS[network], hidden_sizes=widths, drop_path_rate=0.0, output_hidden_states=True
    )
    return SegformerModel(config)
  width, depth, heads = _VITS[network.removeprefix("DA-")]
  config = Dinov2Config(
    hidden_size=width,
    num_hidden_layers=depth,
    num_attention_heads=heads,
    image_size=518,
    patch_size=14,
    use_swiglu_ffn=network == "g",
    reshape_hidden_states=False,
    out_indices=_DEPTH_ANYTHING[network][2] if network in _DEPTH_ANYTHING else None,
  )
  if network not in _DEPTH_ANYTHING:
    return Dinov2Model(config)
  features, level_widths, _ = _DEPTH_ANYTHING[network]
  return DepthAnythingForDepthEstimation(
    DepthAnythingConfig(
      backbone_config=config,
      reassemble_hidden_size=width,
      fusion_hidden_size=features,
      neck_hidden_sizes=level_widths,
    )
  )


def run(model: torch.nn.Module, x: torch.Tensor, train: bool) -> None:
  """One pass."""
  with torch.set_grad_enabled(train):
    found = model(x)
    if isinstance(model, DepthAnythingForDepthEstimation):
      levels = [found.predicted_depth]
    elif isinstance(model, SegformerModel):
      levels = found.hidden_states
    else:
      levels = [found.last_hidden_state]
    if train:
      model.zero_grad(set_to_none=True)
      sum(level.float().mean() for level in levels).backward()


if __name__ == "__main__":
  main()
