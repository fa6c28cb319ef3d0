"""What preparation says about files that it cannot use: three data sets by every kind of damage."""

import dataclasses
import errno
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from tiny_trees import (
  dataset_config,
  examples,
  run,
  save,
  save_png16,
  write_any,
  write_train_extra,
)

from corda_jax import labels
from corda_jax.errors import UserError
from corda_jax.labels import ClassList
from data_pipelines import archives
from data_pipelines.prepare import open_records


@dataclasses.dataclass
class Case:
  """A data set and the files of one of its frames, which is neither the first nor the last."""

  dataset: str
  depth: str
  image: str
  label: str
  depth_file: str
  options: dict = dataclasses.field(default_factory=dict)

  def write(self, tmp_path: Path) -> Path:
    frames = {"train": 3} if self.dataset == "cityscapes" else {"frames": 3}
    return write_any(self.dataset, tmp_path / "files", **frames, **self.options)

  def config(self, tmp_path: Path):
    return dataset_config(self.dataset, tmp_path / "files", self.depth)


_CITY = "train/aachen/aachen_000002_000019"
CASES = {
  "gta5": Case("gta5", "disparity", "images/00001.png", "labels/00001.png", "disparity/00001.png"),
  "synthia": Case(
    "synthia",
    "simulator",
    "RGB/0000001.png",
    "synthia_mapped_to_cityscapes/0000001.png",
    "Depth/Depth/0000001.png",
  ),
  "synthia_original": Case(
    "synthia",
    "simulator",
    "RGB/0000001.png",
    "GT/LABELS/0000001.png",
    "Depth/Depth/0000001.png",
    {"original": True},
  ),
  "cityscapes_stereo": Case(
    "cityscapes",
    "stereo",
    f"leftImg8bit/{_CITY}_leftImg8bit.png",
    f"gtFine/{_CITY}_gtFine_labelIds.png",
    f"depth/{_CITY}_depth_stereoscopic.mat",
  ),
  "cityscapes_mono": Case(
    "cityscapes",
    "mono",
    f"leftImg8bit/{_CITY}_leftImg8bit.png",
    f"gtFine/{_CITY}_gtFine_labelIds.png",
    f"disparity/{_CITY}_leftImg8bit.png",
  ),
}


