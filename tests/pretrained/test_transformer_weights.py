"""Weights of the transformers: names, shapes, and what goes in comes out."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import gta2cs_corda_mit
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.configuration import settings
from corda_jax.errors import UserError
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.daformer import FusionDecoder
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.decoders.lightweight import LightweightDecoder
from corda_jax.models.encoders.mix_transformer import MixTransformer, mix_transformer
from corda_jax.models.encoders.vision_transformer import VisionTransformer, dinov2, dinov3
from corda_jax.models.hrda import Hrda
from corda_jax.pretrained.matching import find_state_dicts, format_report, match
from corda_jax.pretrained.names.networks import (
  constants,
  hub_tensors,
  licence_note,
  table_of,
  under_table_names,
)
from corda_jax.pretrained.safetensors_format import read_weights_file, write_safetensors
from corda_jax.pretrained.torch_checkpoints import export_torch, import_torch
from corda_jax.pretrained.torch_format import read_torch_file
from corda_jax.pretrained.torch_write import write_torch_file
from corda_jax.training.sharding import make_mesh
from tests.golden import golden_foundation

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = GOLDEN / "foundation" / "files"
PLAIN = {"initial_semantics_from": "none", "depth": False, "correlation": False}
RELEASED = {
  "daformer/daformer_mit_b0": (mix_transformer("B0"), FusionDecoder()),
  "daformer/daformer_mit_b1": (mix_transformer("B1"), FusionDecoder()),
  "daformer/daformer_mit_b5": (mix_transformer("B5"), FusionDecoder()),
  "foundation/mit_B0": (mix_transformer("B0"), None),
  "foundation/mit_B5": (mix_transformer("B5"), None),
  "foundation/dinov2_S": (dinov2("S"), None),
  "foundation/dinov2_B": (dinov2("B"), None),
  "foundation/dinov2_L": (dinov2("L"), None),
  "foundation/dinov2_g": (dinov2("g"), None),
  "foundation/dinov2_reg4_S": (dinov2("S", registers=True), None),
  "foundation/dinov3_S": (dinov3("S"), None),
  "foundation/dinov3_B": (dinov3("B"), None),
  "foundation/dinov3_L": (dinov3("L"), None),
}
HUB = {
  "hf_dinov2_S": (dinov2("S"), None),
  "hf_dinov2_B": (dinov2("B"), None),
  "hf_dinov2_L": (dinov2("L"), None),
  "hf_dinov2_with_registers_S": (dinov2("S", registers=True), None),
  "hf_dinov3_S": (dinov3("S"), None),
  "hf_dinov3_B": (dinov3("B"), None),
  "hf_dinov3_L": (dinov3("L"), None),
  "hf_segformer_B0": (mix_transformer("B0"), 256),
  "hf_segformer_B5": (mix_transformer("B5"), 768),
}
ENCODERS = {
  "mit": MixTransformer(widths=(4, 6, 8, 10), depths=(1, 2, 1, 1), heads=(1, 2, 2, 2)),
  "dinov2": VisionTransformer(width=8, depth=2, heads=2, position_grid=3, levels=(0, 1)),
  "swiglu": VisionTransformer(width=8, depth=2, heads=2, mlp="swiglu", levels=(1,)),
  "registers": VisionTransformer(
    width=8, depth=2, heads=2, registers=4, positions="antialias", position_grid=3, levels=(0, 1)
  ),
  "dinov3": VisionTransformer(
    width=8, depth=2, heads=2, registers=4, positions="rotary", key_bias=False, levels=(0, 1)
  ),
  "dinov3, gated": VisionTransformer(
    width=8, depth=2, heads=2, mlp="swiglu", positions="rotary", key_bias=False, levels=(1,)
  ),
}
_SMALL = {"embed_width": 4, "width": 6}
DECODERS = {
  "daformer": FusionDecoder(**_SMALL),
  "bottleneck": FusionDecoder(**_SMALL, fusion="bottleneck"),
  "segformer": FusionDecoder(**_SMALL, fusion="convolution", coarsest_first=True),
  "lightweight": LightweightDecoder(),
  "deeplab": DeepLabDecoder(width=2),
  "deeplab, reduced": DeepLabDecoder(width=0),
}


def shapes_of(network):
  shapes = jax.eval_shape(
    lambda x: network.init(jax.random.key(0), x, train=False),
    jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
  )
  return {"batch_stats": {}, **shapes}


def released(name):
  """Name → shape of a network's file, without a classifier of ImageNet."""
  shapes = json.loads(
    (GOLDEN / Path(name).with_name(f"state_dict_{Path(name).name}.json")).read_text()
  )
  return {n: tuple(shape) for n, shape in dict(shapes).items()}


