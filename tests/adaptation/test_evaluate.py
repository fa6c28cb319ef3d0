"""Evaluation by every protocol, against the benchmark's scripts and over several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from corda_jax import labels
from corda_jax.adaptation.evaluate import Evaluator
from corda_jax.adaptation.task import AdaptationTask
from corda_jax.errors import UserError
from corda_jax.inference.views import as_evaluated, class_map, make_views
from corda_jax.resize import resize_aligned
from corda_jax.training.sharding import make_mesh, shardings_of
from tests import tiny
from tests.jaxprs import precision_of, products_of

LABEL_SHAPE = (37, 53)  # of the files; not a multiple of the input's 17x25
PROTOCOLS = {
  "protocol": {},
  "released in training": {"evaluation.label_size": "input"},
  "flip": {"evaluation.flip": True},
  "teacher, flip and scales": {
    "evaluation.network": "teacher",
    "evaluation.flip": True,
    "evaluation.scales": (0.75, 1.0, 1.5),
    "evaluation.label_size": "input",
  },
  "via the input": {"evaluation.resize_via_input": True},
  "windows": {
    "evaluation.window": (12, 16),
    "evaluation.window_stride": (5, 9),
    "evaluation.flip": True,
  },
}


def label_ids():
  """Eight maps of the benchmark's label ids, void among them."""
  return np.random.RandomState(3).randint(0, 34, (8, *LABEL_SHAPE)).astype(np.uint8)


def batches():
  """Two batches of four frames, of which the last two only fill the second."""
  ids = labels.CITYSCAPES_TO_TRAIN[label_ids()]
  for number in range(2):
    image = tiny.get_batch(number)["target_image"]
    valid = np.arange(4) + 4 * number < 6
    yield {"image": image, "label": ids[4 * number :][:4], "valid": valid}


def experiment(protocol, devices, devices_per_frame=1):
  fields = PROTOCOLS[protocol] | {"evaluation.devices_per_frame": devices_per_frame}
  return AdaptationTask.from_config(tiny.get_config(**fields), make_mesh(jax.devices()[:devices]))


@pytest.fixture(scope="module")
def state():
  """Student and teacher differ, and both predict several classes."""
  state = jax.device_get(experiment("protocol", 1).initial_state())
  return state.replace(teacher_params=jax.tree.map(lambda x: -x, state.teacher_params))


def predictions(plain, state):
  """Class maps of the frames that count, by the parts that tests/inference/test_views.py proves."""
  config = plain.config.evaluation
  teacher = config.network == "teacher"
  params = state.teacher_params if teacher else state.params

  @jax.jit
  def predict(images):
    variables = {"params": params, "batch_stats": state.batch_stats}
    outputs = as_evaluated(
      lambda x: plain.model.apply(variables, x, train=False), config, method="aligned"
    )
    views = make_views(
      lambda x: outputs(x)["S"],
      plain.normalization.normalize(images),
      scales=config.scales,
      flip=config.flip,
    )
    shape = LABEL_SHAPE if config.label_size == "file" else images.shape[1:3]
    return class_map(views, shape)

  return np.concatenate([predict(jnp.asarray(batch["image"])) for batch in batches()])[:6]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_agrees_with_the_benchmark_on_the_same_predictions(state, protocol, official_scores):
  plain = experiment(protocol, 1)
  predicted = predictions(plain, state)
  assert len(np.unique(predicted)) > 3
  ids = label_ids()[:6]
  if plain.config.evaluation.label_size == "input":
    size = (tiny.WIDTH, tiny.HEIGHT)
    resized = [Image.fromarray(x).resize(size, Image.Resampling.NEAREST) for x in ids]
    ids = np.stack([np.asarray(x) for x in resized])
  expected = official_scores(labels.TRAIN_TO_CITYSCAPES[predicted], ids)
  classes = np.ix_(labels.TRAIN_TO_CITYSCAPES, labels.TRAIN_TO_CITYSCAPES)

  windows = any(plain.config.evaluation.window)  # which several devices do not share
  for devices, per_frame in ((1, 1), (4, 1), *(() if windows else ((4, 2), (4, 4)))):
    evaluator = Evaluator(experiment(protocol, devices, per_frame))
    confusion, frames = evaluator.confusion(state, batches())
    assert frames == 6
    np.testing.assert_array_equal(confusion, np.asarray(expected["confMatrix"])[classes])


