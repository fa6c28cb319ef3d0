"""A network that sees depth: what is fused, what is hidden, and a step that learns from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.default import depth_as_input
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.daformer import FusionDecoder
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.depth_guided import DepthGuided, network_input, with_depth
from corda_jax.models.encoders.mix_transformer import MixTransformer
from corda_jax.models.encoders.resnet import ResNet
from corda_jax.models.encoders.vision_transformer import VisionTransformer
from corda_jax.models.hrda import DetailCrop, Hrda
from corda_jax.pretrained.names.networks import table_of
from corda_jax.training.optimizer import AdamW
from corda_jax.training.sharding import make_mesh, put_batch, replicated_key
from tests import tiny, tiny_recipes

ENCODER = ResNet(
  stage_sizes=(1, 1), strides=(1, 2), dilations=(1, 1), width=4, expansion=1, stem_kernel=3,
  stem_pool=False, trainable_affine=True,
)  # fmt: skip
SIZE = (32, 48)
PLAIN = {"initial_semantics_from": "none", "depth": False, "correlation": False}


def network(**fields):
  own = {"decoder": DeepLabDecoder(width=0, dilations=(1,)), "num_classes": 5}
  own |= {"depth_encoder": ENCODER.clone(width=2), "dropout_block": 8}
  return DepthGuided(ENCODER, **PLAIN | own | fields)


def variables_of(model):
  made = model.init(jax.random.key(0), jnp.zeros((1, *SIZE, 4)), train=False)
  random = np.random.RandomState(0)
  return jax.tree.map(lambda x: jnp.asarray(random.uniform(0.1, 0.9, x.shape), x.dtype), made)


def levels(model, variables, x, draws=None):
  """The image's features, the depth's and the fused ones."""

  def run(net):
    parts = net.encoder.features(x[..., :3], train=False)
    of_depth = net.depth_encoder.features(x[..., 3:], train=False)
    return parts, of_depth, net.with_levels(x, train=False, draws=draws)[1]

  return jax.jit(lambda v: model.apply(v, method=run))(variables)


def convolved(params, name, x):
  return x @ params[name]["kernel"][0, 0] + params[name]["bias"]


@pytest.mark.parametrize("fusion", ["sum", "gated"])
def test_levels_are_the_images_and_what_the_depths_add(random, fusion):
  model = network(fusion=fusion)
  variables = variables_of(model)
  x = jnp.asarray(random.standard_normal((2, *SIZE, 4)), jnp.float32)
  image, depth, found = levels(model, variables, x)
  params = variables["params"]
  assert len(found.read) == len(ENCODER.level_strides) == 3
  for i, (y, z) in enumerate(zip(image, depth, strict=True)):
    np.testing.assert_array_equal(found.encoder[i], y)
    added = convolved(params, f"fusion{i}_depth", z)
    if fusion == "gated":
      both = jnp.concatenate([y, z], -1)
      added *= jax.nn.sigmoid(convolved(params, f"fusion{i}_gate", both))
    np.testing.assert_allclose(found.read[i], y + added, rtol=1e-5)


def test_hidden_features_are_zero_on_all_levels_alike(random):
  model = network(fusion="sum")
  variables = variables_of(model)
  x = jnp.asarray(random.standard_normal((2, *SIZE, 4)), jnp.float32)
  seen = np.zeros((2, 4, 6), bool)
  seen[0, :2] = True  # of the first image, the upper half; of the second, nothing
  draws = {"image_seen": jnp.asarray(seen), "depth_seen": jnp.asarray(~seen)}
  image, depth, found = levels(model, variables, x, draws)
  for i, (y, z) in enumerate(zip(image, depth, strict=True)):
    half = y.shape[1] // 2
    kernel, bias = (variables["params"][f"fusion{i}_depth"][k] for k in ("kernel", "bias"))
    np.testing.assert_allclose(found.read[i][0, :half], y[0, :half] + bias, rtol=1e-5)
    expected = z @ kernel[0, 0] + bias
    np.testing.assert_allclose(found.read[i][0, half:], expected[0, half:], rtol=1e-5)
    np.testing.assert_allclose(found.read[i][1], expected[1], rtol=1e-5)
    # What the feature distance compares is the image's, whole.
    np.testing.assert_array_equal(found.encoder[i], y)


def test_one_of_both_is_hidden_in_each_block_of_some_images():
  model = network(dropout=0.25, image_dropout=0.7)
  draws = model.sample(jax.random.key(1), (4000, *SIZE))
  image, depth = (np.asarray(draws[f"{name}_seen"]) for name in ("image", "depth"))
  assert image.shape == depth.shape == (4000, 4, 6)
  whole = (image & depth).all((1, 2))
  assert (image ^ depth)[~whole].all()
  assert whole.mean() == pytest.approx(0.75, abs=0.03)
  assert image[~whole].mean() == pytest.approx(0.3, abs=0.02)
  assert "image_seen" not in network(dropout=0.0).sample(jax.random.key(1), (1, *SIZE))


def test_the_channel_of_the_depth():
  x = np.zeros((1, 1, 3, 3), np.float32)
  got = with_depth(x, jnp.asarray([[[1.0, 0.5, 257.0]]]))
  np.testing.assert_allclose(got[0, 0, :, 3], [0, 0, np.log(257) / 3], rtol=1e-6)
  with pytest.raises(ValueError, match="no inverse_depth"):
    network_input(network(), jnp.asarray(x), None)
  with pytest.raises(ValueError, match="3 channels"):
    network().init(jax.random.key(0), jnp.zeros((1, *SIZE, 3)), train=False)


def test_levels_of_other_strides_are_refused():
  with pytest.raises(ValueError, match="depth_encoder has levels of the strides"):
    network(depth_encoder=ENCODER.clone(strides=(2, 2)))


def at_two_resolutions():
  config = tiny_recipes.get_config("gta2cs_mic", plain=True)
  depth_as_input(config, tiny_recipes.RESNET, dropout_block=16)
  return config


def test_hidden_blocks_are_as_large_in_the_detail():
  model = Hrda(network(dropout_block=8), detail=DetailCrop(16, 24))
  draws = model.sample(jax.random.key(0), (2, *SIZE))
  assert draws["context"]["image_seen"].shape == (2, 4, 6)
  assert draws["detail"]["image_seen"].shape == draws["detail"]["depth_seen"].shape == (2, 2, 3)


def test_scores_and_pictures_depend_on_the_depth():
  config = tiny.get_config(**tiny.PLAIN)
  del config.terms.depth_files
  depth_as_input(config, tiny_recipes.RESNET.clone(dilations=(1, 2)))
  task = AdaptationTask.from_config(config, make_mesh(jax.devices()[:1]))
  assert "inverse_depth" in task.needs("evaluate")[0].contents
  assert all("inverse_depth" in need.contents for need in task.needs("train"))
  state = task.initial_state()
  state = state.replace(
    params=jax.tree.map(
      lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape).astype(x.dtype), state.params
    )
  )
  batches = [
    batch | {"inverse_depth": tiny.get_batch(seed)["target_inverse_depth"]}
    for seed, batch in enumerate(tiny.evaluation_batches())
  ]
  flat = [batch | {"inverse_depth": np.ones_like(batch["inverse_depth"])} for batch in batches]
  matrices = [task.evaluator.confusion(state, each)[0] for each in (batches, flat)]
  assert matrices[0].sum() == matrices[1].sum() > 0
  assert (matrices[0] != matrices[1]).any()
  pictures = [task.evaluator.pictures(state, each, 2)["prediction"] for each in (batches, flat)]
  assert (pictures[0] != pictures[1]).any()


def test_data_without_depth_are_refused():
  filtered = tiny_recipes.get_config("gta2cs_mic", plain=True)
  filtered.mixing.depth_filter.kind = "released"
  for config in (at_two_resolutions(), filtered):
    with pytest.raises(UserError, match=r"data\.source\.depth is 'none'"):
      AdaptationTask.from_config(config, make_mesh(jax.devices()[:1]))


@pytest.mark.slow
def test_one_pass_of_the_student_gives_the_same_numbers(float64):
  types = {"model.dtype": "float64", "model.param_dtype": "float64", **tiny.PLAIN}
  losses = []
  for together in (False, True):
    config = tiny.get_config(**types, **{"compute.one_student_pass": together})
    del config.terms.depth_files
    depth_as_input(config, tiny_recipes.RESNET.clone(dilations=(1, 2)), dropout_block=4)
    task = AdaptationTask.from_config(config, make_mesh(jax.devices()[:1]))
    batch = put_batch(task.mesh, task.batch_inputs(tiny.get_batch()))
    _, metrics = task.compile_step()(task.initial_state(), batch, replicated_key(task.mesh, 0))
    losses.append(jax.device_get(metrics))
  for name, value in losses[0].items():
    np.testing.assert_allclose(losses[1][name], value, rtol=1e-9, err_msg=name)


def test_encoders_that_do_not_go_together_are_refused():
  with pytest.raises(ValueError, match="trainable_affine"):
    network(depth_encoder=ENCODER.clone(trainable_affine=False))
  vision = VisionTransformer(width=8, depth=1, heads=2, levels=(0,), image_scale=1.1)
  with pytest.raises(ValueError, match=r"image_scale is 1\.0"):
    DepthGuided(vision, depth_encoder=vision.clone(image_scale=1.0), **PLAIN)


def test_norms_of_both_encoders_are_not_decayed():
  group = AdamW(decay_encoder_norms=False).group
  for encoder, factor in (("encoder", 0.0), ("depth_encoder", 0.0), ("decoder_S", 1.0)):
    name = f"{encoder}/stage1_block0/norm1/scale"
    assert group(name, freeze_encoder_affine=False).weight_decay_factor == factor


@pytest.mark.parametrize("depth_encoder", ["resnet", "mit"])
def test_every_tensor_has_a_name_in_files(depth_encoder):
  mit = MixTransformer(widths=(4, 4, 5, 8), depths=(1, 2, 1, 1), heads=(1, 2, 5, 4))
  if depth_encoder == "mit":
    model = DepthGuided(mit, FusionDecoder(4, 4), num_classes=5, depth_encoder=mit.clone(), **PLAIN)
  else:
    model = network()
  x = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)
  shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
  table = table_of(model)
  names = table.names({"batch_stats": {}, **shapes})
  assert all(table.place(name) == place for name, place in names.items())
  alone = table_of(Corda(model.encoder, model.decoder, num_classes=5, **PLAIN))
  own = {name for name in names if not name.startswith(("depth_backbone.", "depth_fusion."))}
  assert {table.place(name) for name in own} == {alone.place(name) for name in own}
