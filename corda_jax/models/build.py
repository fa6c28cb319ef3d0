"""From the `model` section of a configuration to networks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import ml_collections
from flax import linen as nn

from corda_jax.configuration import build, check_at_least, check_one_of, settings
from corda_jax.models.normalization import Normalization

_INITIALIZERS = {
  "normal_0.01": nn.initializers.normal(0.01),  # as released, before pretrained weights are loaded
  "he_normal": nn.initializers.he_normal(),  # for training from scratch
}
_FLOATS = ("float32", "bfloat16", "float16", "float64")


@dataclasses.dataclass(frozen=True)
class Common:
  """What all networks of a run have in common.

  Attributes:
    dtype: dtype of the computation; parameters, statistics and losses stay wide.
    param_dtype: dtype of the parameters.
    batch_norm_group: images of a batch that are normalised together in training, each group by its
      own statistics; 0: all. 2 is as released whatever the batch, and spares many devices most of
      their communication; each device then holds whole groups.
    kernel_init: initialiser of kernels that predict nothing: "normal_0.01", as released, before
      pretrained weights are loaded, or "he_normal", for training from scratch.
    head_init: initialiser of kernels that predict: logits and depths begin near zero.
    normalization: from uint8 images to the input of the (first) network.
  """

  dtype: str = "float32"
  param_dtype: str = "float32"
  batch_norm_group: int = 0
  kernel_init: str = "normal_0.01"
  head_init: str = "normal_0.01"
  normalization: Normalization = Normalization()

  def __post_init__(self):
    check_at_least(self, batch_norm_group=0)
    check_one_of(self, dtype=_FLOATS, param_dtype=_FLOATS)
    check_one_of(self, kernel_init=_INITIALIZERS, head_init=_INITIALIZERS)
    if "float64" in (self.dtype, self.param_dtype) and jnp.result_type(float) != jnp.float64:
      raise ValueError("dtype is 'float64', which JAX disables by default: set JAX_ENABLE_X64=1")

  def shared(self, *, rematerialize: bool) -> dict[str, Any]:
    """Fields of modules, for `build`.

    Args:
      rematerialize: whether blocks are computed again in the backward pass, to save memory.
    """
    return {
      "dtype": jnp.dtype(self.dtype),
      "param_dtype": jnp.dtype(self.param_dtype),
      "batch_norm_group": self.batch_norm_group,
      "kernel_init": _INITIALIZERS[self.kernel_init],
      "head_init": _INITIALIZERS[self.head_init],
      "rematerialize": rematerialize,
    }


def model_settings(
  networks: Mapping[str, Any], common: Common = Common()
) -> ml_collections.ConfigDict:
  """The `model` section: fields of a network, or sections of several, beside those of `Common`."""
  section = ml_collections.ConfigDict(dict(networks))
  of_all = settings(common)
  del of_all["part"]
  section.update(of_all)
  return section


def build_common(model: Mapping[str, Any]) -> Common:
  """What the networks of a `model` section have in common.

  Raises:
    UserError: a value cannot work.
  """
  names = [field.name for field in dataclasses.fields(Common) if field.name in model]
  return build({name: model[name] for name in names}, "model", default=Common)


def build_network(
  model: Mapping[str, Any], num_classes: int = 0, *, rematerialize: bool = False
) -> nn.Module:
  """The network of a `model` section whose fields are the network's; some have no classes.

  Raises:
    UserError: a value cannot work.
  """
  common = build_common(model)
  own = {name: value for name, value in model.items() if not hasattr(common, name)}
  shared = common.shared(rematerialize=rematerialize)
  return build(own, "model", num_classes=num_classes, **shared)


def build_networks(
  model: Mapping[str, Any], names: tuple[str, ...], *, rematerialize: bool = False
) -> list[nn.Module]:
  """The networks of these names, of a `model` section that has a section for each.

  Raises:
    UserError: a value cannot work.
  """
  shared = build_common(model).shared(rematerialize=rematerialize)
  return [build(model[name], f"model.{name}", **shared) for name in names]