def cut_in_half(path: Path) -> None:
  contents = path.read_bytes()
  path.write_bytes(contents[: len(contents) // 2])


def another_size(path: Path) -> None:
  if path.suffix == ".mat":
    scipy.io.savemat(path, {"depth_map": np.ones((5, 6))})
  elif "LABELS" in str(path):
    save_png16(path, np.ones((5, 6, 3), np.uint16))
  else:
    save(path, np.ones((5, 6), np.uint16 if "isparity" in str(path) or "Depth" in str(path)
                       else np.uint8))  # fmt: skip


def unknown_id(path: Path) -> None:
  ids = np.full((18, 31), 7, np.uint16)
  ids[2, 3:5] = 77
  if "LABELS" in str(path):
    save_png16(path, np.stack([ids] * 3, -1))
  else:
    save(path, ids.astype(np.uint8))


def eight_bits(path: Path) -> None:
  save(path, np.ones((18, 31), np.uint8))


def no_depth_map(path: Path) -> None:
  scipy.io.savemat(path, {"disparity": np.ones((18, 31))})


def not_a_number(path: Path) -> None:
  depth = np.ones((18, 31))
  depth[3, 4] = np.nan
  scipy.io.savemat(path, {"depth_map": depth})


def colour_label(path: Path) -> None:
  save(path, np.zeros((18, 31, 3), np.uint8))


DAMAGES = [
  *((case, kind, cut_in_half, "decod") for case in CASES for kind in
    ("image", "label", "depth_file")),
  *((case, kind, os.remove, "missing") for case in CASES for kind in
    ("image", "label", "depth_file")),
  *((case, "label", another_size, "label.*6x5.*31x18") for case in CASES),
  *((case, "label", unknown_id, r"label id 77\b.*\b2\b.*\b0") for case in CASES),
  *((case, "label", colour_label, "RGB")
    for case in CASES),
  *((case, "depth_file", another_size, "depth.*6x5.*31x18") for case in
    ("synthia", "cityscapes_stereo")),
  *((case, "depth_file", eight_bits, "depth.*8.*16") for case in
    ("gta5", "synthia", "cityscapes_mono")),
  ("cityscapes_stereo", "depth_file", no_depth_map, "matrix.*depth_map"),
  ("cityscapes_stereo", "depth_file", not_a_number, "depth_map.*NaN"),
]  # fmt: skip


@pytest.mark.parametrize(
  ("case", "kind", "damage", "reason"),
  [pytest.param(*damage, id=f"{damage[0]}-{damage[1]}-{damage[2].__name__}") for damage in DAMAGES],
)
def test_a_bad_file(tmp_path, case, kind, damage, reason):
  case = CASES[case]
  path = case.write(tmp_path) / getattr(case, kind)
  assert path.exists()
  damage(path)

  message = rf"{case.dataset}.*train.*{path}.*{reason}.*data\.bad_frames.*skip"
  with pytest.raises(UserError, match=message) as error:
    run(case.config(tmp_path), tmp_path / "records")
  assert "\n" not in str(error.value)
  with pytest.raises(UserError, match=rf"{case.dataset}.*24x16_{case.depth}.*{tmp_path}/records"):
    open_records(case.config(tmp_path), tmp_path / "records")

  builder = run(case.config(tmp_path), tmp_path / "records", bad_frames="skip")
  (bad,) = builder.report.bad
  assert (bad["split"], bad["file"]) == ("train", str(path))
  assert re.search(reason, bad["reason"])
  assert (builder.report.found["train"], builder.report.kept["train"]) == (3, 2)
  names = [record["name"].decode()[:13] for record in examples(builder)]
  assert len(names) == 2
  assert not any(name in str(path) for name in names)


@pytest.mark.parametrize("case", CASES)
def test_every_known_id_passes(tmp_path, case):
  case = CASES[case]
  root = case.write(tmp_path)
  ids = np.full((18, 31), 255 if case.dataset != "synthia" else 0, np.uint16)
  ids.flat[:23] = np.arange(23)
  if case.dataset != "synthia":
    ids.flat[:34] = np.arange(34)
  if "LABELS" in case.label:
    save_png16(root / case.label, np.stack([ids] * 3, -1))
  else:
    save(root / case.label, ids.astype(np.uint8))
  assert run(case.config(tmp_path), tmp_path / "records").report.bad == []


@pytest.mark.parametrize("case", CASES)
def test_an_empty_folder(tmp_path, case):
  case = CASES[case]
  root = case.write(tmp_path)
  for name in (case.image, case.label):
    folder = (root / name).parent
    folder = folder if case.dataset != "cityscapes" else folder.parent
    shutil.rmtree(folder)
    folder.mkdir()
  pattern = str(Path(case.image).parent).split("/aachen")[0]
  with pytest.raises(UserError, match=rf"{root}.*'{pattern}/\{{name\}}"):
    run(case.config(tmp_path), tmp_path / "records")
  assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("case", CASES)
def test_a_frame_without_any_depth_is_kept_and_reported(tmp_path, case):
  case = CASES[case]
  path = case.write(tmp_path) / case.depth_file
  nothing = {"simulator": 65535}.get(case.depth, 0)
  if path.suffix == ".mat":
    scipy.io.savemat(path, {"depth_map": np.zeros((18, 31), np.float32)})
  else:
    save(path, np.full((18, 31), nothing, np.uint16))
  report = run(case.config(tmp_path), tmp_path / "records").report
  assert report.kept["train"] == 3
  (note,) = [note for note in report.notes if "no depth" in note["reason"]]
  assert (note["split"], note["file"]) == ("train", str(path))
  assert re.search(f"train.*{path}.*{note['reason']}", report.lines()[-1])
  assert 0.5 < report.depth_share["train"] < 0.67


@pytest.mark.parametrize("case", ["gta5", "synthia"])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, case):
  case = CASES[case]
  path = case.write(tmp_path) / case.image

  def denied(location, mode):
    if str(location) == str(path):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return open(location, mode)

  monkeypatch.setattr(archives, "open", denied, raising=False)
  with pytest.raises(UserError, match=rf"(?i){path}.*permission"):
    run(case.config(tmp_path), tmp_path / "records")
  report = run(case.config(tmp_path), tmp_path / "records", bad_frames="skip").report
  assert [bad["file"] for bad in report.bad] == [str(path)]


@pytest.mark.parametrize("folder", ["labels", "images/.Trash"])
def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch, folder):
  root = CASES["gta5"].write(tmp_path)
  (root / folder).mkdir(exist_ok=True)

  def denied(path):
    if str(path).endswith(folder):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return real(path)

  real = os.scandir
  monkeypatch.setattr(archives.os, "scandir", denied)
  if folder != "labels":  # a hidden one is not listed
    assert len(examples(run(CASES["gta5"].config(tmp_path), tmp_path / "records"))) == 3
    return
  with pytest.raises(UserError, match=f"{root}/labels.*Permission denied"):
    run(CASES["gta5"].config(tmp_path), tmp_path / "records")


