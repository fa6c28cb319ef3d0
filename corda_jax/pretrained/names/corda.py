"""The released networks' tensors as this project's variables, and back.

Residual encoders have the same names in CorDA, in DACS, in DeepLab's initialisations and in
torchvision, and with "encoder." before them in Monodepth2.
"""

from corda_jax.pretrained.names.tables import NameTable, Patterns

RESNET = (
  ("conv1", "encoder/stem_conv"),
  ("bn1", "encoder/stem_norm"),
  ("layer{stage}.{block}.conv{i}", "encoder/stage{stage}_block{block}/conv{i}"),
  ("layer{stage}.{block}.bn{i}", "encoder/stage{stage}_block{block}/norm{i}"),
  ("layer{stage}.{block}.downsample.0", "encoder/stage{stage}_block{block}/projection_conv"),
  ("layer{stage}.{block}.downsample.1", "encoder/stage{stage}_block{block}/projection_norm"),
)
_DECODER, _HEADS = (
  "initial_task_prediction_heads.layers.{task}.{block}",
  "initial_task_prediction_heads.conv_out.{head}",
)
_CORRELATION = "multi_modal_distillation.self_attention.{listener}.{speaker}"
CORRELATION = (
  (f"{_CORRELATION}.conv", "correlation_{speaker}_to_{listener}/message"),
  (f"{_CORRELATION}.attention.0", "correlation_{speaker}_to_{listener}/attention"),
)


def _branches(theirs: str, ours: str) -> Patterns:
  """A dilated classifier's branches, including those (2 and 3) that the release never uses."""
  return (
    (theirs + ".conv2d_list.{i}.weight", ours + "/kernel{i}"),
    (theirs + ".conv2d_list.{i}.bias", ours + "/bias{i}"),
  )


INITIAL_HEADS = ((_HEADS, "initial_{head}"),)
HEADS = (*_branches(_HEADS, "initial_{head}"), *_branches("heads.{head}", "final_{head}"))
DECODER = (
  (_DECODER + ".conv{i}", "decoder_{task}_block{block}/conv{i}"),
  (_DECODER + ".bn{i}", "decoder_{task}_block{block}/norm{i}"),
  (_DECODER + ".downsample.0", "decoder_{task}_block{block}/projection_conv"),
  (_DECODER + ".downsample.1", "decoder_{task}_block{block}/projection_norm"),
  *CORRELATION,
  *INITIAL_HEADS,
)
CORDA = NameTable("released corda", (*RESNET, *DECODER), HEADS)
DEEPLAB = NameTable("released deeplab", RESNET, _branches("layer5", "final_S"))
