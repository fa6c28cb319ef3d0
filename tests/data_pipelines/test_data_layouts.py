"""Files as people have them: clips, calibrations, lists, colours, disparity, turned images."""

import re
import zipfile

import numpy as np
import pytest
import tiny_trees
from ml_collections import ConfigDict
from PIL import Image
from tiny_trees import HEIGHT, WIDTH, examples, pixels, save

from corda_jax.depth.inverse_depth import to_metres
from corda_jax.errors import UserError
from corda_jax.labels import CITYSCAPES_IDS, ClassList
from data_pipelines import cameras, inverse_depth, readers
from data_pipelines.patterns import Pattern
from tests.data_pipelines.tiny_trees import folder_section

CLASSES = ClassList.from_config({"names": ("road", "car"), "colors": ()})
FX, CX, BASELINE = 30.0, 14.5, 0.5


def config(root, depth="none", views=(), **changes):
  dataset = tiny_trees.dataset_config("folder", root, depth, HEIGHT, WIDTH, views=views)
  dataset.folder = folder_section()
  values = {key.replace("__", "."): value for key, value in changes.items()}
  dataset.folder.update_from_flattened_dict({"train.images": "images/{name}.png"} | values)
  return dataset


def run(dataset, records, **options):
  options = {"contents": ("image", "label", "inverse_depth", "views")} | options
  return tiny_trees.run(dataset, records, classes=CLASSES, **options)


def names(builder, split="train"):
  return [record["name"].decode() for record in examples(builder, split)]


def kitti_calibration(fx=FX, cx=CX, baseline=BASELINE, names=("P0", "P1", "P2", "P3")):
  """The matrices of cameras that are `baseline` apart."""
  lines = []
  for number, name in enumerate(names):
    matrix = [fx, 0, cx, -fx * baseline * number, 0, fx + 1, 8.0, 0, 0, 0, 1, 0]
    lines.append(f"{name}: " + " ".join(f"{value:e}" for value in matrix))
  return "\n".join([*lines, "Tr: 1 0 0 0 0 1 0 0 0 0 1 0", ""])


@pytest.fixture
def kitti(tmp_path):
  """Two clips of KITTI's odometry layout, each with a camera of its own."""
  root = tmp_path / "kitti"
  for clip, seed in (("00", 0), ("01", 10)):
    for frame in range(3):
      save(root / f"sequences/{clip}/image_0/{frame:06d}.png", pixels(seed + frame).rgb)
      save(root / f"sequences/{clip}/image_1/{frame:06d}.png", pixels(50 + seed + frame).rgb)
    path = root / f"sequences/{clip}/calib.txt"
    path.write_text(kitti_calibration(fx=FX + seed, baseline=BASELINE + seed))
  return root


CLIPS = {
  "train__images": "sequences/{clip}/image_0/{frame}.png",
  "train__right": "sequences/{clip}/image_1/{frame}.png",
  "train__camera": "sequences/{clip}/calib.txt",
}


def test_clips_with_a_camera_each(kitti, tmp_path):
  builder = run(config(kitti, views=("right", "previous"), **CLIPS), tmp_path / "records")
  records = examples(builder)
  assert [x["name"] for x in records] == [b"00/000001", b"00/000002", b"01/000001", b"01/000002"]
  assert builder.report.ends == {"train": 2}  # neighbours are of the same clip
  for record, seed in zip(records, (1, 2, 11, 12), strict=True):
    for key, number in (("image", seed), ("right_image", 50 + seed), ("previous_image", seed - 1)):
      np.testing.assert_array_equal(record[key], pixels(number).rgb)
    first = seed // 10 * 10
    np.testing.assert_allclose(record["intrinsics"], [FX + first, FX + first + 1, CX, 8.0])
    assert record["baseline"] == pytest.approx(BASELINE + first)


def test_a_clip_without_calibration_is_named(kitti, tmp_path):
  path = kitti / "sequences/01/calib.txt"
  path.unlink()
  with pytest.raises(UserError, match=rf"{path}.*missing"):
    run(config(kitti, views=("right",), **CLIPS), tmp_path / "records")