def empty_state(network):
  """Tensors of the network that take no memory."""
  zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes_of(network))
  table = table_of(network)
  return {name: table.tensor(zeros, name) for name in table.names(zeros)}


@pytest.mark.parametrize("name", RELEASED)
def test_names_and_shapes_are_the_released(name):
  encoder, decoder = RELEASED[name]
  network = Corda(encoder=encoder, decoder=decoder or LightweightDecoder(8), **PLAIN)
  state = {n: x.shape for n, x in empty_state(network).items()}
  if decoder is None:
    state |= {n: x.shape for n, x in constants(network).items()}
    state = {n.removeprefix("backbone."): s for n, s in state.items() if n.startswith("backbone.")}
  assert state == released(name)


@pytest.mark.parametrize("size", ["B0", "B5"])
def test_names_and_shapes_of_hrda_are_the_released(size):
  network = Hrda(Corda(encoder=mix_transformer(size), decoder=FusionDecoder(), **PLAIN))
  state = {n: x.shape for n, x in empty_state(network).items()}
  assert state == released(f"daformer/hrda_mit_{size.lower()}")


@pytest.mark.parametrize("name", HUB)
def test_names_and_shapes_are_the_hubs(name):
  encoder, width = HUB[name]
  decoder = (
    LightweightDecoder(8)
    if width is None
    else FusionDecoder(width, width, "convolution", coarsest_first=True)
  )
  network = Corda(encoder=encoder, decoder=decoder, num_classes=150, **PLAIN)
  found = hub_tensors(empty_state(network), network)
  expected = released(f"foundation/{name}")
  decode = {n for n in expected if n.startswith("decode_head.")}
  if not decode:  # of the encoder alone
    found = {n: x for n, x in found.items() if not n.startswith("decode_head.")}
  got = {n: x.shape for n, x in found.items()}
  classifier = {"decode_head.classifier.weight", "decode_head.classifier.bias"}
  assert got.keys() == expected.keys()
  assert {n: s for n, s in got.items() if n not in classifier} == {
    n: s for n, s in expected.items() if n not in classifier
  }


def drawn(network, seed=5):
  random = np.random.RandomState(seed)
  return jax.tree.map(
    lambda x: random.standard_normal(x.shape).astype(np.float32), shapes_of(network)
  )


def zero_key_bias(network, variables):
  """Keys have no bias there, so that of the file is not read."""
  if getattr(network.encoder, "key_bias", True):
    return variables
  bias = variables["params"]["encoder"]["blocks"]["qkv"]["bias"]
  bias[:, network.encoder.width : 2 * network.encoder.width] = 0
  return variables


def matched(tensors, network):
  return match(under_table_names(tensors, network), shapes_of(network), table_of(network))


# Names of encoders and of decoders do not depend on each other.
_PAIRS = [*((e, "lightweight") for e in ENCODERS), *(("mit", d) for d in DECODERS)]


