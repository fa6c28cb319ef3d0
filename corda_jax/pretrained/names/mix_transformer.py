"""Names of Mix Transformers: SegFormer's ImageNet files, the Hub's and mmsegmentation's."""

import re
from collections.abc import Mapping

import numpy as np

from corda_jax.pretrained.names.renaming import Rule
from corda_jax.pretrained.names.tables import Patterns

_BLOCK, _BLOCKS = "block{stage}.{block}", "encoder/stage{stage}_blocks[{block}]"
MODULES: Patterns = (
  ("patch_embed{stage}.proj", "encoder/stage{stage}_embed"),
  ("patch_embed{stage}.norm", "encoder/stage{stage}_embed_norm"),
  ("norm{stage}", "encoder/stage{stage}_norm"),
  (f"{_BLOCK}.mlp.dwconv.dwconv", f"{_BLOCKS}/mlp/dwconv"),
  (f"{_BLOCK}.{{part}}.{{layer}}{{k}}", f"{_BLOCKS}/{{part}}/{{layer}}{{k}}"),
  (f"{_BLOCK}.{{part}}.{{layer}}", f"{_BLOCKS}/{{part}}/{{layer}}"),
  (f"{_BLOCK}.norm{{k}}", f"{_BLOCKS}/norm{{k}}"),
)

_OF_BLOCK = (
  ("norm1", "layer_norm_1"),
  ("norm2", "layer_norm_2"),
  ("attn.q", "attention.self.query"),
  ("attn.kv", "attention.self.key", "attention.self.value"),
  ("attn.proj", "attention.output.dense"),
  ("attn.sr", "attention.self.sr"),
  ("attn.norm", "attention.self.layer_norm"),
  ("mlp.fc1", "mlp.dense1"),
  ("mlp.fc2", "mlp.dense2"),
  ("mlp.dwconv.dwconv", "mlp.dwconv.dwconv"),
)


def _of_hub(stage: int) -> tuple[Rule, ...]:
  """The Hub counts stages from 0."""
  s, hub = stage + 1, "segformer.encoder."
  rules = (
    (f"patch_embed{s}.proj", f"{hub}patch_embeddings.{stage}.proj"),
    (f"patch_embed{s}.norm", f"{hub}patch_embeddings.{stage}.layer_norm"),
    (f"norm{s}", f"{hub}layer_norm.{stage}"),
    *(
      (f"block{s}.{{block}}.{ours}", *(f"{hub}block.{stage}.{{block}}.{part}" for part in parts))
      for ours, *parts in _OF_BLOCK
    ),
  )
  return tuple(
    Rule(f"{ours}.{{leaf}}", tuple(f"{part}.{{leaf}}" for part in parts)) for ours, *parts in rules
  )


HUB = tuple(rule for stage in range(4) for rule in _of_hub(stage))


def _of_mmseg(stage: int) -> tuple[Rule, ...]:
  """Mmsegmentation's own checkpoints; `split_attention` comes before."""
  s, block = stage + 1, f"layers.{stage}.1.{{block}}"
  rules = (
    (f"patch_embed{s}.proj", f"layers.{stage}.0.projection"),
    (f"patch_embed{s}.norm", f"layers.{stage}.0.norm"),
    (f"norm{s}", f"layers.{stage}.2"),
    *((f"block{s}.{{block}}.{name}", f"{block}.{name}") for name in ("norm1", "norm2")),
    *((f"block{s}.{{block}}.attn.{n}", f"{block}.attn.{n}") for n in ("q", "kv", "sr", "norm")),
    (f"block{s}.{{block}}.attn.proj", f"{block}.attn.attn.out_proj"),
    *(
      (f"block{s}.{{block}}.mlp.{name}", f"{block}.ffn.layers.{k}")
      for name, k in (("fc1", 0), ("dwconv.dwconv", 1), ("fc2", 4))
    ),
  )
  return tuple(Rule(f"{ours}.{{leaf}}", (f"{theirs}.{{leaf}}",)) for ours, theirs in rules)


MMSEG = tuple(rule for stage in range(4) for rule in _of_mmseg(stage))


def split_attention(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Mmsegmentation's tensors with queries apart from keys and values, and matrices as such."""
  found = {}
  for name, tensor in tensors.items():
    block, _, leaf = name.partition(".attn.attn.in_proj_")
    if leaf:
      query, *others = np.split(tensor, 3)
      found[f"{block}.attn.q.{leaf}"] = query
      found[f"{block}.attn.kv.{leaf}"] = np.concatenate(others)
    elif re.search(r"\.ffn\.layers\.[04]\.weight$", name) and tensor.ndim == 4:
      found[name] = tensor[:, :, 0, 0]
    else:
      found[name] = tensor
  return found