@pytest.mark.parametrize(
  ("image", "right", "rows", "expected"),
  [
    ("image_2/a.png", "image_3/a.png", ("P0", "P1", "P2", "P3"), BASELINE),
    ("image_02/data/a.png", "", [f"P_rect_0{n}" for n in range(4)], BASELINE),
    ("left/a.png", "right/a.png", ("P0", "P1"), BASELINE),
    ("image_0/a.png", "image_3/a.png", ("P0", "P1", "P2", "P3"), 3 * BASELINE),
    ("image_1/a.png", None, ("P0", "P1"), 0.0),
  ],
)
def test_calibrations_of_kitti(tmp_path, image, right, rows, expected):
  path = tmp_path / "calib.txt"
  path.write_text(kitti_calibration(names=rows))
  camera = cameras.read_camera(str(path), image=image, right=right)
  assert camera.focal == pytest.approx((FX, FX + 1))
  assert camera.center == pytest.approx((CX, 8.0))
  assert camera.baseline == pytest.approx(expected)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("P0: 1 2 3\n", "P0"),
    ("P1: " + "1 " * 12, "P0"),
    ("P0: " + "0 " * 12, "focal"),
    ("P0: x " + "1 " * 11, "P0"),
  ],
)
def test_calibrations_that_are_none(tmp_path, text, message):
  path = tmp_path / "calib.txt"
  path.write_text(text)
  with pytest.raises(readers.BadFrameError, match=message):
    readers.decode(lambda path: cameras.read_camera(path, image="image_0/a.png"), str(path))


def test_patterns_and_names():
  clip = Pattern("sequences/{clip}/image_2/{frame}.png")
  assert clip.is_valid()
  assert clip.path("2011/drive_1/000019") == "sequences/2011/drive_1/image_2/000019.png"
  assert Pattern("gt/{name}.png").path("00/1") == "gt/00/1.png"
  camera = Pattern("sequences/{clip}/calib.txt")
  assert camera.is_valid(shared=True)
  assert not camera.is_valid()
  assert camera.path("00/000019") == "sequences/00/calib.txt"
  for text in ("{frame}/{clip}.png", "{name}/{name}.png", "{name}_{frame}.png", "*.png"):
    assert not Pattern(text).is_valid()


