"""Folders to predict as people have them: files of many kinds, some of them bad."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from corda_jax.errors import UserError
from corda_jax.images import ImageError, image_suffixes, read_image
from corda_jax.inference.predict import predict
from corda_jax.locks import only_writer
from corda_jax.training.checkpoint import Checkpoints
from tests import tiny
from tests.stub_network import stub_task


def experiment(**overrides):
  size = {"data.target.height": 17, "data.target.width": 25}
  return stub_task(tiny.get_config(**size | overrides))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  checkpoints = Checkpoints(folder)
  checkpoints.save(3, experiment().initial_state())
  checkpoints.close()
  return folder


@pytest.fixture
def run(workdir, tmp_path):
  """(folder of images, fields of `prediction`) → results, and the folder that they are in."""

  def predict_all(path, **fields):
    fields = {"input": str(path), "output": str(tmp_path / "out"), "write": ("label",)} | fields
    made = experiment(**{f"prediction.{name}": value for name, value in fields.items()})
    written = predict(made, workdir)
    return json.loads((written / "results.json").read_text()), written

  return predict_all


def picture(path, size=(20, 10), **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  noise = np.random.RandomState(3).randint(0, 256, (*size[::-1], 3)).astype(np.uint8)
  Image.fromarray(noise).save(path, **options)
  return path


def names(results):
  return [entry["name"] for entry in results["images"]]


def test_what_is_hidden_is_passed_over_and_links_are_followed(run, tmp_path, capsys):
  images = tmp_path / "in"
  picture(images / "a.jpg")
  picture(images / ".trash/b.jpg")
  (images / "._a.jpg").write_bytes(b"of a Mac")
  picture(tmp_path / "elsewhere/c.JPG")
  (images / "linked").symlink_to(tmp_path / "elsewhere")
  (images / "loop").symlink_to(images)
  results, _ = run(images)
  assert names(results) == ["a", "linked/c"]
  assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".gif", ".jp2", ".tga", ".webp", ".pgm", ".jfif", ".TIFF"])
def test_formats_are_those_of_single_images(run, tmp_path, suffix):
  assert suffix.lower() in image_suffixes()
  path = tmp_path / f"in/a{suffix}"
  picture(path, format="JPEG" if suffix == ".jfif" else None)
  alone, written = run(path)
  label = np.asarray(Image.open(written / "a_label.png"))
  assert label.shape == (10, 20)
  together, written = run(path.parent, output=str(tmp_path / "other"))
  assert names(together) == names(alone) == ["a"]
  np.testing.assert_array_equal(np.asarray(Image.open(written / "a_label.png")), label)


BAD = {
  "empty.png": "cannot be decoded",
  "gone.png": r"link to .*/nowhere\.png",
  "twice.png": r"same names.*twice\.jpg",
  f"{'x' * 224}.png": "name too long",
  "unmounted": r"link to .*/nowhere,",
  "pipe.png": "regular file",
  "strip.png": r"4000x1\b.*68000x17.*pieces",
  "phone.jpg": "HEIC.*convert",
}


@pytest.fixture
def bad_folder(tmp_path, monkeypatch):
  """Two good images, and a bad one of each kind."""
  monkeypatch.setattr("corda_jax.inference.predict._MOST_PIXELS", 1_000_000)
  folder = tmp_path / "in"
  picture(folder / "good.png")
  picture(folder / "twice.jpg")
  picture(folder / "twice.png")
  picture(folder / f"{'x' * 224}.png")
  (folder / "unmounted").symlink_to(tmp_path / "nowhere")
  os.mkfifo(folder / "pipe.png")
  picture(folder / "strip.png", (4000, 1))
  (folder / "empty.png").write_bytes(b"")
  (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
  (folder / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
  return folder


def test_bad_files_do_not_stop_the_others(run, bad_folder):
  for _ in range(2):  # the second time the good ones are known
    results, _ = run(bad_folder, bad_files="skip")
    assert names(results) == ["good", "twice"]
    assert len(results["failed"]) == len(BAD)
    for name, reason in BAD.items():
      (message,) = [each for each in results["failed"] if each.startswith(f"{bad_folder / name} ")]
      assert re.search(reason, message)
      assert "\n" not in message


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_stops_all_unless_it_is_to_be_skipped(run, bad_folder, name):
  for other in set(BAD) - {name}:
    (bad_folder / other).unlink()
  expected = rf"{bad_folder / name} .*{BAD[name]}.*prediction\.bad_files=skip"
  with pytest.raises(UserError, match=expected) as error:
    run(bad_folder)
  assert "\n" not in str(error.value)


def test_a_folder_of_bad_files_alone_is_an_error(run, tmp_path):
  for name in ("a.png", "b.png"):
    (tmp_path / name).write_bytes(b"no image")
  with pytest.raises(UserError, match=r"\b2 images.*a\.png"):
    run(tmp_path, bad_files="skip")


def test_what_is_left_out_is_counted(run, tmp_path, capsys):
  picture(tmp_path / "in/a.png")
  for name in ("b.HEIC", "c.heif", "d.txt", "e.mp4", "f"):
    (tmp_path / "in" / name).write_bytes(b"no image")
  run(tmp_path / "in")
  (line,) = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
  for expected in ("1 .heic", "1 .heif", "1 .mp4", "1 .txt", "1 without suffix", "JPEG", "video"):
    assert expected in line
  (tmp_path / "in/a.png").unlink()
  with pytest.raises(UserError, match=r"without images.*1 \.heic"):
    run(tmp_path / "in")


def test_of_several_pictures_in_a_file_the_first_is_taken_and_that_is_noted(run, tmp_path, capsys):
  pages = [Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue")]
  for name in ("moving.gif", "pages.tif", "phone.jpg"):
    path = tmp_path / "in" / name
    path.parent.mkdir(exist_ok=True)
    kind = "MPO" if name == "phone.jpg" else None  # of which the others are no pictures
    pages[0].save(path, save_all=True, append_images=pages[1:], format=kind)
    with open(path, "rb") as file:
      assert read_image(file).rgb.astype(int)[0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)
  results, _ = run(tmp_path / "in")
  notes = {entry["name"]: entry.get("note") for entry in results["images"]}
  assert notes.pop("phone") is None
  printed = "".join(capsys.readouterr())
  for name, note in notes.items():
    assert re.search(r"first of its 3\b", note)
    assert f"{name}." in printed


def test_one_writer_a_folder(run, workdir, tmp_path):
  picture(tmp_path / "in/a.png")
  expected = rf"process {os.getpid()}\b.*prediction\.output"
  with only_writer(tmp_path / "out/.lock", otherwise=""), pytest.raises(UserError, match=expected):
    run(tmp_path / "in")
  assert names(run(tmp_path / "in")[0]) == ["a"]


def test_the_longest_name_and_a_longer_one(run, tmp_path):
  longest = picture(tmp_path / f"{'x' * 223}.png")
  kinds = ("label", "inverse_depth_color")
  assert names(run(longest, write=kinds)[0]) == ["x" * 223]
  with pytest.raises(UserError, match="too long"):
    run(picture(tmp_path / f"{'x' * 224}.png"), write=kinds, output=str(tmp_path / "other"))


def test_names_are_those_of_the_first_of_each(run, tmp_path):
  for name in ("a.jpg", "a.png", "a.png.jpg"):
    picture(tmp_path / "in" / name)
  results, _ = run(tmp_path / "in", bad_files="skip")
  assert names(results) == ["a", "a.png"]
  assert len(results["failed"]) == 1


def test_a_second_link_to_a_folder_is_another_folder(run, tmp_path):
  picture(tmp_path / "in/z/1.png")
  (tmp_path / "in/a").symlink_to(tmp_path / "in/z")
  assert names(run(tmp_path / "in")[0]) == ["a/1", "z/1"]


@pytest.mark.parametrize("suffix", [".ico", ".eps", ".psd"])
def test_what_is_no_format_of_photographs(run, tmp_path, suffix):
  path = tmp_path / f"in/a{suffix}"
  path.parent.mkdir()
  if suffix == ".psd":
    path.write_bytes(b"8BPS" + bytes(40))
  else:
    picture(path)
  with pytest.raises(UserError, match="no picture of a format"):
    run(path)
  with pytest.raises(UserError, match="without images"):
    run(path.parent)


def test_damage_behind_the_first_page_does_not_matter(tmp_path):
  pages = [Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue")]
  pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
  contents = (tmp_path / "a.tif").read_bytes()
  (tmp_path / "a.tif").write_bytes(contents[: len(contents) * 3 // 5])
  with open(tmp_path / "a.tif", "rb") as file:
    found = read_image(file)
  assert found.rgb[0, 0].tolist() == [255, 0, 0]
  assert found.pages == 1


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_pictures_of_other_modes_are_read_as_rgb(tmp_path, mode):
  path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
  Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(path)
  with open(path, "rb") as file:
    found = read_image(file).rgb
  assert found.shape == (8, 8, 3)
  assert found.min() >= 250


def test_what_is_no_picture(tmp_path):
  (tmp_path / "a").write_bytes(b"text")
  with open(tmp_path / "a", "rb") as file, pytest.raises(ImageError, match="no picture"):
    read_image(file)