def test_devices_that_share_a_frame_share_the_work(state):
  operations = []
  for devices in (1, 4):
    evaluator = Evaluator(experiment("protocol", devices, devices))
    batch = {name: x[:1] for name, x in next(batches()).items()}
    # On each device, as XLA counts them.
    operations.append(evaluator.traced_for(state, batch).lower().compile().cost_analysis()["flops"])
  # 17 rows make strips of 5, and each exchanges its borders.
  assert operations[1] < 0.45 * operations[0]


def test_devices_of_a_frame_divide_those_of_a_process():
  with pytest.raises(UserError, match=r"devices_per_frame.*3.*4"):
    Evaluator(experiment("protocol", 4, 3))


def test_matrix_products_have_the_precision_asked_for(state):
  fields = {"compute.matmul_precision": "highest"}
  mesh = make_mesh(jax.devices()[:1])
  evaluator = Evaluator(AdaptationTask.from_config(tiny.get_config(**fields), mesh))
  products = products_of(evaluator.traced_for(state, next(batches())).jaxpr)
  assert len(products) > 20
  assert all(precision_of(each) == {jax.lax.Precision.HIGHEST} for each in products)


def test_a_teacher_that_is_split_over_devices_is_evaluated_as_a_whole_one(state):
  found = []
  for split in (False, True):
    fields = {"evaluation.network": "teacher", "compute.shard_state": split}
    shared = AdaptationTask.from_config(tiny.get_config(**fields), make_mesh(jax.devices()[:4]))
    put = jax.device_put(state, shardings_of(shared.state_shapes))
    found.append(Evaluator(shared).confusion(put, batches())[0])
  np.testing.assert_array_equal(*found)


def test_results_say_the_protocol(state):
  result = Evaluator(experiment("teacher, flip and scales", 2)).score(state, batches())
  protocol = {
    "network": "teacher",
    "input_size": [512, 1024],
    "label_size": "input",
    "flip": True,
    "scales": [0.75, 1.0, 1.5],
    "frames": 6,
    "classes": "all",
  }
  assert {name: result[name] for name in protocol} == protocol
  assert result["miou_by_classes"]["all"] == result["miou"]


@pytest.mark.parametrize("supervision", ["files", "views"])
def test_the_depth_head_is_measured_where_batches_have_depth(state, supervision):
  fields = {"evaluation.max_depth": 200.0}
  if supervision == "views":
    fields |= {"data.target.views": ("previous",), "terms.photometric.domains": ("target",)}
    fields["terms.depth_files.domains"] = ("source",)
  config = tiny.get_config(**fields)
  experiment = AdaptationTask.from_config(config, make_mesh(jax.devices()[:2]))
  (need,) = experiment.needs("evaluate")
  assert need.contents == ("image", "label", "inverse_depth")
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  given, expected = [], []
  for number, batch in enumerate(batches()):
    inverse = tiny.get_batch(number)["target_inverse_depth"]
    given.append(batch | {"inverse_depth": inverse})
    x = experiment.normalization.normalize(jnp.asarray(batch["image"]))
    head = experiment.model.apply(variables, x, train=False)["D"]
    head = np.asarray(resize_aligned(head, inverse.shape[1:]))[..., 0]
    depth = 655.36 / (1 + np.log1p(np.exp(head - 1))) - 0.01
    for each, truth, valid in zip(depth, 655.36 / inverse - 0.01, batch["valid"], strict=True):
      known = (truth < 200) & (truth > 0.001)
      if valid:
        each, truth = each[known], truth[known]
        if supervision == "views":  # by video alone, which has no scale
          each = each * np.median(truth) / np.median(each)
        expected.append(np.mean(np.abs(np.clip(each, 0.001, 200) - truth) / truth))
  result = Evaluator(experiment).score(state, given)["depth"]
  assert result["frames"] == len(expected) == 6
  assert result["median_scaling"] == (supervision == "views")
  assert result["abs_rel"] == pytest.approx(np.mean(expected), rel=1e-4)


def test_pictures_show_what_was_scored(state):
  evaluator = Evaluator(experiment("flip", 2))
  pictures = evaluator.pictures(state, batches(), 6)
  resized = [
    np.asarray(Image.fromarray(x).resize((tiny.WIDTH, tiny.HEIGHT), Image.Resampling.NEAREST))
    for x in labels.CITYSCAPES_TO_TRAIN[label_ids()[:6]]
  ]
  np.testing.assert_array_equal(pictures["label"], resized)
  at_input_size = AdaptationTask.from_config(
    tiny.get_config(**{"evaluation.flip": True, "evaluation.label_size": "input"}),
    make_mesh(jax.devices()[:1]),
  )
  np.testing.assert_array_equal(pictures["prediction"], predictions(at_input_size, state))