def test_names_of_clips_pair_with_plain_patterns(kitti, tmp_path):
  for clip, frame in (("00", 0), ("01", 2)):
    save(kitti / f"gt/{clip}/{frame:06d}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
  (kitti / "list.txt").write_text("00/000000\nsequences/01/image_0/000002.png some more\n\n")
  dataset = config(
    kitti, **CLIPS, train__labels="gt/{name}.png", train__list="list.txt", other_labels="ignore"
  )
  builder = run(dataset, tmp_path / "records")
  assert names(builder) == ["00/000000", "01/000002"]
  assert (examples(builder)[0]["label"] == 0).all()


@pytest.fixture
def flat(tmp_path):
  """Four images with labels whose names are not plain, in one folder."""
  for seed, name in enumerate(("a b", "ü_1", "c", "d")):
    save(tmp_path / f"mine/images/{name}.png", pixels(seed).rgb)
    save(tmp_path / f"mine/labels/{name}.png", np.full((HEIGHT, WIDTH), seed % 2, np.uint8))
  return tmp_path / "mine"


def test_splits_may_be_lists_of_names(flat, tmp_path):
  (flat / "train.txt").write_text("a b\nü_1.png\n")
  (flat / "val.txt").write_text("images/c.png labels/c.png\n")
  lists = {"train__list": "train.txt", "validation__list": "val.txt"}
  both = {"validation__images": "images/{name}.png", "validation__labels": "labels/{name}.png"}
  dataset = config(flat, **lists, **both)
  assert names(run(dataset, tmp_path / "records")) == ["a b", "ü_1"]
  assert names(run(dataset, tmp_path / "records", split="validation"), "validation") == ["c"]
  (flat / "train.txt").write_text("a b\ne\n")
  message = r"folder\.train\.list.*train\.txt.*'e'.*'a b'.*images/a b\.png"
  with pytest.raises(UserError, match=message):
    run(dataset, tmp_path / "other")
  (flat / "train.txt").write_text("\n")
  with pytest.raises(UserError, match=r"folder\.train\.list.*train\.txt.*no frame"):
    run(dataset, tmp_path / "other")
  dataset.folder.train.list = "nowhere.txt"
  with pytest.raises(UserError, match=r"folder\.train\.list.*nowhere\.txt"):
    run(dataset, tmp_path / "other")


@pytest.mark.parametrize(
  ("line", "name"),
  [
    ("c", "c"),
    ("c.PNG", "c"),
    ("/SegNet/Mine/images/c.PNG /SegNet/Mine/labels/c.png", "c"),
    ("\ufeffü_1", "ü_1"),
  ],
)
def test_lines_of_lists_as_other_tools_write_them(flat, tmp_path, line, name):
  (flat / "images/c.png").rename(flat / "images/c.PNG")
  (flat / "train.txt").write_text(line)
  assert names(run(config(flat, train__list="train.txt"), tmp_path / "records")) == [name]


def test_training_and_validation_may_share_images_where_that_is_said(flat, tmp_path):
  both = {"validation__images": "images/{name}.png", "validation__labels": "labels/{name}.png"}
  with pytest.raises(UserError, match=r"images/a b\.png.*3 more.*folder\.shared_images"):
    run(config(flat, **both), tmp_path / "records")
  dataset = config(flat, **both, shared_images=True)
  assert len(names(run(dataset, tmp_path / "records"))) == 4
  assert len(names(run(dataset, tmp_path / "records", split="validation"), "validation")) == 4


COLORS = (((128, 64, 128), "road"), ((0, 0, 142), "car"), ((0, 0, 0), ""))


def test_labels_as_colours(flat, tmp_path):
  rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
  rgb[:5], rgb[5:9] = (128, 64, 128), (0, 0, 142)
  for path in (flat / "labels").iterdir():
    save(path, rgb)
  dataset = config(flat, train__labels="labels/{name}.png", label_classes=COLORS)
  label = examples(run(dataset, tmp_path / "records"))[0]["label"][..., 0]
  assert (label[:5] == 0).all()
  assert (label[5:9] == 1).all()
  assert (label[9:] == 255).all()
  rgb[17, 3:5] = 1, 2, 3
  save(flat / "labels/c.png", rgb)
  message = r"labels/c\.png.*\(1, 2, 3\).*2 pixels.*folder\.label_classes.*folder\.other_labels"
  with pytest.raises(UserError, match=message):
    run(dataset, tmp_path / "other")
  dataset.folder.other_labels = "ignore"
  label = examples(run(dataset, tmp_path / "other"))[2]["label"][..., 0]
  assert (label[9:] == 255).all()


def test_ids_of_cityscapes(flat, tmp_path):
  ids = np.full((HEIGHT, WIDTH), CITYSCAPES_IDS["car"], np.uint8)
  ids[0], ids[1], ids[2] = CITYSCAPES_IDS["road"], CITYSCAPES_IDS["sky"], 255
  for path in (flat / "labels").iterdir():
    save(path, ids)
  dataset = config(flat, train__labels="labels/{name}.png", label_classes=("cityscapes",))
  label = examples(run(dataset, tmp_path / "records"))[0]["label"][..., 0]
  assert (label[0] == 0).all()
  assert (label[1:3] == 255).all()
  assert (label[3:] == 1).all()


@pytest.mark.parametrize(
  ("classes", "message"),
  [
    ((((1, 2), "road"),), r"\(1, 2\).*label id.*R, G, B"),
    ((((1, 2, 256), "road"),), r"256"),
    ((((1, 2, 3), "road"), (4, "car")), "ids and colours"),
    ((((1, 2, 3), "road"), ((1, 2, 3), "car")), r"\(1, 2, 3\).*once"),
    ((((1, 2, 3), "tree"),), r"\(1, 2, 3\).*'tree'.*road.*car"),
  ],
)
def test_colours_that_are_none(flat, tmp_path, classes, message):
  with pytest.raises(UserError, match=rf"folder\.label_classes.*{message}"):
    run(config(flat, label_classes=classes), tmp_path / "records")


def test_a_forgotten_void_id_names_what_to_set(flat, tmp_path):
  save(flat / "labels/c.png", np.full((HEIGHT, WIDTH), 11, np.uint8))
  message = r"label id 11\b.*folder\.label_classes.*folder\.other_labels"
  with pytest.raises(UserError, match=message):
    run(config(flat, train__labels="labels/{name}.png"), tmp_path / "records")


def write_pfm(path, values, order="<"):
  height, width = values.shape
  scale = -1.0 if order == "<" else 1.0
  header = f"Pf\n{width} {height}\n{scale}\n".encode()
  path.write_bytes(header + values[::-1].astype(f"{order}f4").tobytes())


@pytest.mark.parametrize("order", ["<", ">"])
def test_portable_float_maps(tmp_path, order):
  values = np.random.RandomState(0).rand(5, 7).astype(np.float32)
  write_pfm(tmp_path / "a.pfm", values, order)
  np.testing.assert_array_equal(readers.read_depth_pfm(str(tmp_path / "a.pfm")), values)
  contents = (tmp_path / "a.pfm").read_bytes()
  for harmed, message in ((contents[:-1], "decoded"), (b"PF" + contents[2:], "PFM")):
    (tmp_path / "b.pfm").write_bytes(harmed)
    with pytest.raises(readers.BadFrameError, match=message):
      readers.decode(readers.read_depth_pfm, str(tmp_path / "b.pfm"))


@pytest.mark.parametrize("kind", ["png16", "npy", "pfm", "npy, negative", "pfm, half the size"])
def test_disparity_in_pixels(kitti, tmp_path, kind):
  disparity = np.random.RandomState(0).uniform(1, 20, (HEIGHT, WIDTH)).astype(np.float32)
  disparity = np.round(disparity * 256) / 256
  disparity[0, :4] = 0
  ending = kind.split(",")[0]
  for clip in ("00", "01"):
    for frame in range(3):
      path = kitti / f"disp/{clip}/{frame:06d}.{ending.removesuffix('16')}"
      path.parent.mkdir(parents=True, exist_ok=True)
      if ending == "png16":
        Image.fromarray((disparity * 256).astype(np.uint16)).save(path)
      elif ending == "npy":
        np.save(path, -disparity if "negative" in kind else disparity)
      else:
        write_pfm(path, disparity[::2, ::2] * (16 / WIDTH) if "half" in kind else disparity)
  dataset = config(
    kitti,
    f"disparity_{ending}",
    train__images=CLIPS["train__images"],
    train__camera=CLIPS["train__camera"],
    train__depth="disp/{clip}/{frame}." + ending.removesuffix("16"),
  )
  for record, seed in zip(examples(run(dataset, tmp_path / "records")), (0,) * 3 + (10,) * 3,
                          strict=True):  # fmt: skip
    with np.errstate(divide="ignore"):
      metres = (FX + seed) * (BASELINE + seed) / disparity
    expected = np.where(disparity > 0, 655.36 / (metres + 0.01), 1)
    if "half" in kind:
      np.testing.assert_allclose(
        record["inverse_depth"][2:, :][::2, 1::2], expected[2::2, :-1:2], rtol=1e-5
      )
    else:
      np.testing.assert_allclose(record["inverse_depth"], expected, rtol=1e-6)
  dataset.folder.train.camera = ""
  with pytest.raises(UserError, match=r"folder\.train\.camera.*depth is 'disparity_"):
    run(dataset, tmp_path / "other")
  dataset.folder.camera.intrinsics = (FX, FX, CX, 8.0)
  with pytest.raises(UserError, match=r"folder\.camera\.baseline"):
    run(dataset, tmp_path / "other")


def test_the_sign_of_a_disparity_map_is_that_of_most_pixels():
  values = np.full((4, 5), -8.0)
  values[0, 0], values[1] = 0.3, np.nan
  metres = to_metres(inverse_depth.from_stereo_disparity(values, focal=100.0, baseline=0.5))
  np.testing.assert_allclose(metres[2:], 6.25, rtol=1e-5)
  flipped = inverse_depth.from_stereo_disparity(-values, focal=100.0, baseline=0.5)
  np.testing.assert_allclose(to_metres(flipped), metres)
  assert (flipped.ravel()[[0, 5]] == 1).all()


def test_depth_maps_of_kitti(flat, tmp_path):
  values = pixels(0).disparity
  for name in ("a b", "ü_1", "c", "d"):
    save(flat / f"depth/{name}.png", values)
  dataset = config(flat, "kitti_depth_png16", train__depth="depth/{name}.png")
  expected = inverse_depth.from_measured(values, metres_per_unit=1 / 256)
  np.testing.assert_array_equal(
    examples(run(dataset, tmp_path / "records"))[0]["inverse_depth"], expected
  )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_images_are_read_upright(tmp_path, orientation):
  """By EXIF's own definition: which row and column of the picture the stored ones are."""
  upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
  stored = {
    1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
    5: upright.T, 6: upright.T[::-1], 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1],
  }[orientation]  # fmt: skip
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = tmp_path / "a.png"
  Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
  image = np.asarray(readers.read_rgb(str(path)))[..., 0]
  np.testing.assert_array_equal(image, upright)


