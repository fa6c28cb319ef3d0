import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import interpolate, special

from corda_jax.adaptation.settings import AdaptationEvaluation
from corda_jax.inference import views
from corda_jax.inference.views import as_evaluated, class_map, combine, make_views
from corda_jax.models.depth_guided import with_depth
from corda_jax.resize import aligned_weights, resize_aligned
from data_pipelines import resizing

FRAME = (14, 22)


def predict(x):
  """Logits at a third of the size, which differ between left and right."""
  x = x[:, ::3, ::3]
  ramp = jnp.linspace(-1, 1, x.shape[2], dtype=x.dtype)[:, None]
  return jnp.concatenate([x * ramp, x[..., ::-1] + ramp, 2 * x[..., :1]], -1)


@pytest.fixture
def images(random):
  return jnp.asarray(random.standard_normal((2, *FRAME, 3)), jnp.float32)


def weights(views, shape):
  return (
    [jnp.asarray(aligned_weights(v[0].shape[1 + axis], shape[axis]), v[0].dtype) for v in views]
    for axis in (0, 1)
  )


def probabilities(images, shape, **options):
  views = make_views(predict, images, **options)
  return np.asarray(combine(views, *weights(views, shape)))


@pytest.mark.parametrize("shape", [(14, 22), (29, 43), (64, 5), (65, 31), (1, 3)])
def test_one_view_is_the_largest_upsampled_logit(images, shape):
  views = make_views(predict, images, scales=(1.0,), flip=False)
  got = jax.jit(class_map, static_argnums=1)(views, shape)
  assert got.dtype == jnp.uint8
  np.testing.assert_array_equal(got, resize_aligned(predict(images), shape).argmax(-1))


@pytest.mark.parametrize("height", [1, 64, 65, 192])  # of one slice of 64 rows, two and three
@pytest.mark.parametrize("flip", [False, True])
def test_slices_change_nothing(images, height, flip):
  scales = (1.0, 0.6) if flip else (1.0,)
  views = make_views(predict, images, scales=scales, flip=flip)
  expected = combine(views, *weights(views, (height, 23))).argmax(-1)
  np.testing.assert_array_equal(class_map(views, (height, 23)), expected)


def reference(images, shape, *, scales, flip):
  """Mean softmax by OpenCV's resizing and SciPy's interpolation, in float64."""
  parts = []
  for scale in scales:
    for mirrored in (False, True)[: 1 + flip]:
      for image in np.asarray(images):
        seen = image[:, ::-1] if mirrored else image
        size = tuple(round(n * scale) for n in FRAME)
        channels = [resizing.resize_bilinear(c, FRAME, size) for c in seen.transpose(2, 0, 1)]
        logits = np.asarray(predict(jnp.asarray(np.stack(channels, -1)[None])), np.float64)[0]
        axes = [np.linspace(0, 1, n) for n in logits.shape[:2]]
        grid = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij"), -1)
        result = special.softmax(interpolate.interpn(axes, logits, grid), -1)
        parts.append(result[:, ::-1] if mirrored else result)
  return np.mean(np.reshape(parts, (-1, *images.shape[:1], *parts[0].shape)), 0)


@pytest.mark.parametrize(
  ("scales", "flip"),
  [((1.0,), True), ((0.5, 1.0, 1.5), False), ((0.7,), True), ((1.4, 0.7), True)],
)
def test_several_views_are_the_mean_probability(images, scales, flip):
  shape = (29, 43)
  got = probabilities(images, shape, scales=scales, flip=flip)
  expected = reference(images, shape, scales=scales, flip=flip)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
  np.testing.assert_allclose(got.sum(-1), 1, rtol=0, atol=1e-6)
  classes = class_map(make_views(predict, images, scales=scales, flip=flip), shape)
  np.testing.assert_array_equal(classes, expected.argmax(-1))
  plain = probabilities(images, shape, scales=(1.0,), flip=False)
  assert (plain.argmax(-1) != expected.argmax(-1)).any()  # else nothing of this was seen


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.7)])
def test_a_mirrored_frame_has_the_mirrored_probabilities(images, scales):
  shape = (29, 43)
  options = {"scales": scales, "flip": True}
  seen = probabilities(images, shape, **options)
  mirrored = probabilities(images[:, :, ::-1], shape, **options)
  if scales == (1.0,):  # to the last bit; resizing the image mirrors up to rounding
    np.testing.assert_array_equal(mirrored, seen[:, :, ::-1])
  else:
    np.testing.assert_allclose(mirrored, seen[:, :, ::-1], rtol=0, atol=1e-6)
  plain = probabilities(images, shape, scales=scales, flip=False)
  other = probabilities(images[:, :, ::-1], shape, scales=scales, flip=False)
  assert np.abs(other - plain[:, :, ::-1]).max() > 1e-2


def test_depth_maps_are_of_the_targets_head(random):
  target, source = (random.uniform(2, 60, (1, 5, 7, 1)).astype(np.float32) for _ in range(2))
  x = np.ones((1, 5, 7, 4), np.float32)
  found = views.depth_maps({"S": target, "D": target, "D_src": source}, x, (5, 7))
  np.testing.assert_allclose(found["inverse_depth"], target[..., 0], rtol=1e-6)
  expected = np.clip(np.abs(source - target) / np.maximum(target, 1), 0, 1)[..., 0]
  np.testing.assert_allclose(found["difficulty"], expected, rtol=1e-5)


def test_without_heads_the_depth_map_is_what_the_network_sees(random):
  y = random.uniform(1, 200, (1, 5, 7)).astype(np.float32)
  x = with_depth(jnp.zeros((1, 5, 7, 3)), y)
  found = views.depth_maps({"S": y[..., None]}, x, (5, 7))
  np.testing.assert_allclose(found.pop("inverse_depth"), y, rtol=1e-5)
  assert not found
  larger = views.depth_maps({}, x, (10, 14))["inverse_depth"]
  np.testing.assert_allclose(
    larger[0, 1:3, 0], y[0, :2, 0] @ [[0.75, 0.25], [0.25, 0.75]], rtol=1e-5
  )
  assert views.depth_maps({"S": y[..., None]}, x[..., :3], (5, 7)) == {}


@pytest.mark.parametrize("mean", ["logits", "probabilities"])
def test_windows_are_averaged_as_logits_or_as_probabilities(random, mean):
  evaluation = AdaptationEvaluation(window=(3, 4), window_stride=(3, 2), window_mean=mean)
  logits = random.normal(size=(1, 3, 4, 5)).astype(np.float32)  # of every window
  outputs = {"S": jnp.asarray(logits), "D": jnp.asarray(logits[..., :1])}
  got = as_evaluated(lambda x: outputs, evaluation, method="centered")(jnp.zeros((1, 3, 6, 3)))
  parts = logits if mean == "logits" else special.softmax(logits, -1)
  overlap = (parts[:, :, 2:] + parts[:, :, :2]) / 2
  expected = np.concatenate([parts[:, :, :2], overlap, parts[:, :, 2:]], 2)
  found = got["S"] if mean == "logits" else special.softmax(got["S"], -1)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(got["D"][0, 0, 2, 0], (logits[0, 0, 2, 0] + logits[0, 0, 0, 0]) / 2)