@pytest.mark.parametrize(
  ("encoder", "decoder", "suffix"),
  [*((*pair, ".pth") for pair in _PAIRS), ("mit", "daformer", ".safetensors")],
)
def test_a_round_trip_is_exact(tmp_path, encoder, decoder, suffix):
  network = Corda(
    encoder=ENCODERS[encoder], decoder=DECODERS[decoder], initial_semantics_from="decoder"
  )
  variables = drawn(network)
  state = table_of(network).state_dict(variables, steps=3) | constants(network)
  path = tmp_path / f"a{suffix}"
  if suffix == ".pth":
    write_torch_file(path, {"model": state})
  else:
    write_safetensors(path, state)
  got, report = matched(find_state_dicts(read_weights_file(path)).student, network)
  assert not report.missing
  assert all("constant" in why or "branch" in why for why in report.left.values())
  jax.tree.map(np.testing.assert_array_equal, got, variables)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_round_trip_by_the_hubs_names_is_exact(tmp_path, encoder):
  decoder = DECODERS["segformer" if encoder == "mit" else "lightweight"]
  network = Corda(encoder=ENCODERS[encoder], decoder=decoder, **PLAIN)
  variables = zero_key_bias(network, drawn(network))
  write_safetensors(
    tmp_path / "model.safetensors",
    hub_tensors(table_of(network).state_dict(variables, steps=0), network),
  )
  got, report = matched(
    find_state_dicts(read_weights_file(tmp_path / "model.safetensors")).student, network
  )
  assert not report.left
  assert encoder != "mit" or not report.missing
  assert {n for n in report.missing if n.startswith("backbone.")} == set()
  for name in report.loaded:
    table = table_of(network)
    np.testing.assert_array_equal(table.tensor(got, name), table.tensor(variables, name))


@pytest.mark.parametrize("kind", ["dinov2", "dinov3", "mit"])
def test_the_hubs_names_mean_what_they_mean_there(kind):
  """Against an independent table."""
  if kind == "mit":
    encoder = ENCODERS["mit"]
    shapes = golden_foundation.mit_shapes(encoder.widths, encoder.depths)
  elif kind == "dinov2":
    encoder, shapes = ENCODERS["dinov2"], golden_foundation.dinov2_shapes(8, 2, 3)
  else:
    encoder, shapes = ENCODERS["dinov3"], golden_foundation.dinov3_shapes(8, 2, 2)
  original = golden_foundation.tensors(shapes, "")
  network = Corda(encoder=encoder, decoder=LightweightDecoder(), **PLAIN)
  expected = golden_foundation.to_huggingface(original, kind)
  got = hub_tensors({f"backbone.{name}": x for name, x in original.items()}, network)
  assert got.keys() == expected.keys()
  jax.tree.map(np.testing.assert_array_equal, got, expected)
  back = under_table_names(expected, network)
  assert back.keys() == {f"backbone.{n}" for n in original}


@pytest.mark.parametrize(
  "name",
  ["dinov2.pth", *(f"hf_dinov2_{t}.safetensors" for t in ("f32", "f16", "bf16"))],
)
def test_files_that_others_wrote(name):
  encoder = VisionTransformer(width=8, depth=1, heads=2, position_grid=2, levels=(0,))
  network = Corda(encoder=encoder, decoder=LightweightDecoder(), **PLAIN)
  got, report = matched(find_state_dicts(read_weights_file(FILES / name)).student, network)
  expected = golden_foundation.tensors(golden_foundation.dinov2_shapes(8, 1, 2), "files.")
  assert {n.removeprefix("backbone.") for n in report.loaded} == expected.keys()
  tolerance = {"f16": 1e-3, "bf16": 8e-3}.get(name.split("_")[-1].split(".")[0], 1e-7)
  for tensor, value in expected.items():
    found = table_of(network).tensor(got, f"backbone.{tensor}")
    np.testing.assert_allclose(found, value, rtol=tolerance, atol=tolerance / 100)


@pytest.mark.parametrize("name", ["depth_anything_v2.pth", "hf_depth_anything_v2.safetensors"])
def test_the_encoder_of_a_depth_network(name):
  encoder = VisionTransformer(width=8, depth=4, heads=2, position_grid=2, levels=(3,))
  network = Corda(encoder=encoder, decoder=LightweightDecoder(), **PLAIN)
  _, report = matched(find_state_dicts(read_weights_file(FILES / name)).student, network)
  shapes = golden_foundation.dinov2_shapes(8, 4, 2)
  assert {n.removeprefix("backbone.") for n in report.loaded} == shapes.keys()
  assert report.left


