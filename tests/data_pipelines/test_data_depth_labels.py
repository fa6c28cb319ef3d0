"""Files of a network's inverse depth: written, refused where they would mix, and read again."""

import json
import re
import shlex

import numpy as np
import pytest
import tiny_trees
from PIL import Image
from tiny_trees import dataset_config, examples, pixels, run, save

from configs.default import get_config
from corda_jax.depth import encodings
from corda_jax.errors import UserError
from data_pipelines import readers
from data_pipelines.archives import DataFiles
from data_pipelines.depth_labels import MANIFEST, DepthFiles
from data_pipelines.street_world import write as street_world
from tests.data_pipelines.tiny_trees import folder_section

META = {"workdir": "runs/depth", "step": 20, "encoding": "sigmoid", "size": (6, 11)}
SIZE = (6, 11)  # of the written files; another than the images' and the records'


def values(seed):
  return np.random.RandomState(seed).randint(0, 65536, SIZE).astype(np.uint16)


def gta5(root, **more):
  return dataset_config("gta5", root, "none", **more)


def folder_config(root, depth="none", **changes):
  config = dataset_config("folder", root, depth, folder=folder_section(), depth_root="")
  changes = {"train.images": "images/{name}.png", **changes}
  config.folder.update_from_flattened_dict(changes)
  return config


def from_options(config, options):
  """The configuration, with options of the command line."""
  changed = config.copy_and_resolve_references()
  for option in shlex.split(options):
    key, _, value = option.partition("=")
    assert key.startswith("--config.data.target.")
    changed.update_from_flattened_dict({key.removeprefix("--config.data.target."): value})
  return changed


def test_the_file_holds_the_values(tmp_path):
  files = DepthFiles(gta5(tmp_path), folder=str(tmp_path / "new/out"), meta=META)
  every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
  assert files.missing("train", "00001")
  assert not (tmp_path / "new").exists()  # until there is something to write
  files.write("train", "00001", every)
  assert not files.missing("train", "00001")
  assert files.missing("train", "00002")
  path = tmp_path / "new/out/disparity/00001.png"
  read = readers.read_depth_png(str(path))
  assert read.dtype == np.uint16
  np.testing.assert_array_equal(read, every)
  assert sorted(p.name for p in path.parent.iterdir()) == ["00001.png", "network_depth.json"]
  for bad in (every.astype(np.int32), every[0], every[:0]):
    message = re.escape(f"{bad.dtype}{bad.shape}")
    with pytest.raises(ValueError, match=rf"{message}.*uint16.*H, W"):
      files.write("train", "00003", bad)
  with pytest.raises(ValueError, match=r"split.*validation.*train"):
    files.missing("validation", "00001")


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "out").mkdir()
  for root, folder in (("~/out", ""), ("unused", "~/out")):
    path = DepthFiles(gta5(root), folder=folder, meta=META).path("train", "00001")
    assert path == f"{tmp_path}/out/disparity/00001.png"


def test_a_file_appears_whole_and_the_manifest_before_it(tmp_path, monkeypatch):
  """A kill while the first file is written leaves the manifest and nothing that looks whole."""
  files = DepthFiles(gta5(tmp_path), folder=str(tmp_path / "out"), meta=META)

  def stop(image, file, **options):
    file.write_bytes(b"half of it")
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(Image.Image, "save", stop)
    with pytest.raises(KeyboardInterrupt):
      files.write("train", "00001", values(0))
  assert json.loads((tmp_path / "out" / MANIFEST).read_text())["step"] == 20
  assert DataFiles(str(tmp_path / "out")).find("disparity/", ".png") == {}
  assert files.missing("train", "00001")
  again = DepthFiles(gta5(tmp_path), folder=str(tmp_path / "out"), meta=META)
  again.write("train", "00001", values(0))
  assert not again.missing("train", "00001")


