import numpy as np
import pytest
import scipy.io
import scipy.ndimage
from PIL import Image
from tiny_trees import pixels, save, save_png16

from corda_jax import labels
from data_pipelines import inverse_depth, preprocess, readers, resizing
from data_pipelines.datasets.builders import BUILDERS
from data_pipelines.datasets.frame_config import FrameConfig
from data_pipelines.frames import Frame
from data_pipelines.preprocess import DepthRecipe, Recipe
from data_pipelines.readers import BadFrameError


def values(height=7, width=11, seed=0):
  return np.random.RandomState(seed).uniform(1, 257, (height, width)).astype(np.float32)


@pytest.mark.parametrize("size", [(7, 11), (14, 22), (20, 13), (3, 29), (1, 1), (5, 6)])
def test_bilinear_against_scipy(size):
  array = values()
  rows, columns = (
    np.clip((np.arange(out) + 0.5) * (n / out) - 0.5, 0, n - 1)
    for out, n in zip(size, array.shape, strict=True)
  )
  expected = scipy.ndimage.map_coordinates(
    array.astype(np.float64), np.meshgrid(rows, columns, indexing="ij"), order=1
  )
  resized = resizing.resize_bilinear(array, array.shape, size)
  assert resized.dtype == np.float32
  assert resized.shape == size
  np.testing.assert_allclose(resized, expected, rtol=1e-6)


def test_bilinear_to_the_same_size_changes_nothing():
  np.testing.assert_array_equal(resizing.resize_bilinear(values(), (1, 1), (7, 11)), values())


def test_nearest_kinds_differ_as_released():
  array = np.arange(8, dtype=np.float32)[np.newaxis]
  corner = resizing.resize_nearest_corner(array, array.shape, (1, 4))
  center = resizing.resize_nearest_center(array, array.shape, (1, 4))
  np.testing.assert_array_equal(corner, [[0, 2, 4, 6]])
  np.testing.assert_array_equal(center, [[1, 3, 5, 7]])


def test_nearest_corner_enlarges():
  array = np.arange(3, dtype=np.float32)[:, np.newaxis]
  resized = resizing.resize_nearest_corner(array, array.shape, (7, 2))
  np.testing.assert_array_equal(resized[:, 0], [0, 0, 0, 1, 1, 2, 2])


def test_nearest_center_goes_through_the_size_of_the_label():
  array = values(4, 4)
  np.testing.assert_array_equal(resizing.resize_nearest_center(array, (8, 8), (4, 4)), array)
  # Straight from 4 to 2 the centres lie on 1 and 3; through 6 on the 1st and 4th of 0 0 1 2 2 3.
  through = resizing.resize_nearest_center(array, (6, 6), (2, 2))
  np.testing.assert_array_equal(through, array[np.ix_([0, 2], [0, 2])])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_first_of_several_16_bit_channels(tmp_path, channels):
  array = np.random.RandomState(channels).randint(0, 65536, (9, 13, channels)).astype(np.uint16)
  save_png16(tmp_path / "a.png", array)
  first, bits = readers.read_first_channel(tmp_path / "a.png")
  assert bits == 16
  np.testing.assert_array_equal(first, array[..., 0])


def test_one_16_bit_channel(tmp_path):
  array = pixels(0).disparity
  save(tmp_path / "a.png", array)
  np.testing.assert_array_equal(readers.read_depth_png(tmp_path / "a.png"), array)


def test_label_ids_of_a_palette_are_its_indices(tmp_path):
  ids = pixels(0).train_ids
  image = Image.fromarray(ids)
  image.putpalette(labels.CITYSCAPES.palette().reshape(-1).tolist())
  assert image.mode == "P"
  image.save(tmp_path / "a.png")
  np.testing.assert_array_equal(readers.read_label_ids(tmp_path / "a.png"), ids)


def recipe(**changes):
  arguments = dict(
    size=(6, 8),
    image_filter=Image.Resampling.BICUBIC,
    label=preprocess.LabelIds(labels.CITYSCAPES_TO_TRAIN),
    resize_label=True,
    depth=DepthRecipe(
      read=readers.read_depth_png,
      encode=inverse_depth.from_disparity,
      resize=resizing.resize_nearest_corner,
      any_size=False,
    ),
  )
  return Recipe(**(arguments | changes))


@pytest.fixture
def frame(tmp_path):
  made = pixels(3)
  save(tmp_path / "image.png", made.rgb)
  save(tmp_path / "label.png", labels.TRAIN_TO_CITYSCAPES[made.train_ids])
  save(tmp_path / "depth.png", made.disparity)
  return Frame("3", *(str(tmp_path / f"{kind}.png") for kind in ("image", "label", "depth")))


