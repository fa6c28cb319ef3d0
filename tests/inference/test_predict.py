"""Predictions of images, folders and videos, by a tiny network that was never trained."""

import json
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from corda_jax.adaptation.evaluate import Evaluator
from corda_jax.errors import UserError
from corda_jax.inference import media as files
from corda_jax.inference.predict import predict
from corda_jax.inference.predictor import Predictor
from corda_jax.inference.video import Video, VideoWriter
from corda_jax.labels import CITYSCAPES, CITYSCAPES_IDS, CITYSCAPES_TO_TRAIN
from corda_jax.resize import resize_centered
from corda_jax.training.checkpoint import Checkpoints
from corda_jax.training.history import History
from corda_jax.training.journal import Journal
from data_pipelines.inverse_depth import from_disparity
from tests import tiny
from tests.stub_network import stub_task

SIZE = (34, 50)
ALREADY = r"\b1 of 3 images"  # goes on with the others


def experiment(devices=1, **overrides):
  config = tiny.get_config(
    **{"data.target.height": 17, "data.target.width": 25, "model.initial_inverse_depth": 20.0}
    | overrides
  )
  return stub_task(config, devices)


@pytest.fixture(scope="module")
def state():
  return experiment().initial_state()


@pytest.fixture
def workdir(tmp_path, state):
  checkpoints = Checkpoints(tmp_path / "run")
  checkpoints.save(3, state.replace(step=jnp.int32(3)))
  checkpoints.close()
  return tmp_path / "run"


@pytest.fixture
def folder(tmp_path, random):
  """Three images, one in a folder of its own, one of another size; and a file that is none."""
  for name, size in (("a.png", SIZE), ("town/b.png", SIZE), ("c.bmp", (20, 20))):
    path = tmp_path / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = random.randint(0, 256, (5, 6, 3)).astype(np.uint8)
    Image.fromarray(noise).resize(size[::-1]).save(path)
  (tmp_path / "images" / "notes.txt").write_text("no image")
  return tmp_path / "images"


def run(workdir, path, capsys=None, **overrides):
  fields = {f"prediction.{name}": value for name, value in overrides.items() if "__" not in name}
  fields |= {name.replace("__", "."): value for name, value in overrides.items() if "__" in name}
  made = experiment(**{"prediction.input": str(path)} | fields)
  return predict(made, workdir)


def results(folder):
  return json.loads((folder / "results.json").read_text())


def test_maps_are_those_that_evaluation_makes(random, state):
  images = random.randint(0, 256, (3, 17, 25, 3)).astype(np.uint8)
  made = experiment(**{"prediction.batch_size": 4})
  got = Predictor(made, state)(images, (17, 25))
  batch = {"image": images, "label": images[..., 0], "valid": np.ones(3, bool)}
  expected = Evaluator(experiment()).pictures(state, [batch], 3)
  np.testing.assert_array_equal(got["label"], expected["prediction"])
  np.testing.assert_allclose(got["inverse_depth"], expected["inverse_depth"], rtol=1e-6)
  np.testing.assert_allclose(got["difficulty"], expected["difficulty"], atol=1e-6)
  assert len(np.unique(got["label"])) > 1


def test_several_devices_share_images_and_fill_up_what_is_missing(random, state):
  images = random.randint(0, 256, (3, 17, 25, 3)).astype(np.uint8)
  several = Predictor(experiment(devices=2), jax.device_get(state))
  assert several.batch_size == 2
  got = [several(images[:2], (17, 25)), several(images[2:], (17, 25))]
  expected = Predictor(experiment(**{"prediction.batch_size": 3}), state)(images, (17, 25))
  for name, maps in expected.items():
    joined = np.concatenate([each[name] for each in got])
    np.testing.assert_allclose(joined, maps, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("depth", "scales", "passes"),
  [(False, (1.0,), 1), (False, (0.5,), 1), (True, (1.0,), 1), (True, (0.5,), 2)],
)
def test_a_view_is_predicted_once(random, depth, scales, passes):
  fields = {} if depth else tiny.PLAIN
  made = experiment(**{"evaluation.scales": scales} | fields)
  predictor, counted = Predictor(made, made.initial_state()), []
  compiled = predictor._predict
  predictor._predict = lambda *given: counted.append(1) or compiled(*given)
  predictor(random.randint(0, 256, (1, 17, 25, 3)).astype(np.uint8), (17, 25))
  assert len(counted) == passes