def test_a_turned_frame_and_its_upright_label(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # stored on its left side
  rgb = pixels(0).rgb
  (tmp_path / "mine/images").mkdir(parents=True)
  Image.fromarray(np.ascontiguousarray(rgb.swapaxes(0, 1)[::-1])).save(
    tmp_path / "mine/images/a.png", exif=exif
  )
  save(tmp_path / "mine/labels/a.png", np.zeros((HEIGHT, WIDTH), np.uint8))
  save(tmp_path / "mine/right/a.png", pixels(1).rgb)
  dataset = config(
    tmp_path / "mine", train__labels="labels/{name}.png", train__right="right/{name}.png",
    views=("right",),
  )  # fmt: skip
  dataset.folder.camera.update({"intrinsics": (FX, FX, CX, 8.0), "baseline": BASELINE})
  (record,) = examples(run(dataset, tmp_path / "records"))
  np.testing.assert_array_equal(record["image"], rgb)
  np.testing.assert_allclose(record["intrinsics"], [FX, FX, CX, 8.0])


def test_suffixes_in_capitals_links_and_hidden_files(tmp_path):
  outside = tmp_path / "elsewhere"
  save(outside / "c.png", pixels(3).rgb)
  for name in ("a.png", "b.PNG", "._a.png", ".thumbnails/a.png"):
    save(tmp_path / f"mine/images/{name}", pixels(1).rgb)
  (tmp_path / "mine/images/linked").symlink_to(outside)
  (tmp_path / "mine/images/loop").symlink_to(tmp_path / "mine")
  (tmp_path / "mine/images/itself").symlink_to(tmp_path / "mine/images/itself")
  builder = run(config(tmp_path / "mine"), tmp_path / "records")
  assert names(builder) == ["a", "b", "linked/c"]


def test_archives_of_windows(tmp_path):
  save(tmp_path / "a.png", pixels(1).rgb)
  (tmp_path / "mine").mkdir()
  with zipfile.ZipFile(tmp_path / "mine/all.zip", "w") as archive:
    archive.writestr(r"images\walk\a.PNG", (tmp_path / "a.png").read_bytes())
    archive.writestr(r"images\.hidden\b.png", b"")
  (record,) = examples(run(config(tmp_path / "mine"), tmp_path / "records"))
  assert record["name"] == b"walk/a"
  np.testing.assert_array_equal(record["image"], pixels(1).rgb)


def test_validation_frames_are_single_images_without_depth(flat, tmp_path):
  """Labelled frames, nothing else: views and depth are of the split that learns from them."""
  dataset = config(
    flat, "metres_npy", views=("previous", "next"), train__images="videos/{name}.png",
    validation__images="images/{name}.png", validation__labels="labels/{name}.png",
  )  # fmt: skip
  builder = run(
    dataset, tmp_path / "records", split="validation", contents=("image", "label", "inverse_depth")
  )
  assert len(names(builder, "validation")) == 4
  assert builder.report.depth_share == {"validation": 0.0}
  with pytest.raises(UserError, match=r"folder\.train\.depth.*metres_npy"):
    run(dataset, tmp_path / "records", contents=("image", "inverse_depth"))
  dataset.folder.validation.depth = "dept/{name}.npy"  # what is named must exist
  with pytest.raises(UserError, match=r"dept/\{name\}\.npy.*folder\.validation\.depth"):
    run(dataset, tmp_path / "records", split="validation", contents=("image",))


def test_names_in_other_alphabets_reach_the_batches(flat, tmp_path):
  dataset = config(flat)
  run(dataset, tmp_path / "records")
  data = ConfigDict({"records_dir": str(tmp_path / "records"), "target": dataset})
  data.classes = {"names": CLASSES.names, "colors": CLASSES.colors}
  data.evaluation_batch_size, data.reader_threads = 4, 1
  (batch,) = tiny_trees.evaluation_batches(data, split="train", contents=("image",))
  assert sorted(batch["name"]) == ["a b", "c", "d", "ü_1"]
  path = flat / "images" / "x\udcfc.png"  # a byte of Latin-1
  save(path, pixels(1).rgb)
  with pytest.raises(UserError, match="UTF-8"):
    run(dataset, tmp_path / "others")


def test_colours_under_a_configuration_of_ids_name_what_to_set(flat, tmp_path):
  save(flat / "labels/c.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
  with pytest.raises(UserError, match=r"labels/c\.png.*RGB.*folder\.label_classes"):
    run(config(flat, train__labels="labels/{name}.png"), tmp_path / "records")


def test_a_real_data_root_is_no_street_world(tmp_path):
  from data_pipelines.street_world.provide import render

  world = {
    "seed": 0, "gap": 1.0, "source_frames": 1, "source_height": 32, "source_width": 48
  }  # fmt: skip
  data = ConfigDict({"street_world": world, "prepare_processes": 1})
  tiny_trees.write_gta5(tmp_path / "gta")
  dataset = ConfigDict({"dataset": "gta5", "root": str(tmp_path / "gta")})
  with pytest.raises(UserError, match=r"street_world\.enabled=False") as error:
    render(dataset, data)
  assert not re.search("delete", str(error.value))
  dataset.dataset = "folder"  # one's own files beside the world
  render(dataset, data)