def test_load_frame(frame):
  made = pixels(3)
  image, label, depth = preprocess.load_frame(frame, recipe(size=made.train_ids.shape))
  np.testing.assert_array_equal(image, made.rgb)
  np.testing.assert_array_equal(label, made.train_ids)
  np.testing.assert_array_equal(depth, inverse_depth.from_disparity(made.disparity))


def test_label_keeps_its_size_on_request(frame):
  image, label, depth = preprocess.load_frame(frame, recipe(resize_label=False))
  assert image.shape == (6, 8, 3)
  assert depth.shape == (6, 8)
  np.testing.assert_array_equal(label, pixels(3).train_ids)


def test_without_depth_all_is_one(frame):
  without = Frame(frame.name, frame.image, frame.label, None)
  for given in ((without, recipe()), (frame, recipe(depth=None))):
    np.testing.assert_array_equal(preprocess.load_frame(*given)[2], np.ones((6, 8), np.float32))


def test_unknown_ids_are_ignored(frame):
  save_ids = np.full(pixels(3).train_ids.shape, 200, np.uint8)
  Image.fromarray(save_ids).save(frame.label)
  label = preprocess.load_frame(frame, recipe())[1]
  assert (label == labels.IGNORE).all()


def break_bytes(path):
  with open(path, "r+b") as file:
    file.truncate(60)


def wrong_size(path):
  with Image.open(path) as image:
    array = np.asarray(image)
  save_path = path
  Image.fromarray(np.ascontiguousarray(array[1:])).save(save_path)


def as_text(path):
  with open(path, "w") as file:
    file.write("version https://git-lfs.github.com/spec/v1")


def remove(path):
  import os

  os.remove(path)


def write(array):
  return lambda path: Image.fromarray(array).save(path)


SHAPE = pixels(0).train_ids.shape


@pytest.mark.parametrize(
  ("kind", "damage", "reason"),
  [
    ("image", remove, "missing"),
    ("label", remove, "missing"),
    ("depth", remove, "missing"),
    ("image", break_bytes, "decod"),
    ("label", break_bytes, "decod"),
    ("depth", break_bytes, "decod"),
    ("image", as_text, "decoded: it is no picture"),
    ("label", wrong_size, "label.*31x17.*31x18"),
    ("depth", wrong_size, "depth.*31x17.*31x18"),
    ("label", write(np.full(SHAPE, 256, np.uint16)), "label.*256.*0.*255"),
    ("label", write(np.zeros((*SHAPE, 3), np.uint8)), "RGB"),
    ("depth", write(np.zeros(SHAPE, np.uint8)), "depth.*8.*16"),
  ],
)
def test_bad_file_is_named_with_its_reason(frame, kind, damage, reason):
  path = getattr(frame, kind)
  damage(path)
  with pytest.raises(BadFrameError, match=reason) as error:
    preprocess.load_frame(frame, recipe())
  assert error.value.path == path
  assert "\n" not in str(error.value)
  # Processes send the error back as a value.
  returned = preprocess.prepare_frame(frame, recipe())
  assert isinstance(returned, BadFrameError)
  assert (returned.path, returned.reason) == (path, error.value.reason)


@pytest.mark.parametrize(
  ("contents", "reason"),
  [
    ({"other": np.ones(SHAPE)}, "matrix.*depth_map"),
    ({"depth_map": np.ones(SHAPE, np.int32)}, "depth_map.*int32.*float"),
    ({"depth_map": np.full(SHAPE, np.nan)}, "depth_map.*NaN"),
    (None, "decod"),
  ],
)
def test_bad_matrix(frame, tmp_path, contents, reason):
  path = str(tmp_path / "depth.mat")
  if contents is None:
    as_text(path)
  else:
    scipy.io.savemat(path, contents)
  depth = DepthRecipe(
    readers.read_depth_mat,
    inverse_depth.from_stereo_metres,
    resizing.resize_nearest_center,
    any_size=False,
  )
  changed = Frame(frame.name, frame.image, frame.label, path)
  with pytest.raises(BadFrameError, match=reason):
    preprocess.load_frame(changed, recipe(depth=depth))


@pytest.mark.parametrize(
  ("dataset", "known", "unknown"),
  [
    ("cityscapes", (0, 33, 255), (34, 254)),
    ("gta5", (0, 34, 255), (35, 254)),
    ("synthia", (0, 22), (23, 255)),
  ],
)
def test_the_label_ids_that_each_data_set_has(dataset, known, unknown):
  config = FrameConfig(root="", height=1, width=1, depth="none")
  ids = BUILDERS[dataset].recipe(config, "train").label.known
  assert ids >= set(known)
  assert not ids & set(unknown)
