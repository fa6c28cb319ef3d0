import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from corda_jax.errors import UserError
from corda_jax.models.build import build_network
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.daformer import FusionDecoder
from corda_jax.models.decoders.deeplab import DilatedClassifier
from corda_jax.models.encoders.mix_transformer import mix_transformer
from corda_jax.models.encoders.vision_transformer import dinov2, dinov3
from corda_jax.models.layers import Convolution
from corda_jax.models.normalization import Normalization
from tests import tiny
from tests.golden import released_shapes


@pytest.mark.parametrize("dilations", [(6, 12), (1, 2, 3), (20,)])
def test_dilated_classifier_is_a_sum_of_convolutions(float64, random, dilations):
  # A dilation of 20 reaches past both sides of a 9 x 13 map: only the middle tap counts there.
  layer = DilatedClassifier(3, dilations, param_dtype=jnp.float64)
  x = random.standard_normal((2, 9, 13, 5))
  params = layer.init(jax.random.key(0), x)["params"]
  params = jax.tree.map(lambda p: jnp.asarray(random.standard_normal(p.shape)), params)
  expected = 0
  for i, dilation in enumerate(dilations):
    expected += params[f"bias{i}"] + jax.lax.conv_general_dilated(
      jnp.asarray(x),
      params[f"kernel{i}"],
      (1, 1),
      ((dilation, dilation),) * 2,
      rhs_dilation=(dilation, dilation),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
  got = jax.jit(layer.apply)({"params": params}, x)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_predictions_in_half_the_bits_are_not_rounded_to_them(random):
  def narrow(shape):  # what bfloat16 holds
    return jnp.asarray(random.standard_normal(shape), jnp.bfloat16)

  x = narrow((2, 9, 13, 64))
  for layer in (
    DilatedClassifier(3, (1, 2), dtype=jnp.bfloat16),
    Convolution(3, predicts=True, use_bias=True, dtype=jnp.bfloat16),
  ):
    params = layer.init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda p: narrow(p.shape).astype(jnp.float32), params)
    got = layer.apply({"params": params}, x)
    exact = layer.clone(dtype=jnp.float32).apply({"params": params}, x.astype(jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, exact, atol=1e-4)  # bfloat16 near 30: 0.06

    def loss(params, layer=layer):
      return (layer.apply({"params": params}, x) ** 2).sum()

    gradients = jax.tree.leaves(jax.grad(loss)(params))
    assert all(bool(jnp.isfinite(g).all()) and bool(g.any()) for g in gradients)


def shapes(config, size=(97, 129)):
  model = build_network(config, 19)
  image = jnp.zeros((2, *size, 3))
  outputs, variables = jax.eval_shape(
    lambda: model.init_with_output(jax.random.key(0), image, train=True)
  )
  count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables))
  return outputs, count


@functools.cache
def whole_count():
  """Parameters and statistics of the tiny network with all its parts."""
  return shapes(tiny.get_config().model, (tiny.HEIGHT, tiny.WIDTH))[1]


def test_released_networks_have_the_released_sizes():
  # Values of state_dict_gta.json and state_dict_synthia.json, less the branches of dilation 18 and
  # 24, which the release stores and never uses.
  config = default.get_config().model
  outputs, count = shapes(config)
  assert count == released_size("gta")
  assert {k: v.shape for k, v in outputs.items()} == {
    "initial_S": (2, 13, 17, 19),
    "initial_D": (2, 13, 17, 1),
    "initial_D_src": (2, 13, 17, 1),
    "S": (2, 13, 17, 19),
    "D": (2, 13, 17, 1),
    "D_src": (2, 13, 17, 1),
  }
  config.initial_semantics_from = "decoder"
  outputs, count = shapes(config, (89, 121))
  assert count == released_size("synthia")
  assert outputs["S"].shape == (2, 12, 16, 19)


def released_size(variant):
  unused = ("conv2d_list.2.", "conv2d_list.3.")
  used = {n: s for n, s in released_shapes(variant).items() if not any(u in n for u in unused)}
  return sum(int(np.prod(shape)) for shape in used.values())