def test_depth_is_that_of_the_image_as_it_is_however_it_is_seen(random, state):
  image = random.randint(0, 256, (1, 17, 25, 3)).astype(np.uint8)
  seen = {"evaluation.flip": True, "evaluation.scales": (0.5, 1.0)}
  got, expected = (
    Predictor(experiment(**views), state)(image, (17, 25))["inverse_depth"] for views in (seen, {})
  )
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  mirrored = Predictor(experiment(), state)(image[:, :, ::-1], (17, 25))["inverse_depth"]
  assert np.abs(mirrored / expected - 1).max() > 1e-3  # which it would differ from


@pytest.mark.parametrize("views", [{}, {"evaluation.flip": True, "evaluation.scales": (0.5, 1.0)}])
def test_a_large_image_in_tiles_is_the_whole_one(random, state, views):
  images = random.randint(0, 256, (1, 150, 170, 3)).astype(np.uint8)
  whole = experiment(**{"prediction.tile_height": 0, "prediction.tile_width": 0} | views)
  # What the tiny network sees lies within 32 pixels.
  tiles = experiment(
    **{"prediction.tile_height": 96, "prediction.tile_width": 100, "prediction.tile_margin": 32}
    | views
  )
  got, expected = (Predictor(made, state)(images, (90, 200)) for made in (tiles, whole))
  assert got["label"].shape == (1, 90, 200)
  assert (got["label"] != expected["label"]).mean() < 1e-3
  np.testing.assert_allclose(got["inverse_depth"], expected["inverse_depth"], rtol=1e-4)


def test_an_image(workdir, folder, state, capsys):
  written = run(workdir, folder / "a.png", label_ids="cityscapes")
  assert written == workdir / "predictions" / "a"
  output = capsys.readouterr().out
  for kind in ("overlay", "label", "inverse_depth", "inverse_depth_color", "difficulty"):
    assert str(written / f"a_{kind}.png") in output
  image = files.ImageFile("a", folder / "a.png").read().rgb
  seen = np.asarray(Image.fromarray(image).resize((25, 17), Image.Resampling.BILINEAR))
  maps = Predictor(experiment(), state)(seen[None], SIZE)
  ids = np.array([CITYSCAPES_IDS[name] for name in CITYSCAPES.names])
  label = np.asarray(Image.open(written / "a_label.png"))
  np.testing.assert_array_equal(label, ids[maps["label"][0]])
  overlay = np.asarray(Image.open(written / "a_overlay.png")).astype(float)
  colors = CITYSCAPES.palette()[maps["label"][0]]
  np.testing.assert_allclose(overlay, (image.astype(float) + colors) / 2, atol=0.51)
  depth = from_disparity(np.asarray(Image.open(written / "a_inverse_depth.png")))
  np.testing.assert_allclose(depth, maps["inverse_depth"][0], atol=1 / 512)
  difficulty = np.asarray(Image.open(written / "a_difficulty.png"))  # values, not colours
  np.testing.assert_allclose(difficulty / 255, maps["difficulty"][0], atol=1 / 509)
  (entry,) = results(written)["images"]
  assert (entry["size"], entry["input_size"]) == ([34, 50], [17, 25])
  share = (maps["label"][0] == 7).mean()
  assert entry["shares"][CITYSCAPES.names[7]] == pytest.approx(share)
  assert results(written)["label_values"]["road"] == 7
  assert results(written)["step"] == 3