def test_a_stopped_run_goes_on_and_another_network_is_refused(tmp_path):
  out = str(tmp_path / "out")
  DepthFiles(gta5(tmp_path), folder=out, meta=META).write("train", "1", values(0))
  again = DepthFiles(gta5(tmp_path), folder=out, meta=META)  # a tuple is equal to JSON's list
  assert not again.missing("train", "1")
  again.write("train", "2", values(1))
  with pytest.raises(UserError, match=r"step.*20.*30.*more.*None.*1"):
    DepthFiles(gta5(tmp_path), folder=out, meta={**META, "step": 30, "more": 1})
  shorter = {key: value for key, value in META.items() if key != "encoding"}
  with pytest.raises(UserError, match=r"encoding.*sigmoid.*None") as error:
    DepthFiles(gta5(tmp_path), folder=out, meta=shorter)
  assert "step" not in str(error.value)
  assert "\n" not in str(error.value)
  (tmp_path / "out" / MANIFEST).write_text("{")
  with pytest.raises(UserError, match=rf"out/{MANIFEST}.*line 1 column 2"):
    DepthFiles(gta5(tmp_path), folder=out, meta=META)


def test_two_networks_that_begin_at_once_do_not_mix(tmp_path):
  first, second, other = (
    DepthFiles(gta5(tmp_path), folder=str(tmp_path / "out"), meta=meta)
    for meta in (META, META, {**META, "step": 30})
  )
  first.write("train", "1", values(0))
  second.write("train", "2", values(0))
  with pytest.raises(UserError, match=rf"out/{MANIFEST}.*step.*20.*30"):
    other.write("train", "3", values(0))


@pytest.mark.parametrize("dataset", ["gta5", "cityscapes"])
def test_files_of_unknown_origin_are_left_alone(tmp_path, dataset):
  root = tiny_trees.write_any(dataset, tmp_path / "files")
  with pytest.raises(UserError, match=rf"{root}.*\.png.*{MANIFEST}"):
    DepthFiles(dataset_config(dataset, root, "none"), folder="", meta=META)


def test_other_depth_of_the_data_set_does_not_matter(tmp_path):
  """The official disparity of Cityscapes is stored in the same folders."""
  root = tiny_trees.write_cityscapes(tmp_path / "files", 1, 1)
  for path in (root / "disparity").rglob("*.png"):
    path.rename(path.with_name(path.name.replace("leftImg8bit", "disparity")))
  name = "aachen_000000_000019"
  files = DepthFiles(dataset_config("cityscapes", root, "none"), folder="", meta=META)
  files.write("train", name, values(0))
  assert (root / f"disparity/train/aachen/{name}_leftImg8bit.png").exists()
  with pytest.raises(UserError, match=r"00001.*CITY_SSSSSS_FFFFFF"):
    files.missing("train", "00001")


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"file/out.*Not a directory"):
    DepthFiles(gta5(tmp_path), folder=str(tmp_path / "file/out"), meta=META)
  (tmp_path / "out/disparity/1.png").mkdir(parents=True)
  files = DepthFiles(gta5(tmp_path, depth_root=""), folder=str(tmp_path / "out"), meta=META)
  with pytest.raises(UserError, match=r"disparity/1\.png.*Is a directory"):
    files.write("train", "1", values(0))
  assert [p.name for p in (tmp_path / "out/disparity").iterdir() if p.name[0] == "."] == []


def write_all(config, builder, folder):
  """A file for every frame of the records; split, name → its values."""
  files = DepthFiles(config, folder=str(folder), meta=META)
  written = {}
  for split in builder.info.splits:
    for record in examples(builder, split):
      key = (split, record["name"].decode())
      assert files.missing(*key)
      written[key] = values(len(written))
      files.write(*key, written[key])
  return files, written


def in_layout(layout, root):
  """A tiny data set in a layout, and its configuration without depth."""
  if layout == "folder":
    for seed, name in enumerate(("a/1", "a/2", "b/1")):
      save(root / f"images/{name}.png", pixels(seed).rgb)
      save(root / f"val/{name}.png", pixels(10 + seed).rgb)
    return folder_config(root, **{"validation.images": "val/{name}.png"})
  if layout == "nested synthia":
    tiny_trees.write_synthia(root / "RAND_CITYSCAPES")
    return dataset_config("synthia", root, "none", depth_root="")
  tiny_trees.write_any(layout, root)
  if layout == "cityscapes":
    tiny_trees.write_train_extra(root)
    splits = ("train", "train_extra")
    return dataset_config(layout, root, "none", depth_root="", splits=splits)
  return dataset_config(layout, root, "none", depth_root="")


