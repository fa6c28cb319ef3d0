"""Names of Mix Transformers: SegFormer's ImageNet files, and the Hub's."""

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
