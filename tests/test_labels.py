import numpy as np
import pytest

from corda_jax import labels
from corda_jax.errors import UserError


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
  sets = labels.CITYSCAPES.class_sets({})
  assert list(sets) == ["all", "synthia_16", "synthia_13"]
  assert sets["all"] == tuple(range(19))
  left_out = {labels.NAMES[i] for i in range(19) if i not in sets["synthia_16"]}
  assert left_out == {"terrain", "truck", "train"}
  left_out = {labels.NAMES[i] for i in sets["synthia_16"] if i not in sets["synthia_13"]}
  assert left_out == {"wall", "fence", "pole"}


def from_config(names=(), colors=()):
  return labels.ClassList.from_config({"names": names, "colors": colors})


def test_a_list_is_the_19_classes_unless_others_are_named():
  assert from_config() is labels.CITYSCAPES
  own = from_config(["road", "tram"], [[1, 2, 3], [4, 5, 6]])
  assert own == labels.ClassList(("road", "tram"), ((1, 2, 3), (4, 5, 6)))
  assert len(own) == 2
  palette = own.palette()
  np.testing.assert_array_equal(palette[:2], [[1, 2, 3], [4, 5, 6]])
  assert not palette[2:].any()
  assert len(from_config([str(i) for i in range(255)])) == 255


@pytest.mark.parametrize(
  ("names", "colors", "message"),
  [
    (("car", "bus", "car"), (), r"data\.classes\.names.*'car'.*once"),
    (("car", ""), (), r"data\.classes\.names.*''"),
    (("car", 3), (), r"data\.classes\.names.*\b3\b"),
    ([str(i) for i in range(256)], (), r"data\.classes\.names.*\b256\b.*\b255\b"),
    ((), ((1, 2, 3),), r"data\.classes\.colors.*data\.classes\.names"),
    (("car", "bus"), ((1, 2, 3),), r"data\.classes\.colors.*\b1\b.*\b2\b"),
    (("car",), ((1, 2, 256),), r"data\.classes\.colors.*\(1, 2, 256\).*0.*255"),
    (("car",), ((1, 2),), r"data\.classes\.colors.*\(1, 2\).*red, green, blue"),
    (("car",), (7,), r"data\.classes\.colors.*\b7\b.*red, green, blue"),
  ],
)
def test_class_lists_that_cannot_be(names, colors, message):
  with pytest.raises(UserError, match=message) as error:
    from_config(names, colors)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [2, 7, 40, 254])
def test_generated_colours_are_apart_from_each_other_and_from_black_and_white(count):
  names = ["car", *(f"thing {i}" for i in range(count - 1))]
  colors = from_config(names).colors
  assert colors == from_config(names).colors
  assert colors[0] == (0, 0, 142)  # a name that the benchmark has keeps its colour
  points = np.array([(0, 0, 0), (255, 255, 255), *colors], float)
  distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e3 * np.eye(len(points))
  # So many points in a cube of 255 cannot be much farther apart than its side over their root.
  assert distance[:, 3:].min() > 0.5 * 255 / np.cbrt(count)


def test_tables_map_by_name():
  classes = from_config(("car", "road", "bicycle"))
  table = labels.label_table(labels.SYNTHIA_IDS, classes, "SYNTHIA")
  np.testing.assert_array_equal(table[[8, 3, 11]], [0, 1, 2])
  assert (np.delete(table, [8, 3, 11]) == labels.IGNORE).all()
  with pytest.raises(UserError, match=r"data\.classes\.names.*tram.*SYNTHIA.*road"):
    labels.label_table(labels.SYNTHIA_IDS, from_config(("car", "tram")), "SYNTHIA")


def test_sets_of_classes_by_name():
  classes = from_config(("car", "road", "person"))
  assert classes.class_sets({}) == {"all": (0, 1, 2)}
  assert classes.class_sets({"moving": ("person", "car")})["moving"] == (2, 0)
  reordered = from_config(labels.NAMES[::-1])
  assert list(reordered.class_sets({})) == ["all"]
  for sets, message in (
    ({"moving": ("car", "tram")}, r"evaluation\.class_sets\.moving.*tram.*car, road, person"),
    ({"moving": ()}, r"evaluation\.class_sets\.moving.*car, road, person"),
    ({"all": ("car",)}, r"evaluation\.class_sets\.all\b"),
  ):
    with pytest.raises(UserError, match=message):
      classes.class_sets(sets)