def resized(layout, inverse):
  """Inverse depth of a file, as records of 24x16 hold it."""
  if layout != "cityscapes":  # bilinear; Pillow's is the same where it enlarges
    return np.asarray(Image.fromarray(inverse).resize((24, 16), Image.Resampling.BILINEAR))
  rows, columns = ((np.arange(n) * m // n) for n, m in zip((18, 31), SIZE, strict=True))
  image = Image.fromarray(inverse[rows][:, columns])
  return np.asarray(image.resize((24, 16), Image.Resampling.NEAREST))


@pytest.mark.parametrize("own_root", [False, True])
@pytest.mark.parametrize("layout", ["gta5", "synthia", "nested synthia", "cityscapes", "folder"])
def test_written_files_are_read_with_the_options_of_the_hint(tmp_path, layout, own_root):
  config = in_layout(layout, tmp_path / "files")
  if own_root and layout in ("gta5", "cityscapes"):
    for path in (tmp_path / "files/disparity").rglob("*.png"):
      path.unlink()
  builder = run(config, tmp_path / "records")
  files, written = write_all(config, builder, "" if own_root else tmp_path / "out")
  reading = from_options(config, files.hint())
  again = run(reading, tmp_path / "records")
  assert again.data_path != builder.data_path
  count = 0
  for split in again.info.splits:
    for record in examples(again, split):
      inverse = written[split, record["name"].decode()] / np.float32(256) + np.float32(1)
      np.testing.assert_allclose(record["inverse_depth"], resized(layout, inverse), rtol=1e-5)
      count += 1
  assert count == len(written)


def test_hints():
  def hint(config, folder="", domain="target"):
    return DepthFiles(config, folder=folder, meta=META).hint(domain)

  gta = gta5("nothing")
  assert hint(gta, "no/such folder", "source") == (
    "--config.data.source.depth=disparity '--config.data.source.depth_root=no/such folder'"
  )
  cityscapes = dataset_config("cityscapes", "nothing", "none")
  assert hint(cityscapes, "out") == (
    "--config.data.target.depth=mono --config.data.target.depth_root=out"
  )
  measured = folder_config("nothing", "metres_npy", **{"train.depth": "depth/{name}.npy"})
  assert hint(measured, "out").endswith(
    "depth=inverse_png16 --config.data.target.depth_root=out "
    "'--config.data.target.folder.train.depth=disparity/train/{name}.png'"
  )
  own = folder_config("nothing", "inverse_png16", **{"train.depth": "near/{name}.png"})
  assert "folder" not in hint(own, "out")
  path = DepthFiles(own, folder="out", meta=META).path("train", "a/1")
  assert path == "out/near/a/1.png"


def test_the_hint_takes_back_a_depth_root(tmp_path):
  config = gta5(tmp_path, depth_root="elsewhere")
  assert DepthFiles(config, folder="", meta=META).hint() == (
    "--config.data.target.depth=disparity --config.data.target.depth_root="
  )


def test_street_world_in_the_layout_of_cityscapes(tmp_path):
  """Values of a network, written for train and validation, are the records' inverse depth."""
  root = street_world.write_cityscapes(
    tmp_path / "world", train_frames=2, validation_frames=1, seed=3, height=32, width=64,
    processes=1, progress=False,
  )  # fmt: skip
  config = dataset_config("cityscapes", root, "none", 16, 32, depth_root="")
  files = DepthFiles(config, folder=str(tmp_path / "out"), meta=META)
  sigmoid = {}
  for split in ("train", "validation"):
    for record in examples(run(config, tmp_path / "records", split=split), split):
      name = record["name"].decode()
      sigmoid[name] = np.random.RandomState(len(sigmoid)).rand(16, 32)
      files.write(split, name, encodings.from_sigmoid(sigmoid[name]))
  assert len(sigmoid) == 3
  for split in ("train", "validation"):
    again = run(from_options(config, files.hint()), tmp_path / "records", split=split)
    assert again.report.depth_share == {split: 1.0}
    for record in examples(again, split):
      expected = 65535 / 256 * sigmoid[record["name"].decode()] + 1
      # From 16x32 to the labels' 32x64 and back, each value is found again; half a step of 1/256.
      np.testing.assert_allclose(record["inverse_depth"], expected, rtol=0, atol=0.51 / 256)


def test_config_dict_of_the_default_configuration():
  """The configuration that jobs hand over has all that is read here."""
  hint = DepthFiles(get_config().data.target, folder="out", meta={}).hint()
  assert hint == "--config.data.target.depth=mono --config.data.target.depth_root=out"