PLAIN = {name.removeprefix("model."): value for name, value in tiny.PLAIN.items()}


@pytest.mark.parametrize(
  ("fields", "outputs"),
  [
    ({"depth": False, "correlation": False}, {"S", "initial_S"}),
    ({"correlation": False}, {"S", "initial_S", "D", "D_src", "initial_D", "initial_D_src"}),
    (PLAIN, {"S"}),
  ],
)
def test_parts_can_be_left_out(fields, outputs):
  config = tiny.get_config(**{f"model.{k}": v for k, v in fields.items()})
  got, count = shapes(config.model, (tiny.HEIGHT, tiny.WIDTH))
  assert set(got) == outputs
  assert count < whole_count()


def test_depth_heads_begin_where_the_configuration_says(random):
  x = jnp.asarray(random.standard_normal((1, 16, 16, 3)), jnp.float32)
  fields = {"model.initial_inverse_depth": 65.0, "model.decoder.dilations": (1, 2, 3)}
  model = build_network(tiny.get_config(**fields).model, 19)
  outputs, _ = jax.jit(lambda key, x: model.init_with_output(key, x, train=True))(
    jax.random.key(0), x
  )
  for name, output in outputs.items():
    assert abs(float(output.mean()) - (65 if "D" in name else 0)) < 1, name


def test_the_stem_rounds_its_size_as_configured():
  for ceil, size in ((True, (5, 9)), (False, (4, 8))):
    config = tiny.get_config(**{"model.encoder.stem_pool": True})
    config.model.encoder.stem_pool_ceil = ceil
    config.model.encoder.strides = (1, 1)
    outputs, _ = shapes(config.model, (16, 32))
    assert outputs["S"].shape[1:3] == size


def test_correlation_joins_the_tasks(random):
  """With correlation the semantic prediction depends on the depth decoder, without it not."""
  x = jnp.asarray(random.standard_normal((1, tiny.HEIGHT, tiny.WIDTH, 3)), jnp.float32)
  for correlation in (True, False):
    model = build_network(tiny.get_config(**{"model.correlation": correlation}).model, 19)
    shapes = jax.eval_shape(lambda model=model: model.init(jax.random.key(0), x, train=False))
    params = jax.tree.map(lambda p: 0.2 * random.standard_normal(p.shape), shapes["params"])
    params = jax.tree.map(jnp.float32, params)
    stats = jax.tree.map(lambda p: jnp.ones(p.shape), shapes["batch_stats"])

    @jax.jit
    @jax.grad
    def gradient(decoder, params, stats, model=model):
      variables = {"params": params | {"decoder_D_block1": decoder}, "batch_stats": stats}
      return (model.apply(variables, x, train=False)["S"] ** 2).sum()

    found = jax.tree.leaves(gradient(params["decoder_D_block1"], params, stats))
    assert all(np.isfinite(g).all() for g in found)
    assert any(g.any() for g in found) is correlation


def test_normalization_turns_rgb_into_bgr_minus_mean():
  normalization = Normalization((10.0, 20.0, 30.0), (1.0, 2.0, 4.0), bgr=True)
  rgb = jnp.array([[[[100, 50, 20]]]], jnp.uint8)
  x = normalization.normalize(rgb)
  np.testing.assert_array_equal(x, [[[[10, 15, 17.5]]]])
  np.testing.assert_allclose(normalization.to_unit_range(x) * 255, [[[[20, 50, 100]]]], rtol=1e-6)
  np.testing.assert_allclose(
    normalization.from_unit_range(normalization.to_unit_range(x)), x, rtol=1e-5
  )
  plain = Normalization((10.0, 20.0, 30.0), (1.0, 2.0, 4.0), bgr=False)
  np.testing.assert_array_equal(plain.normalize(rgb), [[[[90, 15, -2.5]]]])


