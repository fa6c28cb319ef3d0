"""Data sets in zip archives, unpacked, and both."""

import shutil
import zipfile

import pytest
from PIL import Image
from tiny_trees import (
  archive,
  dataset_config,
  examples,
  pixels,
  record_files,
  run,
  save,
  write_any,
  write_cityscapes,
  write_cityscapes_more,
  write_gta5,
  write_synthia,
)

from corda_jax.errors import UserError
from data_pipelines import readers
from data_pipelines.archives import DataFiles, depth_tree, file_size, open_file

GTA5 = ("01_images.zip: images", "01_labels.zip: labels")
CITYSCAPES = (
  "leftImg8bit_trainvaltest.zip: leftImg8bit",
  "gtFine_trainvaltest.zip: gtFine",
  "disparity_trainvaltest.zip: disparity",
)


@pytest.mark.parametrize(
  ("dataset", "depth", "groups", "processes"),
  [
    ("gta5", "disparity", GTA5, 1),
    ("gta5", "disparity", (*GTA5, "disparity.zip: disparity"), 2),
    ("synthia", "simulator", ("SYNTHIA.zip: RGB synthia_mapped_to_cityscapes Depth",), 1),
    ("cityscapes", "mono", CITYSCAPES, 1),
    ("cityscapes", "stereo", (*CITYSCAPES, "depth.zip: depth"), 1),
  ],
)
def test_archives_give_the_records_of_unpacked_files(tmp_path, dataset, depth, groups, processes):
  unpacked = write_any(dataset, tmp_path / "unpacked")
  packed = archive(write_any(dataset, tmp_path / "packed"), *groups)
  expected = record_files(run(dataset_config(dataset, unpacked, depth), tmp_path / "a"))
  builder = run(dataset_config(dataset, packed, depth), tmp_path / "b", processes=processes)
  assert record_files(builder) == expected
  # The same files, unpacked or not: records need not be made again.
  run(dataset_config(dataset, unpacked, depth), tmp_path / "b")


def test_a_set_in_several_archives(tmp_path):
  root = write_gta5(tmp_path / "files", 5)
  expected = record_files(run(dataset_config("gta5", root, "none"), tmp_path / "a"))
  for part, names in (("01", ("00000", "00001")), ("02", ("00002", "00003"))):
    with zipfile.ZipFile(root / f"{part}_images.zip", "w") as file:
      for name in names:
        file.write(root / f"images/{name}.png", f"images/{name}.png")
        (root / f"images/{name}.png").unlink()
  builder = run(dataset_config("gta5", root, "none"), tmp_path / "b")  # the fifth is unpacked
  assert record_files(builder) == expected


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "files").mkdir()
  (tmp_path / "files/a.png").touch()
  files = DataFiles("~/files")
  assert files.find("", ".png") == {"a": f"{tmp_path}/files/a.png"}
  assert depth_tree(files, "~/files").root == files.root


def test_unpacked_files_go_first(tmp_path):
  root = archive(write_gta5(tmp_path / "files"), *GTA5)
  save(root / "images/00001.png", pixels(9).rgb)
  config = dataset_config("gta5", root, "none", 18, 31)
  second = examples(run(config, tmp_path / "records"))[1]
  assert (second["image"] == pixels(9).rgb).all()


def test_synthia_may_be_nested(tmp_path):
  expected = run(
    dataset_config("synthia", write_synthia(tmp_path / "flat"), "simulator"), tmp_path / "a"
  )
  write_synthia(tmp_path / "nested/RAND_CITYSCAPES")
  builder = run(dataset_config("synthia", tmp_path / "nested", "simulator"), tmp_path / "b")
  assert record_files(builder) == record_files(expected)


def test_views_from_archives(tmp_path):
  root = write_cityscapes_more(write_cityscapes(tmp_path / "files"))
  views = {"views": ("right", "previous", "next")}
  config = dataset_config("cityscapes", root, "official", **views)
  expected = record_files(run(config, tmp_path / "a"))
  archive(
    root,
    *CITYSCAPES,
    "rightImg8bit_trainvaltest.zip: rightImg8bit",
    "camera_trainvaltest.zip: camera",
    "leftImg8bit_sequence_trainvaltest.zip: leftImg8bit_sequence",
  )
  assert record_files(run(config, tmp_path / "b")) == expected


@pytest.mark.parametrize("kind", ["truncated", "not a zip", "encrypted", "deflate64"])
def test_broken_archives_are_named(tmp_path, kind):
  root = archive(write_gta5(tmp_path / "files"), *GTA5)
  path = root / "01_labels.zip"
  contents = bytearray(path.read_bytes())
  if kind == "truncated":
    contents = contents[: len(contents) // 2]
  elif kind == "not a zip":
    contents = b"<html>please log in</html>"
  else:  # flags or method of the first member, in the table of contents at the end
    at = contents.index(b"PK\x01\x02") + (8 if kind == "encrypted" else 10)
    contents[at] = 1 if kind == "encrypted" else 9
  path.write_bytes(contents)
  with pytest.raises(UserError) as error:
    run(dataset_config("gta5", root, "none"), tmp_path / "records")
  assert str(path) in str(error.value)
  assert f"{path}!" not in str(error.value)  # no member of it
  assert ("encrypted" in str(error.value)) == (kind == "encrypted")
  assert ("method" in str(error.value)) == (kind == "deflate64")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "records").exists()


def test_a_broken_member_is_named(tmp_path):
  root = archive(write_gta5(tmp_path / "files", 3), *GTA5)
  path = root / "01_images.zip"
  contents = bytearray(path.read_bytes())
  at = contents.index(b"images/00001.png") + 200  # inside the member's data
  contents[at : at + 8] = bytes(8)
  path.write_bytes(contents)
  with pytest.raises(UserError) as error:
    run(dataset_config("gta5", root, "none"), tmp_path / "records")
  assert f"{path}!/images/00001.png" in str(error.value)
  builder = run(dataset_config("gta5", root, "none"), tmp_path / "records", bad_frames="skip")
  assert builder.report.bad[0]["file"] == f"{path}!/images/00001.png"
  assert builder.report.kept == {"train": 2}


def test_a_missing_member_is_named_where_it_would_lie(tmp_path):
  root = write_gta5(tmp_path / "files", 3)
  (root / "labels/00001.png").unlink()
  archive(root, *GTA5)
  with pytest.raises(UserError, match=f"{root}/labels/00001.png.*missing"):
    run(dataset_config("gta5", root, "none"), tmp_path / "records")


def test_archives_that_are_not_zip_are_named(tmp_path):
  (tmp_path / "SYNTHIA_RAND_CITYSCAPES.rar").write_bytes(b"Rar!")
  with pytest.raises(UserError, match=r"SYNTHIA_RAND_CITYSCAPES\.rar.*zip"):
    run(dataset_config("synthia", tmp_path, "simulator"), tmp_path / "records")


def test_an_archive_that_changed_is_opened_again(tmp_path):
  root = archive(write_gta5(tmp_path / "files", 1), *GTA5)
  location = DataFiles(root).find("images/", ".png")["00000"]
  before = file_size(location)
  shutil.rmtree(tmp_path / "files")
  save(root / "images/00000.png", pixels(0, 5, 6).rgb)
  archive(root, GTA5[0])
  assert file_size(location) != before
  with open_file(location) as file, Image.open(file) as image:
    assert image.size == (6, 5)
  assert file_size(location + "x") is None
  assert readers.read_rgb(location).size == (6, 5)
