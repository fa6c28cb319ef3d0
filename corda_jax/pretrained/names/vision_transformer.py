"""Names of DINOv2 and DINOv3: the original files, and the Hub's."""

from corda_jax.pretrained.names.renaming import Rule
from corda_jax.pretrained.names.tables import Patterns

_BLOCK, _BLOCKS = "blocks.{block}", "encoder/blocks[{block}]"
MODULES: Patterns = (
  ("patch_embed.proj", "encoder/patch_embed"),
  ("norm", "encoder/norm"),
  (f"{_BLOCK}.norm{{k}}", f"{_BLOCKS}/norm{{k}}"),
  *((f"{_BLOCK}.attn.{name}", f"{_BLOCKS}/{name}") for name in ("qkv", "proj")),
  *((f"{_BLOCK}.mlp.{name}", f"{_BLOCKS}/{name}") for name in ("fc1", "fc2", "w12", "w3")),
)
_OF_BOTH: Patterns = (
  ("cls_token", "encoder/cls_token"),
  ("mask_token", "encoder/mask_token"),
  (f"{_BLOCK}.ls{{k}}.gamma", f"{_BLOCKS}/ls{{k}}"),
)
DINOV2: Patterns = (
  *_OF_BOTH,
  ("pos_embed", "encoder/pos_embed"),
  ("register_tokens", "encoder/register_tokens"),
)
DINOV3: Patterns = (*_OF_BOTH, ("storage_tokens", "encoder/register_tokens"))

# The original files of DINOv3 split the first matrix of a gated feed-forward network.
SPLIT_DINOV3 = (
  Rule(f"{_BLOCK}.mlp.w12.{{leaf}}", tuple(f"{_BLOCK}.mlp.{w}.{{leaf}}" for w in ("w1", "w2"))),
)


def _rule(name: str, *parts: str) -> Rule:
  return Rule(name, parts)


_LAYER = "encoder.layer.{block}"
_ATTENTION = f"{_LAYER}.attention.attention"
HUB_DINOV2 = (
  _rule("pos_embed", "embeddings.position_embeddings"),
  *(_rule(name, f"embeddings.{name}") for name in ("cls_token", "mask_token", "register_tokens")),
  _rule("patch_embed.proj.{leaf}", "embeddings.patch_embeddings.projection.{leaf}"),
  _rule(
    f"{_BLOCK}.attn.qkv.{{leaf}}",
    *(f"{_ATTENTION}.{part}.{{leaf}}" for part in ("query", "key", "value")),
  ),
  _rule(f"{_BLOCK}.attn.proj.{{leaf}}", f"{_LAYER}.attention.output.dense.{{leaf}}"),
  _rule(f"{_BLOCK}.ls{{k}}.gamma", f"{_LAYER}.layer_scale{{k}}.lambda1"),
  _rule(f"{_BLOCK}.norm{{k}}.{{leaf}}", f"{_LAYER}.norm{{k}}.{{leaf}}"),
  _rule(f"{_BLOCK}.mlp.fc{{k}}.{{leaf}}", f"{_LAYER}.mlp.fc{{k}}.{{leaf}}"),
  _rule(f"{_BLOCK}.mlp.w12.{{leaf}}", f"{_LAYER}.mlp.weights_in.{{leaf}}"),
  _rule(f"{_BLOCK}.mlp.w3.{{leaf}}", f"{_LAYER}.mlp.weights_out.{{leaf}}"),
  _rule("norm.{leaf}", "layernorm.{leaf}"),
)
_LAYER3 = "layer.{block}"
_HUB_DINOV3 = (
  _rule("storage_tokens", "embeddings.register_tokens"),
  _rule("cls_token", "embeddings.cls_token"),
  Rule("mask_token", ("embeddings.mask_token",), leading_axis=True),
  _rule("patch_embed.proj.{leaf}", "embeddings.patch_embeddings.{leaf}"),
  _rule(
    f"{_BLOCK}.attn.qkv.weight",
    *(f"{_LAYER3}.attention.{part}_proj.weight" for part in ("q", "k", "v")),
  ),
  _rule(  # keys have no bias
    f"{_BLOCK}.attn.qkv.bias",
    f"{_LAYER3}.attention.q_proj.bias",
    "",
    f"{_LAYER3}.attention.v_proj.bias",
  ),
  _rule(f"{_BLOCK}.attn.proj.{{leaf}}", f"{_LAYER3}.attention.o_proj.{{leaf}}"),
  _rule(f"{_BLOCK}.ls{{k}}.gamma", f"{_LAYER3}.layer_scale{{k}}.lambda1"),
  _rule(f"{_BLOCK}.norm{{k}}.{{leaf}}", f"{_LAYER3}.norm{{k}}.{{leaf}}"),
  _rule("norm.{leaf}", "norm.{leaf}"),
)
HUB_DINOV3 = (
  *_HUB_DINOV3,
  _rule(f"{_BLOCK}.mlp.fc1.{{leaf}}", f"{_LAYER3}.mlp.up_proj.{{leaf}}"),
  _rule(f"{_BLOCK}.mlp.fc2.{{leaf}}", f"{_LAYER3}.mlp.down_proj.{{leaf}}"),
)
HUB_DINOV3_GATED = (
  *_HUB_DINOV3,
  _rule(
    f"{_BLOCK}.mlp.w12.{{leaf}}",
    *(f"{_LAYER3}.mlp.{part}_proj.{{leaf}}" for part in ("gate", "up")),
  ),
  _rule(f"{_BLOCK}.mlp.w3.{{leaf}}", f"{_LAYER3}.mlp.down_proj.{{leaf}}"),
)