def test_a_folder_goes_on_where_it_was(workdir, folder, state, capsys, monkeypatch):
  real = files.write_png

  def fails(path, *rest):
    if path.name.startswith("c_label"):
      raise KeyboardInterrupt
    real(path, *rest)

  with monkeypatch.context() as patch:
    patch.setattr(files, "write_png", fails)
    with pytest.raises(KeyboardInterrupt):
      run(workdir, folder)
  written = run(workdir, folder)
  assert re.search(ALREADY, capsys.readouterr().out)
  names = [image["name"] for image in results(written)["images"]]
  assert names == ["a", "c", "town/b"]
  assert (written / "town" / "b_label.png").exists()
  label = np.asarray(Image.open(written / "c_label.png"))
  assert label.shape == (20, 20)
  Image.new("RGB", SIZE).save(folder / "a.png")  # another image of that name
  (written / "c_label.png").unlink()
  run(workdir, folder)
  assert re.search(ALREADY, capsys.readouterr().out)
  assert (written / "c_label.png").exists()
  run(workdir, folder, overlay_opacity=0.3)  # other settings: all again
  assert not re.search(ALREADY, capsys.readouterr().out)
  windows = {"evaluation__window": (8, 8), "evaluation__window_stride": (4, 8)}
  for kept in (False, True):
    run(workdir, folder, overlay_opacity=0.3, **windows)
    assert bool(re.search("3 of 3", capsys.readouterr().out)) == kept
  run(workdir, folder, overlay_opacity=0.3)
  capsys.readouterr()
  names = {"data__classes.names": CITYSCAPES.names}
  for colors, kept in ((CITYSCAPES.colors, True), (CITYSCAPES.colors[::-1], False)):
    run(workdir, folder, overlay_opacity=0.3, **names, **{"data__classes.colors": colors})
    assert bool(re.search("3 of 3", capsys.readouterr().out)) == kept
  checkpoints = Checkpoints(workdir)  # and another network
  changed = jax.tree.map(lambda x: 2 * x, state.params)
  checkpoints.save(4, state.replace(step=jnp.int32(4), params=changed))
  checkpoints.close()
  run(workdir, folder, overlay_opacity=0.3)
  assert not re.search(ALREADY, capsys.readouterr().out)
  assert not list(written.rglob("*.partial"))


def test_images_are_resized_as_those_of_training(random):
  image = random.randint(0, 256, (20, 30, 3)).astype(np.uint8)
  for name, filter_ in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", None)):
    filter_ = filter_ or Image.Resampling.BICUBIC
    expected = np.asarray(Image.fromarray(image).resize((15, 10), filter_))
    np.testing.assert_array_equal(files.resized(image, 10, name), expected)
  got = files.resized(image, 8, "opencv")
  expected = resize_centered(jnp.asarray(image, jnp.float32)[None], (8, 12))[0]
  np.testing.assert_allclose(got, expected, atol=1)  # without antialiasing, and rounded
  assert files.resized(image, 20, "opencv") is image


def test_images_of_one_size_together_are_as_alone(workdir, folder):
  alone, together = (
    run(workdir, folder, output=str(folder.parent / f"out{size}"), batch_size=size)
    for size in (1, 4)
  )
  for path in alone.rglob("*.png"):
    other = together / path.relative_to(alone)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(other)))


def test_images_that_cannot_be_read(workdir, folder, capsys):
  (folder / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
  Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "deep.png")
  with pytest.raises(UserError, match=r"b\.jpg.*prediction\.bad_files"):
    run(workdir, folder)
  written = run(workdir, folder, bad_files="skip")
  assert len(results(written)["images"]) == 3
  failed = results(written)["failed"]
  assert len(failed) == 2
  assert re.search(r"deep\.png.*8 bits", failed[1])
  assert re.search(r"\b2\b.*could not be predicted", capsys.readouterr().out)


def test_an_image_is_read_upright(tmp_path):
  image = Image.new("RGB", (6, 4))
  image.putpixel((0, 0), (255, 0, 0))
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by a quarter
  image.save(tmp_path / "phone.png", exif=exif)
  read = files.ImageFile("phone", tmp_path / "phone.png").read().rgb
  assert read.shape == (6, 4, 3)
  assert read[0, 3, 0] == 255


def test_a_video(workdir, tmp_path, random, capsys, monkeypatch):
  path = tmp_path / "drive.mp4"
  writer = VideoWriter(path, 5)
  for _ in range(4):
    writer.write(np.kron(random.randint(0, 256, (3, 5, 3)), np.ones((10, 10, 1))).astype(np.uint8))
  writer.close()
  real, calls = files.write_png, []

  def counted(path, *rest):
    calls.append(path.name)
    if len(calls) == 4:
      raise KeyboardInterrupt
    real(path, *rest)

  with monkeypatch.context() as patch:
    patch.setattr(files, "write_png", counted)
    patch.setattr("corda_jax.inference.predict._THREADS", 1)
    with pytest.raises(KeyboardInterrupt):
      run(workdir, path, write=("overlay", "label"), label_ids="cityscapes")
  written = run(workdir, path, write=("overlay", "label"), label_ids="cityscapes")
  assert [each["name"] for each in results(written)["images"]] == [
    f"drive/{number:06d}" for number in range(4)
  ]
  video = Video(written / "drive_overlay.mp4")
  assert (video.rate, video.frames) == (5, 4)
  frames = list(Video(path).read())
  labels = [np.asarray(Image.open(written / "drive" / f"{n:06d}_label.png")) for n in range(4)]
  for shown, frame, label in zip(video.read(), frames, labels, strict=True):
    expected = files.overlay(frame, CITYSCAPES_TO_TRAIN[label], CITYSCAPES.palette(), 0.5)
    assert np.abs(shown.astype(float) - expected).mean() < 12  # H.264 is lossy
  assert not list(written.glob("*.partial"))


