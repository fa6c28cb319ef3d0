"""Networks at two resolutions, beyond their reference values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.models.corda import Corda
from corda_jax.models.decoders.deeplab import DeepLabDecoder
from corda_jax.models.encoders.resnet import ResNet
from corda_jax.models.hrda import DetailCrop, Hrda
from corda_jax.training.sharding import make_mesh
from tests import tiny_recipes

SIZE = (32, 48)
CLASSES = 5


def network(**fields):
  encoder = ResNet(
    stage_sizes=(1, 1), strides=(1, 2), dilations=(1, 1), width=2, expansion=1, stem_kernel=3,
    stem_pool=False,
  )  # fmt: skip
  own = {"decoder": DeepLabDecoder(width=2, dilations=(1,)), "num_classes": CLASSES}
  own |= {"initial_semantics_from": "decoder", **fields}
  return Hrda(
    Corda(encoder=encoder, **own),
    DeepLabDecoder(width=0, dilations=(1,)),
    DetailCrop(16, 24),
    num_classes=CLASSES,
  )


@pytest.fixture(scope="module")
def variables():
  x = jnp.zeros((1, *SIZE, 3))
  made = network().init(jax.random.key(0), x, train=False)
  random = np.random.RandomState(0)
  return jax.tree.map(lambda x: jnp.asarray(random.uniform(0.1, 0.9, x.shape), x.dtype), made)


def apply(variables, x, draws=None, model=None, train=False):
  model = model or network()
  mutable = ["intermediates", "batch_stats"]
  run = jax.jit(lambda v, x, d: model.apply(v, x, train=train, draws=d, mutable=mutable))
  outputs, kept = run(variables, x, draws)
  return outputs, kept["intermediates"]


def test_variables_are_the_networks_and_the_attentions(variables):
  alone = network().network.init(jax.random.key(0), jnp.zeros((1, *SIZE, 3)), train=False)
  for kind, of_kind in alone.items():
    if kind != "intermediates":
      assert of_kind.keys() <= variables[kind].keys()
  assert variables["params"].keys() - alone["params"].keys() == {"final_attention"}


def test_outputs_of_a_pass_with_a_detail_and_of_windows(variables, random):
  x = jnp.asarray(random.standard_normal((2, *SIZE, 3)), jnp.float32)
  draws = network().sample(jax.random.key(3), x.shape[:3])
  outputs, kept = apply(variables, x, draws)
  fine, coarse, detail = (2, 8, 12), (2, 4, 6), (2, 4, 6)
  shapes = {name: y.shape for name, y in outputs.items()}
  of_depth = dict.fromkeys(("initial_D", "initial_D_src", "D", "D_src"), (*coarse, 1))
  semantic = {"S": fine, "initial_S": fine, "detail_S": detail, "detail_initial_S": detail}
  assert shapes == of_depth | {name: (*size, CLASSES) for name, size in semantic.items()}
  assert [level.shape[1:3] for level in kept["levels"][0]][-1] == coarse[1:]
  windows, _ = apply(variables, x)
  assert windows.keys() == outputs.keys() - {"detail_S", "detail_initial_S"}
  for name, value in windows.items():
    assert value.shape == outputs[name].shape, name
  np.testing.assert_allclose(windows["D"], outputs["D"], rtol=1e-5)  # the context's


def test_the_attention_is_zero_outside_of_the_detail(variables, random):
  x = jnp.asarray(random.standard_normal((2, *SIZE, 3)), jnp.float32)
  draws = network().sample(jax.random.key(3), x.shape[:3]) | {"corner": jnp.array([8, 16])}
  fused = apply(variables, x, draws)[1]["fused_S"][0]
  inside = np.zeros((4, 6), bool)
  inside[1:3, 2:5] = True
  np.testing.assert_array_equal((np.asarray(fused.attention) > 0).all((0, 3)), inside)
  assert not np.asarray(fused.attention)[:, ~inside].any()
  assert not np.asarray(fused.detail)[:, ~inside.repeat(2, 0).repeat(2, 1)].any()


def test_other_sizes_are_filled_up_and_cut_again(variables, random):
  x = jnp.asarray(random.standard_normal((1, 30, 45, 3)), jnp.float32)
  outputs, _ = apply(variables, x)
  assert outputs["S"].shape == (1, 8, 12, CLASSES)
  filled = jnp.pad(x, ((0, 0), (0, 2), (0, 3), (0, 0)), mode="edge")
  expected, _ = apply(variables, filled)
  np.testing.assert_array_equal(outputs["S"], expected["S"])


@pytest.mark.parametrize("last_position", [False, True])
def test_the_detail_is_at_any_multiple_but_perhaps_the_last(last_position):
  crop = DetailCrop(16, 24, last_position=last_position)
  keys = jax.random.split(jax.random.key(0), 400)
  corners = np.asarray(jax.vmap(lambda key: crop.sample(key, SIZE))(keys))
  # As released: 8 randint(0 .. (32 - 16 + 1) // 8 - 1), that is, the last of three is not sampled.
  expected = ({0, 8, 16}, {0, 8, 16, 24}) if last_position else ({0, 8}, {0, 8, 16})
  assert tuple(map(set, corners.T.tolist())) == expected
  whole = DetailCrop(64, 64, last_position=last_position)
  assert whole.size(SIZE) == SIZE
  assert not np.asarray(whole.sample(jax.random.key(1), SIZE)).any()


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("model.detail.height", 20, r"model\.detail\.height is 20.*multiple.*8"),
    ("data.crop_width", 60, r"data\.crop_width is 60.*multiple.*8"),
    ("model.detail.multiple", 4, r"model\.detail\.multiple is 4.*8 pixels"),
    ("model.batch_norm_group", 2, r"batch_norm_group is 2.*as a whole.*0"),
    ("compute.one_student_pass", True, r"one_student_pass.*detail.*False"),
    ("terms.masked.hidden", "patches", r"terms\.masked\.hidden.*Vision Transformer"),
    ("model.detail.loss_weight", 2.0, r"loss_weight is 2\.0.*0 to 1"),
  ],
)
def test_what_does_not_fit_is_named(field, value, message):
  config = tiny_recipes.get_config("gta2cs_mic", plain=True, **{field: value})
  with pytest.raises(UserError, match=message):
    AdaptationTask.from_config(config, make_mesh(jax.devices()[:1]))
