import jax.numpy as jnp
import numpy as np
import pytest

from corda_jax import labels, metrics


def test_one_matrix_an_image_and_ignored_pixels_left_out():
  label = jnp.array([[[0, 1], [1, 255]], [[2, 2], [255, 255]]], jnp.uint8)
  prediction = jnp.array([[[0, 1], [0, 2]], [[2, 1], [0, 0]]], jnp.int32)
  expected = [[[1, 0, 0], [1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [0, 1, 1]]]
  np.testing.assert_array_equal(metrics.confusion_matrix(label, prediction, 3), expected)


def test_absent_classes_leave_the_mean_and_subsets_keep_the_counts():
  confusion = np.zeros((19, 19), int)
  confusion[0, 0], confusion[9, 9], confusion[9, 0] = 6, 2, 2
  iou = metrics.intersection_over_union(confusion)
  np.testing.assert_allclose(iou[[0, 9]], [6 / 8, 2 / 4])
  assert np.isnan(np.delete(iou, [0, 9])).all()
  single = np.zeros((3, 3), int)
  single[1, 1] = 1
  np.testing.assert_array_equal(metrics.intersection_over_union(single), [np.nan, 1, np.nan])
  np.testing.assert_allclose(metrics.mean_iou(confusion), (6 / 8 + 2 / 4) / 2)
  # Terrain (9) is not among SYNTHIA's classes, but road still pays for its pixels.
  np.testing.assert_allclose(
    metrics.mean_iou(confusion, labels.CITYSCAPES.class_sets({})["synthia_16"]), 6 / 8
  )
  assert np.isnan(metrics.mean_iou(np.zeros((19, 19), int)))


def test_errors_of_depth_by_hand():
  truth, prediction = np.array([[2.0, 4.0], [10.0, 10.0]]), np.array([[2.0, 5.0], [8.0, 25.0]])
  errors = metrics.depth_errors(truth, prediction)
  assert tuple(errors) == metrics.DEPTH_ERRORS
  logarithms = np.log([1, 5 / 4, 8 / 10, 25 / 10])
  expected = {
    "abs_rel": (0 + 1 / 4 + 2 / 10 + 15 / 10) / 4,
    "sq_rel": (0 + 1 / 4 + 4 / 10 + 225 / 10) / 4,
    "rmse": np.sqrt((0 + 1 + 4 + 225) / 4),
    "rmse_log": np.sqrt(np.mean(logarithms**2)),
    # 5 / 4 and 10 / 8 are not less than 1.25; 2.5 is more than 1.25^3.
    "delta_1": 1 / 4,
    "delta_2": 3 / 4,
    "delta_3": 3 / 4,
  }
  for name, value in expected.items():
    np.testing.assert_allclose(errors[name], value, rtol=1e-14, err_msg=name)
    assert type(errors[name]) is float  # for results.json
  # Over all values at once: the shape does not matter.
  assert metrics.depth_errors(truth.ravel(), prediction.ravel()) == errors


def test_errors_of_a_perfect_depth_are_zero():
  errors = metrics.depth_errors(np.float32([3.0, 70.0]), np.float32([3.0, 70.0]))
  assert list(errors.values()) == [0, 0, 0, 0, 1, 1, 1]


def test_errors_are_taken_in_float64():
  truth = np.full(3, 16777216, np.float32)
  errors = metrics.depth_errors(truth, np.full(3, 16777218, np.float32))
  assert errors["sq_rel"] == 4 / 16777216


def test_errors_of_no_depth_are_no_numbers():
  errors = metrics.depth_errors(np.zeros((0, 3)), np.zeros((0, 3)))
  assert tuple(errors) == metrics.DEPTH_ERRORS
  assert all(np.isnan(list(errors.values())))


def test_depths_of_two_shapes_are_refused(unchecked_shapes):
  with pytest.raises(ValueError, match=r"truth.*\(2, 3\).*prediction.*\(3, 2\)"):
    metrics.depth_errors(np.ones((2, 3)), np.ones((3, 2)))
