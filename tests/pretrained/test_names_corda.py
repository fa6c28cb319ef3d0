"""Names and shapes: what of a PyTorch file goes into a network, and what comes out of it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import gta2cs, synthia2cs
from corda_jax.errors import UserError
from corda_jax.models.build import build_network
from corda_jax.pretrained.matching import find_state_dicts, format_report, match
from corda_jax.pretrained.names.corda import CORDA, DEEPLAB
from corda_jax.pretrained.torch_format import read_torch_file
from corda_jax.pretrained.torch_write import write_torch_file
from tests import tiny
from tests.golden import golden, released_shapes

RELEASED = {"gta": gta2cs, "synthia": synthia2cs}
NETWORKS = {
  "gta": {},
  "synthia": {"model.initial_semantics_from": "decoder"},
  "without depth": {"model.depth": False, "model.correlation": False},
  "deeplab": tiny.PLAIN,
}


def variable_shapes(config):
  image = jnp.zeros((1, 32, 32, 3))
  model = build_network(config.model, 19)
  return jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=True))


def network_of(config):
  return CORDA if config.model.decoder.width else DEEPLAB


def options(config):
  return {
    "table": network_of(config),
    "classifier_dilations": tuple(config.model.decoder.dilations),
  }


@pytest.fixture
def deeplab():
  """A plain network: shapes, options of `match`, and a state dict for it."""
  return case("deeplab")


@pytest.fixture
def corda():
  return case("gta")


def case(network):
  config = tiny.get_config(**NETWORKS[network])
  shapes = variable_shapes(config)
  random = np.random.RandomState(5)
  variables = jax.tree.map(lambda x: random.standard_normal(x.shape).astype(x.dtype), shapes)
  state = network_of(config).state_dict(variables, steps=7)
  return variables, shapes, options(config), state


@pytest.mark.parametrize("variant", RELEASED)
def test_names_there_and_back(variant):
  released = released_shapes(variant)
  for name in released:
    assert CORDA.name(CORDA.place(name)) == name
  shapes = variable_shapes(RELEASED[variant].get_config())
  unused = {n for n in released if ".conv2d_list.2." in n or ".conv2d_list.3." in n}
  assert CORDA.names(shapes).keys() == released.keys() - unused


def test_names_mean_what_the_release_means():
  # S listens to D: the release names the listener first.
  correlation = "multi_modal_distillation.self_attention.S.D"
  heads = "initial_task_prediction_heads"
  for name, collection, path in (
    ("layer3.22.bn2.running_var", "batch_stats", "encoder/stage3_block22/norm2/var"),
    ("layer4.0.downsample.1.weight", "params", "encoder/stage4_block0/projection_norm/scale"),
    (f"{correlation}.conv.weight", "params", "correlation_D_to_S/message/kernel"),
    (f"{correlation}.attention.0.weight", "params", "correlation_D_to_S/attention/kernel"),
    (f"{heads}.layers.D.1.conv3.weight", "params", "decoder_D_block1/conv3/kernel"),
    (f"{heads}.conv_out.D_src.bias", "params", "initial_D_src/bias"),
    ("heads.D_src.conv2d_list.1.weight", "params", "final_D_src/kernel1"),
  ):
    assert CORDA.place(name) == (collection, path, None)


def test_names_that_mean_nothing():
  assert DEEPLAB.place("layer5.conv2d_list.1.bias") == (
    "params",
    "final_S/bias1",
    None,
  )
  for name, network in (
    ("layer5.conv2d_list.1.bias", CORDA),
    ("heads.S.conv2d_list.0.weight", DEEPLAB),
    ("fc.weight", CORDA),
    ("layer1.0.bn1.num_batches_tracked", CORDA),
    ("layer1.0.conv1.running_mean", CORDA),
    ("layer1.0.conv1", CORDA),
  ):
    with pytest.raises(KeyError, match=rf"{re.escape(name)}.*{network.network}"):
      network.place(name)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_round_trip_is_exact(tmp_path, network):
  variables, shapes, kwargs, state = case(network)
  write_torch_file(tmp_path / "a.pth", {"model": state, "ema_model": state, "iteration": 7})
  found = find_state_dicts(read_torch_file(tmp_path / "a.pth"))
  assert found.iteration == 7
  for tensors in (found.student, found.teacher):
    got, report = match(tensors, shapes, **kwargs)
    jax.tree.map(np.testing.assert_array_equal, got, variables)
    assert report.missing == []
    (reason,) = set(report.left.values())
    assert re.search(r"decoder\.dilations.*\(1, 2\)", reason)
    assert sorted(report.loaded) == sorted(kwargs["table"].names(shapes))
  again = kwargs["table"].state_dict(got, steps=7)
  assert again.keys() == state.keys()
  for name, tensor in again.items():
    np.testing.assert_array_equal(tensor, state[name])


def test_what_a_strict_load_needs_beside_the_weights(corda):
  variables, _, _, state = corda
  norms = [name for name in state if name.endswith("running_mean")]
  assert len(norms) == sum(name.endswith("num_batches_tracked") for name in state)
  for name in norms:
    tracked = state[name.replace("running_mean", "num_batches_tracked")]
    assert (tracked.dtype, tracked.shape, int(tracked)) == (np.int64, (), 7)
  for branch in range(4):
    weight, bias = (state[f"heads.D.conv2d_list.{branch}.{leaf}"] for leaf in ("weight", "bias"))
    assert (weight.shape, bias.shape) == ((1, 16, 3, 3), (1,))
    assert weight.any() == bias.any() == (branch < 2)
  kernel = variables["params"]["final_D"]["kernel1"]
  assert state["heads.D.conv2d_list.1.weight"][0, 5, 2, 1] == kernel[2, 1, 5, 0]
  wide = jax.tree.map(lambda x: x.astype(np.float64), variables)
  dtypes = {tensor.dtype.name for tensor in CORDA.state_dict(wide, steps=0).values()}
  assert dtypes == {"float32", "int64"}


@pytest.mark.parametrize("variant", RELEASED)
def test_released_files_fit_whole(tmp_path, variant):
  released = released_shapes(variant)
  tensors = {n: golden.parameter(n, shape).astype(np.float32) for n, shape in released.items()}
  write_torch_file(tmp_path / "a.pth", {"model": {f"module.{n}": x for n, x in tensors.items()}})
  config = RELEASED[variant].get_config()
  shapes = variable_shapes(config)
  found = find_state_dicts(read_torch_file(tmp_path / "a.pth"))
  assert found.teacher is None
  got, report = match(found.student, shapes, **options(config))
  assert report.missing == []
  (reason,) = set(report.left.values())
  assert re.search(r"decoder\.dilations.*\(6, 12\)", reason)
  assert len(report.left) == {"gta": 16, "synthia": 12}[variant]
  assert len(report.loaded) + len(report.left) == len(released)
  for name in report.loaded:
    np.testing.assert_array_equal(CORDA.tensor(got, name), tensors[name])
  assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, shapes)
  exported = CORDA.state_dict(got, steps=3)
  counts = {n for n in exported if n.endswith("num_batches_tracked")}
  assert {n: exported[n].shape for n in exported.keys() - counts} == released
  assert len(counts) == sum(n.endswith("running_var") for n in released)


def test_prefixes_and_places(deeplab):
  _, shapes, kwargs, state = deeplab
  for tree in (
    state,
    {"model": state, "optimizer": {"state": {}}, "config": {"a": 1}},
    {"state_dict": {f"module.{n}": x for n, x in state.items()}, "epoch": 3},
    {f"Scale.{n}": x for n, x in state.items()},
    {"model": {f"module.Scale.{n}": x for n, x in state.items()}, "ema_model": None},
  ):
    found = find_state_dicts(tree)
    assert found.teacher is None
    assert found.iteration is None
    assert found.student.keys() == {n for n in state if not n.endswith("num_batches_tracked")}
    assert match(found.student, shapes, **kwargs)[1].missing == []
  twice = {"conv1.weight": np.zeros(1), "Scale.conv1.weight": np.ones(1)}
  assert find_state_dicts(twice).student == twice


@pytest.mark.parametrize(
  ("tree", "message"),
  [
    ([1, 2], r"list.*dict"),
    ({}, r"nothing.*model.*state_dict"),
    ({"net": {}, "epoch": 3, "model": None, "x\n": 1}, r"'net'.*'epoch'.*'model'.*1.*state_dict"),
    ({"bn1.num_batches_tracked": np.array(1)}, r"bn1\.num_batches_tracked.*model.*state_dict"),
  ],
)
def test_files_without_tensors(tree, message):
  with pytest.raises(UserError, match=message):
    find_state_dicts(tree)


def test_another_classifier_is_left_with_a_reason(deeplab, corda):
  _, shapes, kwargs, state = deeplab
  coco = dict(state)
  for branch in range(4):
    coco[f"layer5.conv2d_list.{branch}.weight"] = np.zeros((21, 16, 3, 3), np.float32)
    coco[f"layer5.conv2d_list.{branch}.bias"] = np.zeros(21, np.float32)
  got, report = match(coco, shapes, **kwargs)
  assert "final_S" not in got["params"]
  reason = report.left["layer5.conv2d_list.0.weight"]
  assert re.search(r"\(21, 16, 3, 3\).*\(19, 16, 3, 3\)", reason)
  assert "model.decoder.dilations" in report.left["layer5.conv2d_list.2.weight"]
  assert report.missing == [
    f"layer5.conv2d_list.{i}.{x}" for x in ("bias", "weight") for i in (0, 1)
  ]
  assert reason in format_report(report, "student")
  # Its shape fits CorDA's final classifier here, which reads another feature.
  _, shapes, kwargs, _ = corda
  got, report = match(state, shapes, **kwargs)
  assert "DeepLab" in report.left["layer5.conv2d_list.0.weight"]
  assert got["params"].keys() == {"encoder"}
  assert {name.split(".")[0] for name in report.missing} == {
    "heads",
    "initial_task_prediction_heads",
    "multi_modal_distillation",
  }
  assert re.search(r"\bheads\D+12\b", format_report(report, "student"))


def test_corda_into_deeplab_and_between_variants(deeplab, corda):
  state = corda[3]
  _, shapes, kwargs, _ = deeplab
  got, report = match(state, shapes, **kwargs)
  assert got["params"].keys() == {"encoder"}
  assert "network" in report.left["heads.S.conv2d_list.0.weight"]
  _, shapes, kwargs, _ = case("synthia")
  got, report = match(state, shapes, **kwargs)
  assert report.missing == [
    f"initial_task_prediction_heads.conv_out.S.{x}" for x in ("bias", "weight")
  ]


def test_torchvision_is_reported_by_its_classifier(deeplab):
  _, shapes, kwargs, state = deeplab
  encoder = {n: x for n, x in state.items() if not n.startswith("layer5")}
  classifier = {"fc.weight": np.zeros((1000, 16)), "fc.bias": np.zeros(1000)}
  _, report = match(encoder | classifier, shapes, **kwargs)
  assert report.left["fc.weight"] == report.left["fc.bias"]
  assert "ImageNet" in report.left["fc.weight"]
  assert "model.normalization" in format_report(report, "student")
  _, report = match(encoder, shapes, **kwargs)
  assert "normalization" not in format_report(report, "student")


def test_files_that_fit_nothing_are_refused(deeplab):
  _, shapes, kwargs, state = deeplab
  vgg = {f"features.{i}.weight": np.zeros((4, 3, 3, 3)) for i in range(5)}
  with pytest.raises(UserError, match=r"features\.0\.weight.*\b2\b.*conv1\.weight"):
    match(vgg, shapes, **kwargs)
  wide = {n: np.zeros((*x.shape, 2)) if n.endswith("weight") else x for n, x in state.items()}
  message = r"layer1\.0\.conv1\.weight.*\(4, 4, 1, 1, 2\).*\(4, 4, 1, 1\)"
  with pytest.raises(UserError, match=message):
    match(wide, shapes, **kwargs)  # statistics alone fit
  with pytest.raises(UserError, match=r"conv1\.weight.*model\.encoder") as message:
    match({"\x1b[2J\n": np.zeros(1)}, shapes, **kwargs)
  assert str(message.value).isprintable()


def test_numbers_of_other_types(deeplab):
  _, shapes, kwargs, state = deeplab
  name = "conv1.weight"
  for dtype in (np.float64, np.float16, jnp.bfloat16):
    got, _ = match(state | {name: state[name].astype(dtype)}, shapes, **kwargs)
    kernel = got["params"]["encoder"]["stem_conv"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, state[name].astype(dtype).transpose(2, 3, 1, 0))
  _, report = match(state | {name: state[name].astype(np.int64)}, shapes, **kwargs)
  assert re.search("int64.*float", report.left[name])
  assert name in report.missing


def test_a_report_stays_short(deeplab):
  _, shapes, kwargs, state = deeplab
  others = {f"layer9.{i}.x": np.zeros(1) for i in range(500)}
  others |= {n: x[..., None] for n, x in state.items() if n.startswith(("layer2", "bn"))}
  _, report = match(find_state_dicts(state | others).student, shapes, **kwargs)
  lines = format_report(report, "student").splitlines()
  assert len(lines) < 12
  assert all(len(line) < 400 for line in lines)
  assert re.search(r"\b500\b.*layer9\.0\.x, layer9\.1\.x, layer9\.2\.x.*\b497\b", lines[1])
  # Between the first line, of what was loaded, and the last, of what is missing.
  counted = sum(int(re.search(r"\d+", line)[0]) for line in lines[1:-1])
  assert counted == len(report.left)
