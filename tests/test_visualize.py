import numpy as np
import pytest
from PIL import Image

from corda_jax import labels, visualize


@pytest.fixture
def sheets(monkeypatch):
  """The rows of each sheet that is written: (name, pictures); without a path there is no file."""
  found, write = [], visualize.write_sheet

  def recorded(rows, title, path, *legend):
    found.append(list(rows))
    if path is not None:
      write(rows, title, path, *legend)

  monkeypatch.setattr(visualize, "write_sheet", recorded)
  return found


def pictures(frames, *, depth):
  random = np.random.RandomState(0)
  shape = (frames, 12, 20)
  label = random.randint(0, 19, shape).astype(np.uint8)
  label[:, -2:] = 255
  result = {
    "image": random.randint(0, 256, (*shape, 3)).astype(np.uint8),
    "label": label,
    "prediction": np.where(label == 255, 3, label),
  }
  if depth:
    result["inverse_depth"] = random.uniform(1, 90, shape)
    result["difficulty"] = random.uniform(size=shape)
  return result


def test_labels_have_the_benchmarks_colours():
  got = visualize.colorize_labels(np.array([[0, 11], [18, 255]]))
  np.testing.assert_array_equal(got, [[[128, 64, 128], [220, 20, 60]], [[119, 11, 32], [0, 0, 0]]])


def test_colours_follow_the_map_and_clip():
  got = visualize.colorize(np.array([-5.0, 0.0, 1.5, 3.0, 9.0]), 0, 3, "gray")
  np.testing.assert_array_equal(got[[0, 1, 3, 4], 0], [0, 0, 255, 255])
  assert abs(int(got[2, 0]) - 127) <= 1
  assert got.dtype == np.uint8
  assert visualize.colorize(np.ones(2), 1, 1, "gray").max() == 0  # an empty range is no error


def test_errors_are_where_a_labelled_pixel_is_wrong(sheets):
  shown = pictures(1, depth=False)
  shown["prediction"][0, 3, 5] = (shown["label"][0, 3, 5] + 1) % 19
  visualize.contact_sheet(shown, "a title", None)
  ((errors,),) = (row for name, row in sheets[0] if "error" in name)
  right = errors[0, 0]
  assert (errors[3, 5] < right).all()
  errors[3, 5] = right
  assert (errors == right).all()  # also where the label is ignored and the prediction differs


@pytest.mark.parametrize(("frames", "depth", "rows"), [(1, False, 4), (3, True, 6)])
def test_sheet_shows_every_kind_and_frame(tmp_path, sheets, frames, depth, rows):
  path = tmp_path / "sheet.png"
  shown = pictures(frames, depth=depth)
  visualize.contact_sheet(shown, "a title", path)
  assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
  pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
  assert len(sheets[0]) == rows
  dark = (pixels.sum(-1) < 60).mean(1) > 0.4  # frames of the pictures are black lines
  assert np.flatnonzero(np.diff(dark.astype(int)) == 1).size >= rows
  for index in np.unique(shown["label"][shown["label"] != labels.IGNORE]):
    assert (pixels == labels.CITYSCAPES.palette()[index]).all(-1).any(), labels.NAMES[index]


def test_sheet_of_another_class_list(tmp_path):
  colors = ((10, 200, 30), (250, 240, 20), (30, 20, 180))  # the last one in the legend alone
  classes = labels.ClassList(("tram", "lawn", "pond"), colors)
  label = np.array([[[0, 1, 255]] * 3], np.uint8)
  shown = {"image": np.zeros((1, 3, 3, 3), np.uint8), "label": label, "prediction": 1 - label % 2}
  visualize.contact_sheet(shown, "a title", tmp_path / "sheet.png", classes)
  pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
  for color in colors:
    assert (pixels == color).all(-1).any()
  assert not (pixels == labels.CITYSCAPES.colors[0]).all(-1).any()


def test_rows_of_a_depth_sheet_show_what_they_are_named_after(sheets):
  shape = (1, 2, 3)
  sources = np.stack([np.full((*shape, 3), value) for value in (0.25, 0.5)], 1)
  pictures = {
    "image": np.full((*shape, 3), 9, np.uint8),
    "truth": np.array([[[2.0, 4.0, np.nan], [8.0, 16.0, 32.0]]]),
    "disparity": np.array([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]]),
    "automask": np.array([[[True, False, True], [True, True, True]]]),
    "sources": sources,
    "warped": 1 - sources,
    "errors": np.stack([np.full(shape, 0.0), np.full(shape, 0.5)], 1),
  }
  visualize.depth_sheet(pictures, ("right", "next"), "a title", None)
  words = ("image", "truth", "disparity", "automask", *["right"] * 3, *["next"] * 3)
  for (name, _), word in zip(sheets[0], words, strict=True):
    assert word in name
  image, truth, disparity, automask, *views = (row[0] for _, row in sheets[0])
  assert (image == 9).all()
  assert (truth[0, 2] == 0).all()  # unknown
  brightness = truth.sum(-1)
  assert brightness[0, 0] > brightness[0, 1] > brightness[1, 0] > brightness[1, 2]  # near: bright
  brightness = disparity.sum(-1).ravel()
  assert (np.diff(brightness.astype(int)) > 0).all()
  np.testing.assert_array_equal(automask[..., 0], [[255, 0, 255], [255, 255, 255]])
  for view, made, value in ((*views[:2], 0.25), (*views[3:5], 0.5)):
    assert (view == round(255 * value)).all()
    assert (made == np.rint(255 * (1 - value))).all()
  assert views[5].sum() > views[2].sum()  # errors


def test_both_depth_heads_of_training_have_one_scale_of_colours(sheets):
  shape = (1, 4, 5)
  near, far = np.full(shape, 200.0), np.full(shape, 20.0)
  label = np.zeros(shape, np.uint8)
  image = np.zeros((*shape, 3), np.uint8)
  pictures = {"source_image": image, "source_label": label, "target_image": image}
  pictures |= {"prediction": label, "difficulty": np.zeros(shape)}
  pictures |= {"inverse_depth": near, "source_inverse_depth": far}
  visualize.training_sheet(pictures, "a title", None)
  (target, by_target), (source, by_source), _ = sheets[0][-3:]
  assert "target" in target
  assert "source" in source
  assert by_target.sum() > by_source.sum() > 0  # each by itself would be as bright
  palette = visualize.colormap_palette("viridis")
  np.testing.assert_array_equal(palette[[0, 255]], [[68, 1, 84], [253, 231, 36]])


def test_the_masked_image_of_training_is_shown(sheets):
  shape = (1, 4, 5)
  label, image = np.zeros(shape, np.uint8), np.zeros((*shape, 3), np.uint8)
  shown = {"source_image": image, "source_label": label, "target_image": image}
  shown |= {"prediction": label, "masked_image": np.full((*shape, 3), 0.4)}
  visualize.training_sheet(shown, "a title", None)
  name, row = sheets[0][-1]
  assert "masked" in name
  assert (row == round(255 * 0.4)).all()