def test_the_report_of_many(tmp_path):
  root = write_any("gta5", tmp_path / "files", frames=4)
  save(root / "labels/00001.png", np.zeros((18, 31), np.uint8))  # all void
  cut_in_half(root / "labels/00002.png")
  config = dataset_config("gta5", root, "disparity")
  lines = run(config, tmp_path / "records", bad_frames="skip").report.lines()
  assert re.match(r"train.*\b3\b.*\b4\b.*\b24966\b.*100\.0%.*depth.*66\.7%", lines[0])
  assert re.search(rf"train.*{root}/labels/00002\.png.*decod", lines[1])
  assert len(lines) == 2


@pytest.mark.parametrize("size", [(18, 31), (7, 9)])
def test_label_pixels_and_shares_are_of_the_files(tmp_path, size):
  root = write_any("gta5", tmp_path / "files", frames=3)
  save(root / "labels/00000.png", np.full((18, 31), 7, np.uint8))  # road
  cut_in_half(root / "labels/00001.png")
  ids = np.full((18, 31), 24, np.uint8)  # person
  ids[:, :15] = 0
  save(root / "labels/00002.png", ids)
  config = dataset_config("gta5", root, "disparity", *size)
  report = run(config, tmp_path / "records", shard_frames=2, bad_frames="skip").report
  expected = np.zeros((2, len(labels.NAMES)), int)
  expected[0, 0], expected[1, 11] = 18 * 31, 18 * 16
  assert report.label_pixels["train"] == expected.tolist()
  assert report.label_share["train"] == {
    "0": 0.5, "11": round(8 / 31, 6), "255": round(7.5 / 31, 6)
  }  # fmt: skip


def test_frames_without_labels_have_no_pixels_of_any_class(tmp_path):
  root = write_train_extra(write_any("cityscapes", tmp_path / "files", train=2))
  config = dataset_config("cityscapes", root, "none", splits=("train", "train_extra"))
  classes = ClassList.from_config({"names": labels.NAMES[:5], "colors": ()})
  report = run(config, tmp_path / "records", classes=classes).report
  assert [len(pixels) for pixels in report.label_pixels["train"]] == [5, 5]
  assert report.label_pixels["train_extra"] == [[0] * 5] * 2
  assert report.label_share["train_extra"] == {"255": 1.0}


def test_a_corrupt_png_is_reported_even_where_its_size_is_right(tmp_path):
  root = CASES["gta5"].write(tmp_path)
  path = root / "images/00001.png"
  contents = bytearray(path.read_bytes())
  contents[len(contents) // 2] ^= 255
  path.write_bytes(contents)
  with pytest.raises((OSError, SyntaxError)), Image.open(path) as image:
    image.load()
  with pytest.raises(UserError, match=f"{path}.*decod"):
    run(CASES["gta5"].config(tmp_path), tmp_path / "records")