def test_of_a_video_that_is_not_ended_nothing_is_left(tmp_path):
  writer = VideoWriter(tmp_path / "a.mp4", 5)
  for _ in range(100):  # more than the encoder looks ahead
    writer.write(np.zeros((20, 30, 3), np.uint8))
  assert [path.name for path in tmp_path.iterdir()] == ["a.mp4.partial"]
  writer.abandon()
  assert not list(tmp_path.iterdir())


def test_what_is_no_input(workdir, folder, tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "bad.mp4").write_bytes(b"no video")
  Image.new("RGB", (3, 3)).save(folder / "a.jpg")
  for path, message in (
    ("", r"prediction\.input.*''"),
    (tmp_path / "none", r"prediction\.input.*none"),
    (tmp_path / "empty", r"empty.*images"),
    (tmp_path / "bad.mp4", r"bad\.mp4.*video"),
    (folder, r"a\.jpg.*a\.png|a\.png.*a\.jpg"),
  ):
    with pytest.raises(UserError, match=message):
      run(workdir, path)
  names = {"data__classes.names": ("road", "tree"), "data__classes.colors": ()}
  with pytest.raises(UserError, match=r"'tree'.*Cityscapes"):
    run(workdir, folder / "c.bmp", label_ids="cityscapes", **names)
  for field, value in (("write", ("nothing",)), ("tile_height", 100), ("tile_margin", -1)):
    with pytest.raises(UserError, match=rf"prediction\.{field}.*{re.escape(str(value))}"):
      run(workdir, folder / "c.bmp", **{field: value})


def test_a_network_without_depth_and_one_that_diverged(workdir, folder, state, capsys):
  poor = {"model__depth": False, "model__correlation": False}
  made = experiment(**{name.replace("__", "."): value for name, value in poor.items()})
  checkpoints = Checkpoints(folder.parent / "poor")
  checkpoints.save(1, made.initial_state())
  checkpoints.close()
  written = run(folder.parent / "poor", folder / "c.bmp", **poor)
  assert "no depth heads" in capsys.readouterr().out
  assert sorted(path.name for path in written.glob("*.png")) == ["c_label.png", "c_overlay.png"]
  broken = state.replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
  with pytest.raises(UserError, match="not finite"):
    Predictor(experiment(), broken)(np.zeros((1, 17, 25, 3), np.uint8), SIZE)


def test_the_best_and_the_newest_undamaged_checkpoint(workdir, folder, state, capsys):
  checkpoints = Checkpoints(workdir)
  checkpoints.save(5, state.replace(step=jnp.int32(5)))
  checkpoints.close()
  History(workdir).add_evaluation(5, 1.0, {}, {})
  History(workdir).add_evaluation(3, 2.0, {}, {})
  written = run(workdir, folder / "c.bmp", evaluation__checkpoint="best")
  assert results(written)["step"] == 3
  tiny.turn_a_bit(workdir / "checkpoints/5")
  written = run(workdir, folder / "c.bmp")
  assert results(written)["step"] == 3
  assert re.search(r"step 5\b.*damaged", capsys.readouterr().out)
  assert (workdir / "checkpoints/5").is_dir()  # nothing is moved
  History(workdir).add_evaluation(5, 3.0, {}, {})
  with pytest.raises(UserError, match=r"best.*damaged.*evaluation\.checkpoint"):
    run(workdir, folder / "c.bmp", evaluation__checkpoint="best")


def made_video(path, random, frames=5):
  writer = VideoWriter(path, 5)
  for _ in range(frames):
    writer.write(random.randint(0, 256, (30, 50, 3)).astype(np.uint8))
  writer.close()


