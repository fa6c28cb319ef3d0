import jax.numpy as jnp
import numpy as np

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
  assert np.isnan(metrics.mean_iou(np.zeros((19, 19))))
