"""Names of Depth Anything: the original files, and the Hub's."""

from corda_jax.pretrained.names.renaming import Rule
from corda_jax.pretrained.names.tables import NameTable, prefixed
from corda_jax.pretrained.names.vision_transformer import DINOV2, HUB_DINOV2, MODULES

_ENCODER, _HEAD, _SCRATCH = "pretrained.", "depth_head", "depth_head.scratch"
_FUSION = f"{_SCRATCH}.refinenet{{stage}}"

DEPTH_ANYTHING = NameTable(
  "Depth Anything",
  (
    *prefixed(_ENCODER, MODULES),
    (f"{_HEAD}.projects.{{i}}", "depth_head/project{i}"),
    (f"{_HEAD}.resize_layers.{{i}}", "depth_head/resize{i}"),
    (f"{_SCRATCH}.layer{{i}}_rn", "depth_head/level{i}"),
    (f"{_FUSION}.out_conv", "depth_head/fuse{stage}_out"),
    (f"{_FUSION}.resConfUnit{{i}}.conv{{k}}", "depth_head/fuse{stage}_unit{i}_conv{k}"),
    (f"{_SCRATCH}.output_conv1", "depth_head/head1"),
    (f"{_SCRATCH}.output_conv2.0", "depth_head/head2"),
    (f"{_SCRATCH}.output_conv2.2", "depth_head/head3"),
  ),
  (
    *prefixed(_ENCODER, DINOV2),
    *(
      (f"{_HEAD}.resize_layers.{i}.weight", f"depth_head/resize{i}/transposed_kernel")
      for i in range(2)
    ),
  ),
)

# In every file, and used by no network: the coarsest level has nothing to be added to.
UNUSED = f"{_SCRATCH}.refinenet4.resConfUnit1."

HUB = (
  *(
    Rule(_ENCODER + rule.name, tuple("backbone." + part for part in rule.parts))
    for rule in HUB_DINOV2
  ),
  Rule(f"{_HEAD}.projects.{{i}}.{{leaf}}", ("neck.reassemble_stage.layers.{i}.projection.{leaf}",)),
  Rule(
    f"{_HEAD}.resize_layers.{{i}}.{{leaf}}", ("neck.reassemble_stage.layers.{i}.resize.{leaf}",)
  ),
  *(
    Rule(f"{_SCRATCH}.layer{n}_rn.{{leaf}}", (f"neck.convs.{n - 1}.{{leaf}}",)) for n in range(1, 5)
  ),
  *(
    rule
    for n in range(1, 5)  # the Hub counts from the coarsest level
    for theirs in (f"neck.fusion_stage.layers.{4 - n}",)
    for ours in (f"{_SCRATCH}.refinenet{n}",)
    for rule in (
      Rule(f"{ours}.out_conv.{{leaf}}", (f"{theirs}.projection.{{leaf}}",)),
      Rule(
        f"{ours}.resConfUnit{{i}}.conv{{k}}.{{leaf}}",
        (f"{theirs}.residual_layer{{i}}.convolution{{k}}.{{leaf}}",),
      ),
    )
  ),
  Rule(f"{_SCRATCH}.output_conv1.{{leaf}}", ("head.conv1.{leaf}",)),
  Rule(f"{_SCRATCH}.output_conv2.0.{{leaf}}", ("head.conv2.{leaf}",)),
  Rule(f"{_SCRATCH}.output_conv2.2.{{leaf}}", ("head.conv3.{leaf}",)),
)