@pytest.mark.parametrize("then", ["skip", "stop"])
def test_a_video_that_ends_damaged_keeps_what_came_before(
  workdir, tmp_path, random, monkeypatch, then
):
  made_video(tmp_path / "drive.mp4", random)
  real = Video.read

  def breaks(video):
    for number, frame in enumerate(real(video)):
      if number == 3:
        raise files.BadImageError("the rest is lost")
      yield frame

  monkeypatch.setattr(Video, "read", breaks)
  options = {"bad_files": then, "batch_size": 2, "write": ("overlay", "label")}
  folder = workdir / "predictions" / "drive"
  if then == "stop":
    with pytest.raises(UserError, match=r"rest is lost.*\b3\b"):
      run(workdir, tmp_path / "drive.mp4", **options)
  else:
    run(workdir, tmp_path / "drive.mp4", **options)
    assert len(results(folder)["images"]) == 3
    assert results(folder)["failed"] == ["the rest is lost"]
    monkeypatch.setattr(Video, "read", real)
    assert len(list(Video(folder / "drive_overlay.mp4").read())) == 3
  assert len(list(folder.rglob("*_label.png"))) == 3
  assert not list(folder.rglob("*.partial"))


def test_a_video_is_read_upright(tmp_path, random):
  made_video(tmp_path / "lying.mp4", random, frames=1)
  (lying,) = Video(tmp_path / "lying.mp4").read()
  contents = bytearray((tmp_path / "lying.mp4").read_bytes())
  place = contents.index(b"tkhd") + 4 + 40  # the track's matrix: turned by a quarter
  quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
  contents[place : place + 36] = struct.pack(">9i", *quarter)
  (tmp_path / "turned.mp4").write_bytes(contents)
  (turned,) = Video(tmp_path / "turned.mp4").read()
  assert turned.shape == (50, 30, 3)
  np.testing.assert_array_equal(turned, np.rot90(lying, -1))  # clockwise


def test_output_below_the_input_is_no_input(workdir, folder):
  for _ in range(2):
    written = run(workdir, folder, output=str(folder / "out"))
    assert [image["name"] for image in results(written)["images"]] == ["a", "c", "town/b"]


def test_a_line_that_was_cut_short_takes_no_other_with_it(tmp_path):
  journal = Journal(tmp_path / "done", {"by": 1})
  journal.add({"name": "x", "stamp": 1})
  with open(tmp_path / "done", "a") as file:
    file.write('{"name": "y", "st')
  Journal(tmp_path / "done", {"by": 1}).add({"name": "z", "stamp": 3})
  again = Journal(tmp_path / "done", {"by": 1})
  assert [again.get(name, stamp) is not None for name, stamp in (("x", 1), ("z", 3))] == [True] * 2
  assert again.get("x", 2) is None
  assert Journal(tmp_path / "done", {"by": 2}).get("x", 1) is None


def test_an_output_folder_is_of_one_input(workdir, folder, tmp_path):
  other = tmp_path / "images.2"
  other.mkdir()
  Image.new("RGB", (20, 20)).save(other / "a.png")
  assert run(workdir, other) != run(workdir, folder)  # images.2 and images
  written = run(workdir, folder, output=str(tmp_path / "out"))
  before = (written / "a_label.png").read_bytes()
  with pytest.raises(UserError, match=r"images.*prediction\.output"):
    run(workdir, other, output=str(written))
  assert (written / "a_label.png").read_bytes() == before
  own = tmp_path / "own"
  own.mkdir()
  (own / "my_label.png").write_text("not to be lost")
  with pytest.raises(UserError, match=r"my_label\.png"):
    run(workdir, other, output=str(own))
  assert [path.name for path in own.iterdir()] == ["my_label.png"]


def test_videos_in_a_folder_are_left_out_and_reported(workdir, folder, tmp_path, capsys):
  (folder / "drive.mp4").write_bytes(b"a video")
  assert len(results(run(workdir, folder))["images"]) == 3
  assert re.search(r"\b1 \.mp4.*video", capsys.readouterr().out)
  alone = tmp_path / "videos"
  alone.mkdir()
  (alone / "drive.mp4").write_bytes(b"a video")
  with pytest.raises(UserError, match=r"videos.*\b1 \.mp4"):
    run(workdir, alone)
  with pytest.raises(UserError, match=r"images.*output"):
    run(workdir, folder, output=str(folder))


def test_an_image_whose_notes_are_damaged_is_one_bad_file(tmp_path, monkeypatch):
  Image.new("RGB", (9, 9)).save(tmp_path / "a.png")

  def fails(image):
    raise struct.error("required argument\nis not an integer")

  monkeypatch.setattr("PIL.ImageOps.exif_transpose", fails)
  with pytest.raises(files.BadImageError, match=r"a\.png[^\n]*required argument"):
    files.ImageFile("a", tmp_path / "a.png").read()
  monkeypatch.undo()
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
  with pytest.raises(files.BadImageError, match=r"a\.png.*\b80\b"):
    files.ImageFile("a", tmp_path / "a.png").read()