@pytest.mark.parametrize(
  ("field", "value", "known"),
  [("part", "unet", "module:Class"), ("kernel_init", "zeros", "he_normal")],
)
def test_unknown_names_are_reported(field, value, known):
  config = tiny.get_config(**{f"model.{field}": value})
  with pytest.raises(UserError, match=rf"model\.{field}.*{value}.*{known}"):
    build_network(config.model, 19)


@pytest.mark.parametrize("variant", ["encoder", "decoder"])
def test_what_a_network_predicts_is_wide_whatever_it_computes_in(variant):
  config = tiny.get_config(**{"model.dtype": "bfloat16", "model.initial_semantics_from": variant})
  model = build_network(config.model, 19)
  image = jnp.zeros((1, 17, 25, 3))
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
  outputs = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)
  assert len(outputs) == 6
  assert {name: x.dtype for name, x in outputs.items()} == dict.fromkeys(outputs, jnp.float32)


TRANSFORMERS = {
  "dinov2 S": (dinov2("S"), 22_056_576),
  "dinov2 B": (dinov2("B"), 86_580_480),
  "dinov2 L": (dinov2("L"), 304_368_640),
  "dinov2 g": (dinov2("g"), 1_136_480_768),
  # Four registers of the width beside.
  "registers S": (dinov2("S", registers=True), 22_056_576 + 4 * 384),
  "registers B": (dinov2("B", registers=True), 86_580_480 + 4 * 768),
  "registers L": (dinov2("L", registers=True), 304_368_640 + 4 * 1024),
  "registers g": (dinov2("g", registers=True), 1_136_480_768 + 4 * 1536),
  "dinov3 S": (dinov3("S"), 21_601_152),
  "dinov3 B": (dinov3("B"), 85_669_632),
  "dinov3 L": (dinov3("L"), 303_154_176),
}


def encoder_shapes(encoder):
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  init = functools.partial(encoder.init, train=False, method="features")
  return jax.eval_shape(init, jax.random.key(0), x)["params"]


def parameters_in(shapes):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_vision_transformers_have_the_released_sizes(name):
  encoder, expected = TRANSFORMERS[name]
  assert parameters_in(encoder_shapes(encoder)) == expected


@pytest.mark.parametrize("size", ["B0", "B1", "B2", "B3", "B4", "B5"])
def test_mix_transformers_have_the_released_sizes(size):
  path = Path(__file__).parents[1] / "golden" / "daformer" / "parameter_counts.json"
  expected = json.loads(path.read_text())[f"mit_{size.lower()}"]
  encoder = mix_transformer(size)
  assert parameters_in(encoder_shapes(encoder)) == expected["encoder"]
  network = Corda(
    encoder=encoder,
    decoder=FusionDecoder(),
    initial_semantics_from="none",
    depth=False,
    correlation=False,
  )
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), x)["params"]
  assert parameters_in(shapes) - expected["encoder"] == expected["daformer_head"]


def test_fresh_weights_of_mix_transformers():
  encoder = mix_transformer("B0")
  x = jnp.zeros((1, 32, 32, 3))
  params = jax.jit(lambda: encoder.init(jax.random.key(0), x, train=False, method="features"))()
  params = params["params"]
  block = params["stage1_blocks"]
  for kernel, deviation in (
    (params["stage1_embed"]["kernel"], (2 / (7 * 7 * 32)) ** 0.5),
    (block["attn"]["sr"]["kernel"], (2 / (8 * 8 * 32)) ** 0.5),
    (block["attn"]["q"]["kernel"], 0.02),
    (block["mlp"]["dwconv"]["kernel"], (2 / 9) ** 0.5),
  ):
    np.testing.assert_allclose(kernel.std(), deviation, rtol=0.05)


def test_images_too_small_for_reduced_keys_are_refused():
  x = jax.ShapeDtypeStruct((1, 28, 64, 3), jnp.float32)
  with pytest.raises(ValueError, match=r"7x16.*8x8"):
    jax.eval_shape(
      lambda x: mix_transformer("B0").init(jax.random.key(0), x, train=False, method="features"), x
    )
