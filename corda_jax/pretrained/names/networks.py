"""The table of names of a network, from its parts, and files of other origins under these names."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from corda_jax.errors import UserError
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.daformer import FusionDecoder
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.decoders.lightweight import LightweightDecoder
from corda_jax.models.depth_guided import DepthGuided
from corda_jax.models.encoders.base import Encoder
from corda_jax.models.encoders.mix_transformer import MixTransformer
from corda_jax.models.encoders.resnet import ResNet
from corda_jax.models.encoders.vision_transformer import VisionTransformer
from corda_jax.models.hrda import Hrda
from corda_jax.pretrained.names import corda, decode_heads, mix_transformer, vision_transformer
from corda_jax.pretrained.names.renaming import Rule, Tensors, to_original, to_other
from corda_jax.pretrained.names.tables import NameTable, Patterns, prefixed

Network = Corda | Hrda

_BACKBONE = "backbone."
# What programs put before the names of a network or of its encoder.
_PREFIXES = re.compile(r"^((module|model|backbone|pretrained|dinov2|dinov3_vit)\.)+")
# Of Depth Anything V2 the small network, whose encoder has 384 channels, may be used freely.
_LICENSED_WIDTH = 768
# What this project alone has: depth as an input.
_DEPTH_FUSION: Patterns = (("depth_fusion.{i}.{part}", "fusion{i}_{part}"),)
# DINOv2's training checkpoints number blocks in chunks.
_CHUNK = re.compile(r"blocks\.\d+\.(?=\d+\.)")


def table_of(network: Network) -> NameTable:
  """Names of a network's tensors in files: CorDA's or DACS's, or those of mmsegmentation.

  With a ResNet and DeepLab's decoder the names are those of the released code. Otherwise the
  encoder's original names have "backbone." before them, and those of the decoder "decode_head.".

  Raises:
    UserError: files have no names for a part of the network.
  """
  if isinstance(network, Hrda):
    shared = table_of(network.network)
    modules, tensors = map(decode_heads.below_head, (shared.modules, shared.tensors))
    return NameTable(f"{shared.network}, HRDA", (*decode_heads.ATTENTION, *modules), tensors)
  if isinstance(network, DepthGuided):
    own = _table_of_corda(network)
    modules, tensors = _of_encoder(network.depth_encoder, "depth_encoder")
    return NameTable(
      f"{own.network}, depth",
      (*own.modules, *prefixed("depth_backbone.", modules), *_DEPTH_FUSION),
      (*own.tensors, *prefixed("depth_backbone.", tensors)),
    )
  return _table_of_corda(network)


def _table_of_corda(network: Corda) -> NameTable:
  encoder, decoder = network.encoder, network.decoder
  modules, tensors = _of_encoder(encoder, "encoder")
  modules, tensors = prefixed(_BACKBONE, modules), prefixed(_BACKBONE, tensors)
  name = f"{type(encoder).__name__} with {type(decoder).__name__}"
  match decoder:
    case DeepLabDecoder() if isinstance(encoder, ResNet):
      return corda.CORDA if decoder.width else corda.DEEPLAB
    case DeepLabDecoder() if decoder.width:
      return NameTable(name, (*modules, *corda.DECODER), (*tensors, *corda.HEADS))
    case DeepLabDecoder():
      others = (*corda.CORRELATION, *corda.INITIAL_HEADS)
      return NameTable(name, (*modules, *others), (*tensors, *decode_heads.DEEPLAB))
    case FusionDecoder():
      return NameTable(name, (*modules, *decode_heads.FUSION), tensors)
    case LightweightDecoder():
      tensors = (*tensors, *decode_heads.LIGHTWEIGHT_TENSORS)
      return NameTable(name, (*modules, *decode_heads.LIGHTWEIGHT), tensors)
  raise UserError(f"model.decoder is {type(decoder).__name__}, of which files have no names")


def _of_encoder(encoder: Encoder, field: str) -> tuple[Patterns, Patterns]:
  """Original names of an encoder's modules and tensors, which are below `field` here.

  Raises:
    UserError: files have no names for such an encoder.
  """
  match encoder:
    case ResNet():
      modules, tensors = corda.RESNET, ()
    case MixTransformer():
      modules, tensors = mix_transformer.MODULES, ()
    case VisionTransformer():
      modules = vision_transformer.MODULES
      rotary = encoder.positions == "rotary"
      tensors = vision_transformer.DINOV3 if rotary else vision_transformer.DINOV2
    case _:
      raise UserError(f"model.{field} is {type(encoder).__name__}, of which files have no names")

  def below(patterns):
    return tuple((theirs, ours.replace("encoder/", f"{field}/", 1)) for theirs, ours in patterns)

  return below(modules), below(tensors)


def under_table_names(tensors: Mapping[str, np.ndarray], network: Network) -> Tensors:
  """The tensors of a file under the names of the network's table.

  The file may be of the encoder alone, and of the Hub. Tensors that the network does not have keep
  a name that says what they are.

  Args:
    tensors: name → tensor.
    network: the network.
  """
  bare: Tensors = {}
  for name, tensor in tensors.items():
    short = _CHUNK.sub("blocks.", _PREFIXES.sub("", name))
    bare[name if short in bare else short] = tensor
  if isinstance(network.encoder, MixTransformer):
    bare = mix_transformer.split_attention(bare)
  bare = to_original(bare, (*_rules_of(network), *_other_rules_of(network)))
  table = table_of(network)

  def prefixed_name(name):
    try:
      table.place(_BACKBONE + name)
    except KeyError:
      return name
    return _BACKBONE + name

  return {prefixed_name(name): tensor for name, tensor in bare.items()}


def hub_tensors(state: Mapping[str, np.ndarray], network: Network) -> Tensors:
  """What Hugging Face's transformers reads of a network, under its names; {}: nothing.

  That is the encoder, with the decoder if it is SegFormer's.

  Args:
    state: name → tensor, of the network's table.
    network: the network.
  """
  decoder = network.decoder
  segformer = (
    isinstance(decoder, FusionDecoder)
    and decoder.fusion == "convolution"
    and decoder.coarsest_first
  )
  bare = {
    name.removeprefix(_BACKBONE): tensor
    for name, tensor in state.items()
    if name.startswith(_BACKBONE) or segformer
  }
  return to_other(bare, _rules_of(network))


def constants(network: Network) -> Tensors:
  """Tensors of the original files that are no weights."""
  encoder = network.encoder
  if not (isinstance(encoder, VisionTransformer) and encoder.positions == "rotary"):
    return {}
  found = {f"{_BACKBONE}rope_embed.periods": encoder.periods().astype(np.float32)}
  mask = np.repeat(np.float32([1, 0, 1]), encoder.width)
  if not encoder.key_bias:
    for block in range(encoder.depth):
      found[f"{_BACKBONE}blocks.{block}.attn.qkv.bias_mask"] = mask
  return found


def licence_note(network: Corda, left: Iterable[str] = ()) -> str:
  """The licence of the published weights in a line, where it restricts their use; else "".

  Args:
    network: the network that they are for.
    left: names in the file that the network has no place for.
  """
  encoder = network.encoder
  of_depth = any(re.match(r"neck\.|depth_head\.(projects|scratch)\.", name) for name in left)
  if of_depth and getattr(encoder, "width", 0) >= _LICENSED_WIDTH:
    return (
      "note: weights of Depth Anything V2 of this size are under CC-BY-NC-4.0: non-commercial use"
    )
  if isinstance(encoder, MixTransformer):
    return (
      "note: weights of SegFormer's authors are under the NVIDIA Source Code License, for "
      "non-commercial use"
    )
  if isinstance(encoder, VisionTransformer) and encoder.positions == "rotary":
    return (
      "note: weights of DINOv3 are under the DINOv3 License of 19 August 2025, which excludes some "
      "uses and must be passed on with them"
    )
  return ""


def _rules_of(network: Network) -> tuple[Rule, ...]:
  """Names of the Hub."""
  match network.encoder:
    case MixTransformer():
      return (*mix_transformer.HUB, *decode_heads.HUB_SEGFORMER)
    case VisionTransformer(positions="rotary", mlp="swiglu"):
      return vision_transformer.HUB_DINOV3_GATED
    case VisionTransformer(positions="rotary"):
      return vision_transformer.HUB_DINOV3
    case VisionTransformer():
      return vision_transformer.HUB_DINOV2
  return ()


def _other_rules_of(network: Network) -> tuple[Rule, ...]:
  """Other names that are read."""
  match network.encoder:
    case MixTransformer():
      return (*mix_transformer.MMSEG, *decode_heads.SEGFORMER)
    case VisionTransformer(positions="rotary"):
      return vision_transformer.SPLIT_DINOV3
  return ()
