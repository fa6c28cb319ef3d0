"""Names of decoders: DAFormer's and mmsegmentation's, the Hub's SegFormer, VFM-UDA's.

A decoder of depth has the names of one of semantics, with "depth_head." before them; initial and
final heads of depth, and the correlation, have CorDA's.
"""

from corda_jax.pretrained.names.corda import CORRELATION, HEADS, INITIAL_HEADS
from corda_jax.pretrained.names.renaming import Rule
from corda_jax.pretrained.names.tables import Patterns

_TASKS = (("decode_head", "decoder_S"), ("depth_head", "decoder_D"))
_FUSED = (
  *(
    (f"{theirs}.{branch}.{conv}", f"{ours}/{branch_here}/{conv_here}")
    for theirs, ours in (("fuse_layer", "fuse"), ("embed_layers.{i}", "embed{i}"))
    for branch, branch_here in (
      ("aspp_modules.{k}", "branch{k}"),
      ("bottleneck", "bottleneck"),
    )
    for conv, conv_here in (
      ("conv", "conv"),
      ("bn", "norm"),
      ("depthwise_conv.conv", "depthwise_conv"),
      ("depthwise_conv.bn", "depthwise_norm"),
      ("pointwise_conv.conv", "pointwise/conv"),
      ("pointwise_conv.bn", "pointwise/norm"),
    )
  ),
  ("fuse_layer.conv", "fuse/conv"),
  ("fuse_layer.bn", "fuse/norm"),
  ("embed_layers.{i}.proj", "embed{i}"),
)
_HEADS: Patterns = (
  ("decode_head.conv_seg", "final_S"),
  ("heads.{head}", "final_{head}"),
  *CORRELATION,
  *INITIAL_HEADS,
)
FUSION: Patterns = (
  *(
    (f"{theirs}.{part}", f"{ours}_{part_here}")
    for theirs, ours in _TASKS
    for part, part_here in _FUSED
  ),
  *_HEADS,
)
# HRDA's scale attention, whose decoder is a fusion by a 1x1 convolution.
ATTENTION: Patterns = (
  *(
    (f"decode_head.scale_attention.{part}", f"decoder_attention_{part_here}")
    for part, part_here in _FUSED
  ),
  ("decode_head.scale_attention.conv_seg", "final_attention"),
)
# DAFormer's DeepLab decoder.
DEEPLAB: Patterns = (
  ("decode_head.aspp_modules.{i}.conv.weight", "final_S/kernel{i}"),
  ("decode_head.aspp_modules.{i}.conv.bias", "final_S/bias{i}"),
  *HEADS,
)
# VFM-UDA's sequence: convolution, normalisation, GELU, convolution, normalisation, convolution, …
LIGHTWEIGHT: Patterns = (
  *(
    (f"{theirs}.upscale.{k}", f"{ours}_{name}")
    for theirs, ours in _TASKS
    for k, name in ((1, "norm0"), (4, "norm1"), (5, "conv"), (6, "norm2"))
  ),
  ("decode_head.out", "final_S"),
  *_HEADS[1:],
)
LIGHTWEIGHT_TENSORS: Patterns = tuple(
  (f"{theirs}.upscale.{k}.weight", f"{ours}_up{i}/transposed_kernel")
  for theirs, ours in _TASKS
  for i, k in enumerate((0, 3))
)


def below_head(patterns: Patterns) -> Patterns:
  """The same patterns where HRDA has a decoder: below "decode_head.head."."""
  return tuple(
    (theirs.replace("decode_head.", "decode_head.head.", 1), ours) for theirs, ours in patterns
  )


# SegFormer's decoder on the Hub, and that of its authors.
HUB_SEGFORMER = (
  Rule("decode_head.embed_layers.{i}.proj.{leaf}", ("decode_head.linear_c.{i}.proj.{leaf}",)),
  Rule("decode_head.fuse_layer.conv.{leaf}", ("decode_head.linear_fuse.{leaf}",)),
  Rule("decode_head.fuse_layer.bn.{leaf}", ("decode_head.batch_norm.{leaf}",)),
  Rule("decode_head.conv_seg.{leaf}", ("decode_head.classifier.{leaf}",)),
)
SEGFORMER = (
  *(
    Rule(
      f"decode_head.embed_layers.{i}.proj.{{leaf}}", (f"decode_head.linear_c{i + 1}.proj.{{leaf}}",)
    )
    for i in range(4)
  ),
  Rule("decode_head.fuse_layer.conv.{leaf}", ("decode_head.linear_fuse.conv.{leaf}",)),
  Rule("decode_head.fuse_layer.bn.{leaf}", ("decode_head.linear_fuse.bn.{leaf}",)),
  Rule("decode_head.conv_seg.{leaf}", ("decode_head.linear_pred.{leaf}",)),
)
