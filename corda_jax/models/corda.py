"""The network of CorDA: semantic and depth decoders that refine each other.

Wang et al., "Domain Adaptive Semantic Segmentation with Self-Supervised Depth Estimation", ICCV
2021. The correlation module goes back to PAD-Net (Xu et al., CVPR 2018).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from corda_jax.errors import UserError
from corda_jax.models.deeplab import DilatedClassifier
from corda_jax.models.layers import Convolution, Dtype
from corda_jax.models.resnet import Bottleneck, ResNet, rematerialized


class CorrelationMessage(nn.Module):
  """What one task's feature tells another: conv3x3(x) * sigmoid(conv3x3'(x)), no biases.

  Attributes:
    features: channels in and out.
    dtype: of the computation.
    param_dtype: of the parameters.
    kernel_init: initialiser of the kernels.
  """

  features: int
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.01)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, features] to the same shape."""

    def convolution(name):
      return Convolution(
        self.features,
        3,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        kernel_init=self.kernel_init,
        name=name,
      )(x)

    return convolution("message") * nn.sigmoid(convolution("attention"))


class Corda(nn.Module):
  """Encoder, semantic and depth decoders, feature correlation, initial and final predictions.

  Attributes:
    encoder: the residual encoder; its groups, its domains and its rematerialisation are those of
      the decoders, too.
    num_classes: semantic classes.
    task_width: width of the bottlenecks that make a task's feature; it has 4 times as many
      channels.
    initial_semantics_from: what the initial semantic prediction reads: "encoder", through a dilated
      classifier (released GTA variant), or "decoder", through a 1x1 convolution on the semantic
      feature (released SYNTHIA variant).
    depth: whether there are a depth decoder and depth heads.
    correlation: whether the two decoders refine each other; needs `depth`.
    classifier_dilations: branches of the dilated classifiers.
    dtype: of the computation.
    param_dtype: of the parameters.
    kernel_init: initialiser of the decoders' kernels.
    head_init: initialiser of the kernels of everything that predicts.
    initial_inverse_depth: what the depth heads predict at the start, but for their kernels.
  """

  encoder: ResNet
  num_classes: int = 19
  task_width: int = 64
  initial_semantics_from: str = "encoder"
  depth: bool = True
  correlation: bool = True
  classifier_dilations: Sequence[int] = (6, 12)
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.01)
  head_init: nn.initializers.Initializer = nn.initializers.normal(0.01)
  initial_inverse_depth: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    """Predicts semantics and inverse depth at the encoder's output stride.

    Args:
      x: [B, H, W, 3] normalised images.
      train: whether to normalise by the statistics of the batch, and to update the running ones.

    Returns:
      "initial_S" and "S", logits [B, h, w, num_classes]; with depth also "initial_D" and "D",
      inverse depth [B, h, w, 1] by the heads trained on the target, and "initial_D_src" and
      "D_src", by those trained on the source.
    """
    if self.correlation and not self.depth:
      raise UserError(
        "model.correlation is True and model.depth is False, but one task alone has nothing to "
        "correlate: set both or neither"
      )
    if self.initial_semantics_from not in ("encoder", "decoder"):
      raise UserError(
        f"model.initial_semantics_from is {self.initial_semantics_from!r}, wanted 'encoder' or "
        "'decoder'"
      )
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    encoded = self.encoder(x, train=train)

    def decode(task):
      y = encoded
      bottleneck = rematerialized(Bottleneck, self.encoder.rematerialize)
      for block in range(2):
        y = bottleneck(
          self.task_width,
          4 * self.task_width,
          project=block == 0,
          batch_norm_group=self.encoder.batch_norm_group,
          batch_norm_domains=self.encoder.batch_norm_domains,
          kernel_init=self.kernel_init,
          name=f"decoder_{task}_block{block}",
          **types,
        )(y, train)
      return y

    def classify(features, name, channels=self.num_classes, start=0.0):
      return DilatedClassifier(
        channels,
        self.classifier_dilations,
        kernel_init=self.head_init,
        initial_output=start,
        name=name,
        **types,
      )(features)

    def project(features, name, channels=self.num_classes, start=0.0):
      return Convolution(
        channels,
        use_bias=True,
        predicts=True,
        kernel_init=self.head_init,
        bias_init=nn.initializers.constant(start),
        name=name,
        **types,
      )(features)

    of_depth = {"channels": 1, "start": self.initial_inverse_depth}
    semantic = decode("S")
    outputs = {}
    if self.initial_semantics_from == "encoder":
      outputs["initial_S"] = classify(encoded, "initial_S")
    else:
      outputs["initial_S"] = project(semantic, "initial_S")
    if not self.depth:
      return outputs | {"S": classify(semantic, "final_S")}

    depth = decode("D")
    outputs["initial_D"] = project(depth, "initial_D", **of_depth)
    outputs["initial_D_src"] = project(depth, "initial_D_src", **of_depth)
    if self.correlation:

      def message(features, name):
        return CorrelationMessage(
          4 * self.task_width, kernel_init=self.kernel_init, name=name, **types
        )(features)

      semantic, depth = (
        semantic + message(depth, "correlation_D_to_S"),
        depth + message(semantic, "correlation_S_to_D"),
      )
    outputs["S"] = classify(semantic, "final_S")
    outputs["D"] = classify(depth, "final_D", **of_depth)
    outputs["D_src"] = classify(depth, "final_D_src", **of_depth)
    return outputs