def mit_network(**fields):
  return Corda(encoder=ENCODERS["mit"], decoder=DECODERS["daformer"], **PLAIN | fields)


def hrda_network():
  attention = FusionDecoder(4, 4, "convolution")
  return Hrda(mit_network(initial_semantics_from="decoder", depth=True), attention)


@pytest.mark.parametrize("network", [mit_network(), hrda_network()], ids=["daformer", "hrda"])
def test_a_training_checkpoint_of_daformer(tmp_path, network):
  student, teacher, imagenet = (
    table_of(network).state_dict(drawn(network, seed), steps=0) for seed in range(3)
  )
  parts = {"model": student, "ema_model": teacher, "imnet_model": imagenet}
  state = {f"{part}.{n}": x for part, tensors in parts.items() for n, x in tensors.items()}
  write_torch_file(tmp_path / "a.pth", {"meta": {"iter": 40_000}, "state_dict": state})
  found = find_state_dicts(read_torch_file(tmp_path / "a.pth"))
  assert found.iteration == 40_000
  for tensors, seed in ((found.student, 0), (found.teacher, 1)):
    got, report = matched(tensors, network)
    assert not report.missing
    assert not report.left
    jax.tree.map(np.testing.assert_array_equal, got, drawn(network, seed))


def test_mmsegmentations_encoder():
  """Its converter of SegFormer's files, said again."""
  network = mit_network()
  encoder = network.encoder
  shapes = golden_foundation.mit_shapes(encoder.widths, encoder.depths)
  original = golden_foundation.tensors(shapes, "")
  state = {"decode_head.convs.0.conv.weight": np.zeros((6, 4, 1, 1))}
  for name, x in original.items():
    name = re.sub(r"^patch_embed(\d)\.proj", lambda m: f"layers.{int(m[1]) - 1}.0.projection", name)
    name = re.sub(r"^patch_embed(\d)", lambda m: f"layers.{int(m[1]) - 1}.0", name)
    name = re.sub(r"^block(\d)", lambda m: f"layers.{int(m[1]) - 1}.1", name)
    name = re.sub(r"^norm(\d)", lambda m: f"layers.{int(m[1]) - 1}.2", name)
    if ".attn.kv." in name:
      continue
    if ".attn.q." in name:
      key = next(n for n in original if original[n] is x).replace(".q.", ".kv.")
      name, x = name.replace("attn.q.", "attn.attn.in_proj_"), np.concatenate([x, original[key]])
    name = name.replace("attn.proj.", "attn.attn.out_proj.")
    if re.search(r"mlp\.fc[12]\.weight", name):
      x = x[:, :, None, None]
    for theirs, mine in (("fc1", 0), ("dwconv.dwconv", 1), ("fc2", 4)):
      name = name.replace(f"mlp.{theirs}.", f"ffn.layers.{mine}.")
    state[f"backbone.{name}"] = x
  got, report = matched(state, network)
  assert {n.removeprefix("backbone.") for n in report.loaded} == original.keys()
  for name, x in original.items():
    np.testing.assert_allclose(table_of(network).tensor(got, f"backbone.{name}"), x, rtol=1e-6)
  assert list(report.left) == ["decode_head.convs.0.conv.weight"]


def test_a_report_of_imagenet_weights_says_what_was_left():
  network = mit_network()
  state = table_of(network).state_dict(drawn(network), steps=0)
  state = {n.removeprefix("backbone."): x for n, x in state.items() if n.startswith("backbone.")}
  state["head.weight"] = np.zeros((1000, 10))
  _, report = matched(state, network)
  text = format_report(report, "student")
  assert re.search(r"left 1: classifier of ImageNet: head\.weight", text)
  assert re.search(r"initial values: decode_head \(\d+\)", text)


