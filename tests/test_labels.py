import numpy as np

from corda_jax import labels


def test_label_ids_are_those_of_the_data_sets():
  cityscapes = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
  synthia = [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11]
  for table, ids in (
    (labels.CITYSCAPES_TO_TRAIN, cityscapes),
    (labels.SYNTHIA_TO_TRAIN, synthia),
  ):
    np.testing.assert_array_equal(table[ids], np.arange(19))
    assert (np.delete(table, ids) == 255).all()
  assert labels.SYNTHIA_TO_TRAIN[22] == labels.IGNORE  # lane markings


def test_names_and_colours_are_the_benchmarks():
  from cityscapesscripts.helpers.labels import trainId2label

  for index, entry in enumerate(labels.CLASSES):
    official = trainId2label[index]
    assert (entry.name, entry.color, entry.cityscapes_id) == (
      official.name,
      official.color,
      official.id,
    )


def test_synthia_subsets():
  left_out = {labels.NAMES[i] for i in range(19) if i not in labels.SYNTHIA_16}
  assert left_out == {"terrain", "truck", "train"}
  left_out = {labels.NAMES[i] for i in labels.SYNTHIA_16 if i not in labels.SYNTHIA_13}
  assert left_out == {"wall", "fence", "pole"}