def test_files_of_other_depths_and_with_registers_are_refused_or_noted():
  state = table_of(mit_network()).state_dict(drawn(mit_network()), steps=0)
  for depths in ((1, 3, 1, 1), (1, 1, 1, 1)):
    encoder = ENCODERS["mit"].clone(depths=depths)
    with pytest.raises(UserError, match=r"block2\.[012].*depths"):
      matched(state, Corda(encoder=encoder, decoder=DECODERS["daformer"], **PLAIN))
  wrong = state | {"backbone.block2.1.attn.q.weight": np.zeros((3, 3), np.float32)}
  with pytest.raises(UserError, match=r"block2\.1\.attn\.q\.weight.*\(3, 3\).*\(6, 6\)"):
    matched(wrong, mit_network())
  with_registers, without = (
    Corda(encoder=ENCODERS[name], decoder=LightweightDecoder(), **PLAIN)
    for name in ("registers", "dinov2")
  )
  state = table_of(with_registers).state_dict(drawn(with_registers), steps=0)
  _, report = matched(state, without)
  assert re.search(r"note.*registers.*antialias", format_report(report, "student"))
  state = table_of(without).state_dict(drawn(without), steps=0)
  _, report = matched(state, with_registers)
  assert re.search(r"note.*registers=0.*offset", format_report(report, "student"))


def test_the_classifier_of_segformers_own_files():
  """They hold another one, which their network does not use."""
  network = Corda(encoder=ENCODERS["mit"], decoder=DECODERS["segformer"], **PLAIN)
  state = table_of(network).state_dict(drawn(network), steps=0)
  theirs = {}
  for name, x in state.items():
    name = re.sub(r"embed_layers\.(\d)", lambda m: f"linear_c{int(m[1]) + 1}", name)
    name = name.replace("fuse_layer", "linear_fuse").replace("conv_seg", "linear_pred")
    theirs[name] = x
  theirs["decode_head.conv_seg.weight"] = np.zeros((19, 3, 1, 1), np.float32)
  theirs["decode_head.conv_seg.bias"] = np.zeros(19, np.float32)
  got, report = matched(find_state_dicts(theirs).student, network)
  assert not report.missing
  jax.tree.map(np.testing.assert_array_equal, got, drawn(network))


def test_licences_are_named_where_they_restrict():
  assert "NVIDIA" in licence_note(mit_network())
  for encoder, words in (("dinov2", ""), ("registers", ""), ("dinov3", "DINOv3 License")):
    network = Corda(encoder=ENCODERS[encoder], decoder=LightweightDecoder(), **PLAIN)
    assert words in licence_note(network)
    assert bool(words) == bool(licence_note(network))
  for left in ("depth_head.scratch.layer1_rn.weight", "neck.convs.0.weight"):
    for size, restricted in (("S", False), ("B", True), ("L", True)):
      network = Corda(encoder=dinov2(size), decoder=LightweightDecoder(), **PLAIN)
      assert ("CC-BY-NC" in licence_note(network, [left])) == restricted


def test_a_run_starts_from_the_hubs_file_and_writes_one(tmp_path, capsys):
  config = gta2cs_corda_mit.get_config()
  fields = {"encoder": ENCODERS["mit"], "decoder": DECODERS["segformer"]}
  for name, part in fields.items():
    config.model[name] = settings(part)
  network = Corda(**fields, initial_semantics_from="decoder")
  variables = drawn(network)
  state = table_of(network).state_dict(variables, steps=0)
  source = tmp_path / "model.safetensors"
  write_safetensors(source, hub_tensors(state, network))
  config.initial_weights = str(source)
  task = AdaptationTask.from_config(config, make_mesh(jax.devices()[:1]))
  import_torch(task, tmp_path / "run")
  assert "NVIDIA" in capsys.readouterr().out
  written = find_state_dicts(read_torch_file(export_torch(task, tmp_path / "run"))).student
  again = read_weights_file(tmp_path / "run" / "hub" / "model.safetensors")
  expected = read_weights_file(source)
  assert again.keys() == expected.keys()
  jax.tree.map(np.testing.assert_array_equal, dict(again), dict(expected))
  assert not any(name.startswith("decode_head") for name in hub_tensors(state, mit_network()))
  assert state.keys() >= written.keys() - {n for n in written if "num_batches" in n}
